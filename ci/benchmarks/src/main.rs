//! `ci/bench NAME [--json FILE] [--quick]`: measures one thing against its marks and prints a table. Speed of what others share (`allocator`,
//! `kernel`, `services`) exits 0 whether the marks hold or not; `containers` and `leak` fail when one is missed. `--quick`: a small run.

mod allocator;
#[cfg(feature = "kernel")]
mod containers;
mod figures;
#[cfg(feature = "kernel")]
mod kernel;
#[cfg(feature = "kernel")]
mod leak;
#[cfg(feature = "kernel")]
mod node;
#[cfg(feature = "kernel")]
mod services;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use figures::Figures;

const USAGE: &str = "usage: ci/bench NAME [--json FILE] [--quick] [--count N]

  allocator    what a cycle of the allocator costs, in memory
  kernel       tasks a second, latency and memory of a master with up to 10,000 simulated agents
  containers   a launch through the real agent beside unshare, crun, runc and docker run; rates; memory of 1,000 containers
  services     the service scheduler: instances a second, planning, 10,000 apps with 100,000 instances, 1,000 listeners
  leak         random launches, kills and crashes of agent, supervisor, init and task: what is left afterwards

--quick: a small run (of containers: 50; of leak: 100 deeds). --count: containers at once, 1,000 unless told;
deeds of leak, 2,000; apps of services, 10,000.
containers and leak need root and the built program (PLENUM), which ci/bench builds; they fail when a mark is missed.";

struct Arguments {
    name: String,
    json: Option<String>,
    quick: bool,
    count: Option<u32>,
}

fn parse(arguments: Vec<String>) -> Result<Arguments> {
    let mut arguments = arguments.into_iter();
    let mut parsed = Arguments { name: String::new(), json: None, quick: false, count: None };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => parsed.json = Some(arguments.next().context("--json needs a file")?),
            "--count" => parsed.count = Some(arguments.next().context("--count needs a number")?.parse()?),
            "--quick" => parsed.quick = true,
            _ if parsed.name.is_empty() && !argument.starts_with('-') => parsed.name = argument,
            _ => bail!("unexpected argument {argument}\n{USAGE}"),
        }
    }
    Ok(parsed)
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    #[cfg(feature = "kernel")]
    let roles = [kernel::role, services::role, containers::role];
    #[cfg(feature = "kernel")]
    if let Some(ended) = roles.iter().find_map(|role| role(&arguments)) {
        return ended.map(|()| ExitCode::SUCCESS);
    }
    let arguments = parse(arguments)?;
    let strict = matches!(arguments.name.as_str(), "containers" | "leak");
    let figures: Figures = match arguments.name.as_str() {
        "allocator" => allocator::run()?,
        #[cfg(feature = "kernel")]
        "kernel" => kernel::run(arguments.quick)?,
        #[cfg(feature = "kernel")]
        "containers" => containers::run(arguments.quick, arguments.count)?,
        #[cfg(feature = "kernel")]
        "services" => services::run(arguments.quick, arguments.count)?,
        #[cfg(feature = "kernel")]
        "leak" => leak::run(arguments.count.unwrap_or(if arguments.quick { 100 } else { 2_000 }))?,
        "" => bail!("{USAGE}"),
        other => bail!("there is no measurement {other}\n{USAGE}"),
    };
    figures.print();
    if let Some(file) = arguments.json {
        figures.write_json(&file)?;
    }
    Ok(if strict && figures.missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

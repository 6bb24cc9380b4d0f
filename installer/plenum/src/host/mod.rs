//! `plenum host`: what runs on a host of a fleet, started by the installer over SSH or by hand; and `plenum join`, the same without SSH.
//! Everything is in `plenum-host`; here are the words of the command line.

mod join;
mod product;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plenum_base::places::Instance;
use plenum_host::events::{HostError, Report};
use plenum_plan::spec::{Apply, Event};

pub use join::{Join, run as join};
pub use product::Roles;

/// What is read from standard input at most.
const MOST: u64 = 4 << 20;

/// What is done on this host.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Print what this machine is and has (JSON)
    Facts {
        /// Try one feature of the Linux kernel: the exit code is the answer.
        #[arg(long, hide = true)]
        probe: Option<String>,
    },
    /// Find out whether hosts reach each other: one listens, the others dial (JSON)
    Check(Check),
    /// Make this host what the document on standard input says (JSON lines)
    Apply,
    /// Take back what apply made (JSON lines)
    Remove {
        /// The cluster.
        #[arg(long, env = "PLENUM_INSTANCE", default_value = "default")]
        instance: Instance,
        /// Remove the host's state too: then the machine is as it was before.
        #[arg(long)]
        purge: bool,
    },
}

/// Either half of a check.
#[derive(clap::Args, Debug)]
pub struct Check {
    /// Open the ports that nobody listens on, print which, and answer for so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "address", conflicts_with = "dial")]
    listen: Option<u64>,
    /// The address to listen on.
    #[arg(long)]
    address: Option<IpAddr>,
    /// The ports to listen on.
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
    /// Call these addresses and print the answers.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    dial: Vec<SocketAddr>,
    /// Call these places by name and print the answers.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with_all = ["listen", "dial"])]
    reach: Vec<String>,
    /// How long a call may take.
    #[arg(long, default_value_t = 2000)]
    deadline_ms: u64,
}

/// Carries a verb out. The exit code is 0 where all went well.
pub fn run(verb: &Verb) -> ExitCode {
    let done = match verb {
        Verb::Facts { probe: Some(name) } => return ExitCode::from(plenum_host::facts::try_one(name)),
        Verb::Facts { probe: None } => facts(),
        Verb::Check(check) => run_check(check),
        Verb::Apply => {
            return reported(json_line, |report| {
                let apply = read().map_err(|error| HostError::Spec(format!("{error:#}")))?;
                plenum_host::apply::apply(&apply, &Roles, report)
            });
        }
        Verb::Remove { instance, purge } => {
            return reported(json_line, |report| {
                plenum_host::remove::remove(instance, *purge, &Roles, report)
            });
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plenum host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` with its lines going to `write`, and ends with the last one.
fn reported(
    mut write: impl FnMut(&Event),
    work: impl FnOnce(&mut Report<'_>) -> Result<(String, String), HostError>,
) -> ExitCode {
    let mut report = Report::new(&mut write);
    let outcome = work(&mut report);
    let code = if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    report.end(outcome);
    code
}

/// A line that cannot be written is lost: the installer's connection was cut, and the work goes on to its end.
fn json_line(event: &Event) {
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, event);
    let _ = out.write_all(b"\n").and_then(|()| out.flush());
}

fn read() -> Result<Apply> {
    let mut text = String::new();
    std::io::stdin().lock().take(MOST).read_to_string(&mut text).context("standard input")?;
    serde_json::from_str(&text).context("what came on standard input is not what `plenum host apply` takes")
}

fn facts() -> Result<()> {
    println!("{}", serde_json::to_string(&plenum_host::facts::gather())?);
    Ok(())
}

fn run_check(check: &Check) -> Result<()> {
    if let (Some(seconds), Some(address)) = (check.listen, check.address) {
        let time = Duration::from_secs(seconds.min(600));
        plenum_host::check::listen(address, &check.ports, time, &mut std::io::stdout())?;
        return Ok(());
    }
    let deadline = Duration::from_millis(check.deadline_ms.max(1));
    if !check.reach.is_empty() {
        println!("{}", serde_json::to_string(&plenum_host::check::reach(&check.reach, deadline))?);
        return Ok(());
    }
    if check.dial.is_empty() {
        bail!(
            "say --listen SECONDS --address ADDRESS --ports 5050,5051 or --dial 10.0.0.1:5050,10.0.0.2:5050"
        );
    }
    let answers = plenum_host::check::dial(&check.dial, deadline);
    println!("{}", serde_json::to_string(&answers)?);
    Ok(())
}

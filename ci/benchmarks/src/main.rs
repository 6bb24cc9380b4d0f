//! `ci/bench NAME [--json FILE] [--quick]`: measures one thing against its marks, prints a table, and exits 0
//! whether the marks hold or not. `--quick`: of the kernel, only a small run, to see that it works.

mod allocator;
mod figures;
#[cfg(feature = "kernel")]
mod kernel;

use anyhow::{Context, Result, bail};
use figures::Figures;

const NAMES: &str = if cfg!(feature = "kernel") { "allocator, kernel" } else { "allocator" };

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    #[cfg(feature = "kernel")]
    if let Some(ended) = kernel::role(&args) {
        return ended;
    }
    let mut args = args.into_iter();
    let (mut name, mut json, mut quick) = (None, None, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = Some(args.next().context("--json needs a file")?),
            "--quick" => quick = true,
            _ if name.is_none() && !arg.starts_with('-') => name = Some(arg),
            _ => bail!(
                "unexpected argument {arg}; usage: ci/bench NAME [--json FILE] [--quick], NAME one of {NAMES}"
            ),
        }
    }
    let figures: Figures = match name.as_deref() {
        Some("allocator") => allocator::run()?,
        #[cfg(feature = "kernel")]
        Some("kernel") => kernel::run(quick)?,
        Some(other) => bail!("there is no measurement {other}; there are {NAMES}"),
        None => bail!("usage: ci/bench NAME [--json FILE] [--quick], NAME one of {NAMES}"),
    };
    figures.print();
    if let Some(file) = json {
        figures.write_json(&file)?;
    }
    Ok(())
}

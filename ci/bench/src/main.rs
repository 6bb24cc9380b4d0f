//! `plenum-bench NAME [--json FILE]`: measures one thing against its marks, prints a table, and exits 0
//! whether the marks hold or not.

mod allocator;
mod figures;

use anyhow::{Context, Result, bail};
use figures::Figures;

const NAMES: &str = "allocator";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut name, mut json) = (None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = Some(args.next().context("--json needs a file")?),
            _ if name.is_none() && !arg.starts_with('-') => name = Some(arg),
            _ => bail!(
                "unexpected argument {arg}; usage: plenum-bench NAME [--json FILE], NAME one of {NAMES}"
            ),
        }
    }
    let figures: Figures = match name.as_deref() {
        Some("allocator") => allocator::run()?,
        Some(other) => bail!("there is no measurement {other}; there are {NAMES}"),
        None => bail!("usage: plenum-bench NAME [--json FILE], NAME one of {NAMES}"),
    };
    figures.print();
    if let Some(file) = json {
        figures.write_json(&file)?;
    }
    Ok(())
}

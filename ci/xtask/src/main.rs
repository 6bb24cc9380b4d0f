//! Developer commands: `cargo xtask <command>`. Each is a module; this file only dispatches.

mod build;
mod docs;
mod edges;
mod metadata;

use anyhow::{Result, bail};
use build::{Linking, Profile};

const USAGE: &str = "usage: cargo xtask <command>

  build [--release] [--static]
                      build the shim, then the `plenum` binary that embeds it; static: for hosts of any distribution
  shim                build the shim alone and print its path
  edges               check that every crate edge obeys the plan of the house
  docs                check that the map of the code names every crate and no other
  lint                edges, docs, rustfmt and clippy with warnings as errors";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build", options @ ..] => {
            let mut how = (Profile::Dev, Linking::Dynamic);
            for option in options {
                match *option {
                    "--release" => how.0 = Profile::Release,
                    "--static" => how.1 = Linking::Static,
                    _ => bail!("{USAGE}"),
                }
            }
            build::binary(how.0, how.1).map(|path| println!("{}", path.display()))
        }
        ["shim"] => build::shim().map(|path| println!("{}", path.display())),
        ["edges"] => edges::check(),
        ["docs"] => docs::check(),
        ["lint"] => {
            edges::check()?;
            docs::check()?;
            build::cargo(&["fmt", "--all", "--check"])?;
            build::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
        }
        _ => bail!("{USAGE}"),
    }
}

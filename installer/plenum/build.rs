//! Takes the shim that `cargo xtask build` compiled first into the program. A build without it works, but its agent starts no containers and
//! says so; stable Cargo has no way to ask for another package's program.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=PLENUM_SHIM");
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("shim");
    match std::env::var_os("PLENUM_SHIM") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", PathBuf::from(&path).display());
            std::fs::copy(&path, target).map_err(|error| format!("PLENUM_SHIM {path:?}: {error}"))?;
        }
        None => std::fs::write(target, [])?,
    }
    Ok(())
}

//! Builds the binary in the order that stable Cargo cannot express: the shim first, then what embeds it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::metadata::root;

/// Which of Cargo's profiles the binary is built with.
#[derive(Clone, Copy)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// What is shipped.
    Release,
}

/// Runs Cargo at the root and fails with it.
pub fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.current_dir(root()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the shim and returns its path.
pub fn shim() -> Result<PathBuf> {
    cargo(&["build", "--quiet", "--package", "plenum-shim", "--profile", "shim"])?;
    Ok(target().join("shim/plenum-shim"))
}

/// Builds the shim and the binary, and returns the binary's path.
pub fn binary(profile: Profile) -> Result<PathBuf> {
    let shim = shim()?;
    let (folder, flags): (_, &[&str]) = match profile {
        Profile::Dev => ("debug", &[]),
        Profile::Release => ("release", &["--release"]),
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--package", "plenum"]).args(flags).env("PLENUM_SHIM", &shim);
    run(&mut command)?;
    Ok(target().join(folder).join("plenum"))
}

//! Builds the binary in the order that stable Cargo cannot express: the shim first, then what embeds it.

use std::path::{Path, PathBuf};
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
    run(&mut cargo_command(args))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.current_dir(root()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// How a program is linked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    /// Against the C library of the machine that it runs on.
    Dynamic,
    /// With everything in it, stripped: it runs on any distribution.
    Static,
}

impl Linking {
    /// What Cargo is told, and the folder in the target folder that the result is in.
    fn apply(self, command: &mut Command) -> PathBuf {
        if self == Self::Dynamic {
            return target();
        }
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        // With a target named, the flags reach neither build scripts nor macros, which cannot be linked so.
        command
            .args(["--target", &triple])
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
        target().join(triple)
    }
}

fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Builds the shim and returns its path. It is always static: it starts sooner, and two of it in each container, supervisor and init, have
/// fewer pages of their own.
pub fn shim() -> Result<PathBuf> {
    let mut command = cargo_command(&["build", "--quiet", "--package", "plenum-shim", "--profile", "shim"]);
    let path = Linking::Static.apply(&mut command).join("shim/plenum-shim");
    run(&mut command)?;
    check_static(&path)?;
    Ok(path)
}

/// Builds the shim and the binary, and returns the binary's path.
pub fn binary(profile: Profile, linking: Linking) -> Result<PathBuf> {
    let shim = shim()?;
    let (folder, flags): (_, &[&str]) = match profile {
        Profile::Dev => ("debug", &[]),
        Profile::Release => ("release", &["--release"]),
    };
    let mut command = cargo_command(&["build", "--package", "plenum"]);
    command.args(flags).env("PLENUM_SHIM", &shim);
    let binary = linking.apply(&mut command).join(folder).join("plenum");
    run(&mut command)?;
    if linking == Linking::Static {
        check_static(&binary)?;
    }
    Ok(binary)
}

/// Fails for a program that needs an interpreter or libraries of the machine it runs on.
fn check_static(program: &Path) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let needs = interpreter(&bytes).with_context(|| format!("{} is no ELF program", program.display()))?;
    ensure!(!needs, "{} is not static: it asks for an interpreter", program.display());
    Ok(())
}

/// Whether a 64-bit little-endian ELF file has a program header that names an interpreter. None: it is no such file.
fn interpreter(bytes: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let at = |from: usize, size: usize| bytes.get(from..from.checked_add(size)?);
    let number = |from: usize, size: usize| {
        let field = at(from, size)?;
        Some(field.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if at(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let from = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        if number(from, 4)? == u64::from(INTERPRETER) {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::interpreter;

    #[test]
    fn a_program_that_asks_for_an_interpreter_is_told_apart() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(interpreter(&own), Some(!cfg!(target_feature = "crt-static")));
        assert_eq!(interpreter(b"#!/bin/sh"), None);
        assert_eq!(interpreter(&own[..40]), None, "cut off");
    }
}

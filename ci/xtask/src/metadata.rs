//! What `cargo metadata` says of the workspace: its crates, their folders and the edges between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One crate of the workspace.
pub struct Crate {
    /// Folder relative to the root, such as `kernel/api`.
    pub folder: String,
    /// Names of the workspace crates it depends on, tests left out.
    pub edges: Vec<String>,
}

/// The root of the checkout that cargo runs this for; not the one it was compiled in, as checkouts may share what is compiled.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(&here).to_path_buf()
}

/// The crates by name.
pub fn crates() -> Result<BTreeMap<String, Crate>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root())
        .output()
        .context("cargo metadata did not start")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    packages.iter().map(|package| read(package, &names)).collect()
}

fn read(package: &Value, names: &[&str]) -> Result<(String, Crate)> {
    let name = package["name"].as_str().context("a package without a name")?;
    let manifest = Path::new(package["manifest_path"].as_str().context("no manifest path")?);
    let folder = manifest.parent().context("manifest without a folder")?;
    let folder = folder.strip_prefix(root()).context("a crate outside the workspace")?;
    let edges = package["dependencies"]
        .as_array()
        .context("no dependencies")?
        .iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|dependency| names.contains(dependency))
        .map(str::to_owned)
        .collect();
    Ok((name.to_owned(), Crate { folder: folder.to_string_lossy().into_owned(), edges }))
}

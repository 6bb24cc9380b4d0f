//! Packs `packages/`, the catalog that ships with the distribution, into one repository document that the program embeds.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../packages");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut packages = Vec::new();
    for letter in folders(&root)? {
        for name in folders(&letter)? {
            for release in folders(&name)? {
                packages.push(pack(&release).map_err(|error| format!("{}: {error}", release.display()))?);
            }
        }
    }
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("packages.json");
    fs::write(target, serde_json::to_vec(&json!({ "packages": packages }))?)?;
    Ok(())
}

/// The folders inside a folder, in order, so that the result is always the same.
fn folders(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))? {
        let path = entry?.path();
        println!("cargo::rerun-if-changed={}", path.display());
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One release: its folder's name is the release's number.
fn pack(folder: &Path) -> Result<Value, Failure> {
    let read = |name: &str| -> Result<Option<Value>, Failure> {
        let path = folder.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        Ok(Some(serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?))
    };
    let mut package = read("package.json")?.ok_or("no package.json")?;
    let release = folder.file_name().and_then(|name| name.to_str()).ok_or("no release number")?;
    package["releaseVersion"] = json!(release.parse::<u64>()?);
    for (field, file) in
        [("config", "config.json"), ("resource", "resource.json"), ("command", "command.json")]
    {
        if let Some(value) = read(file)? {
            package[field] = value;
        }
    }
    let template = folder.join("marathon.json.mustache");
    println!("cargo::rerun-if-changed={}", template.display());
    if template.exists() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(fs::read(&template)?);
        package["marathon"] = json!({ "v2AppMustacheTemplate": encoded });
    }
    Ok(package)
}

//! Turns `proto/**.proto` into Rust types that speak protobuf and Mesos' JSON, and into the schema tables that the
//! codec checks messages with.

#[path = "build/json.rs"]
mod json;
#[path = "build/names.rs"]
mod names;
#[path = "build/schema.rs"]
mod schema;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed=PROTOC");
    require_protoc()?;

    let mut files = Vec::new();
    find_protos(root, &mut files)?;
    files.sort();

    let mut config = prost_build::Config::new();
    config.compile_well_known_types();
    config.btree_map(["."]);
    config.bytes(["."]);
    // Secrets do not show up in logs that print a message; their Debug is written by hand.
    config.skip_debug([".mesos.v1.Credential", ".mesos.v1.Secret.Value"]);
    // Written by hand for the sake of maps; see src/scalar.rs.
    config.extern_path(".mesos.v1.Value.Scalar", "crate::scalar::Scalar");
    let set = config.load_fds(&files, &[root])?;
    json::add_attributes(&mut config, &set)?;
    let tables = schema::tables(&set);
    config.compile_fds(set)?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("schema.rs"), tables)?;
    show_scalar(&out.join("mesos.v1.rs"))?;
    Ok(())
}

/// Puts the hand-written `Scalar` where the generated one would be.
fn show_scalar(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let code = fs::read_to_string(path)?;
    let place = "pub mod value {";
    if code.matches(place).count() != 1 {
        return Err(format!("`{place}` is not in the generated code exactly once").into());
    }
    let scalar = format!("{place}\n    pub use crate::scalar::Scalar;");
    fs::write(path, code.replace(place, &scalar))?;
    Ok(())
}

/// Fails early and by name when the compiler of the `.proto` files is missing.
fn require_protoc() -> Result<(), String> {
    let protoc = env::var_os("PROTOC").unwrap_or_else(|| "protoc".into());
    match Command::new(&protoc).arg("--version").output() {
        Ok(out) if out.status.success() => Ok(()),
        _ => Err(format!(
            "cannot run {}: install the Debian package `protobuf-compiler`, or set PROTOC to a protoc program",
            protoc.to_string_lossy()
        )),
    }
}

fn find_protos(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

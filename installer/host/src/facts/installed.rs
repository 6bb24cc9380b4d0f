//! Clusters of ours that the host is in, also half, and what earlier installations left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plenum_base::places::Instance;
use plenum_plan::facts::{Installed, Known, Leftover, Unit};
use serde_json::Value;

use super::text;
use crate::manifest::Manifest;
use crate::names::{LINK, Names, PROGRAMS, UNITS, USER, bases};
use crate::run::run;
use crate::systemd;

const STATE: &str = "/var/lib/plenum";
/// What each ext4 has at its top: a disk that is mounted for us is no leftover.
const LOST: &str = "lost+found";

/// Every cluster that has a folder here.
pub fn all() -> Vec<Installed> {
    let mut instances: Vec<Instance> = fs::read_dir(STATE)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    instances.sort();
    instances.iter().filter_map(installed).collect()
}

/// What is known of one cluster here.
#[must_use]
pub fn installed(instance: &Instance) -> Option<Installed> {
    let names = Names::of(instance);
    let places = names.places();
    let manifest = Manifest::read(&names.manifest()).ok().flatten();
    let table = bases().instances();
    let single =
        manifest.is_none() && table.is_ok_and(|table| table.iter().any(|(name, _)| name == instance));
    if manifest.is_none() && !single {
        return None;
    }
    let manifest = manifest.unwrap_or_default();
    let spec = manifest.spec;
    let units = systemd::states(
        &manifest.units.iter().filter(|name| systemd::runs(name)).cloned().collect::<Vec<_>>(),
    );
    let mut problems: Vec<String> = units
        .iter()
        .filter(|unit| unit.active != "active")
        .map(|unit| format!("{} is {}", unit.name, unit.active))
        .collect();
    if !single && manifest.digest.is_none() {
        problems.push("the host is half made: `apply` did not reach its end".to_owned());
    }
    Some(Installed {
        instance: instance.clone(),
        authority: authority(&places.ca()),
        version: manifest.version,
        name: spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
        address: spec.as_ref().map(|spec| spec.address),
        kinds: spec.as_ref().map(|spec| spec.kinds.clone()).unwrap_or_default(),
        digest: manifest.digest,
        masters: known_masters(&names),
        shared: spec.map(|spec| spec.shared),
        healthy: !single && problems.is_empty(),
        units: units.into_iter().map(|unit| Unit { name: unit.name, state: unit.active }).collect(),
        problems,
        single,
    })
}

/// SHA-256 of the CA certificate's DER.
fn authority(path: &Path) -> Option<String> {
    use rustls_pki_types::pem::PemObject as _;
    let certificate = rustls_pki_types::CertificateDer::from_pem_slice(&fs::read(path).ok()?).ok()?;
    Some(plenum_base::pki::fingerprint(&certificate))
}

/// The masters in the newest policy snapshot on disk.
fn known_masters(names: &Names) -> Vec<Known> {
    let places = names.places();
    let files = [places.policy(), crate::layout::followed_policy(&places)];
    let snapshots = files.iter().filter_map(|path| {
        let parsed: Value = serde_json::from_str(&text(path)).ok()?;
        masters_in(&parsed)
    });
    snapshots.max_by_key(|(number, _)| *number).map(|(_, masters)| masters).unwrap_or_default()
}

/// The snapshot's form is signed: its body is looked for wherever it is.
fn masters_in(value: &Value) -> Option<(u64, Vec<Known>)> {
    if let Some(cluster) = value.get("cluster").filter(|cluster| cluster.is_object()) {
        let masters = cluster.get("masters")?.as_array()?;
        let known = |row: &Value| {
            let text = |key: &str| row.get(key).and_then(Value::as_str);
            Some(Known { name: text("name")?.to_owned(), address: text("address")?.parse().ok()? })
        };
        let number = cluster.get("number").and_then(Value::as_u64).unwrap_or(0);
        return Some((number, masters.iter().filter_map(known).collect()));
    }
    match value {
        Value::Object(fields) => fields.values().find_map(masters_in),
        Value::String(inner) => {
            serde_json::from_str::<Value>(inner).ok().filter(Value::is_object).as_ref().and_then(masters_in)
        }
        _ => None,
    }
}

/// Whether a folder is there and not empty.
fn holds_something(folder: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| entry.file_name() != LOST)
}

/// What nobody in `known` has.
pub fn leftovers(known: &[Installed]) -> Vec<Leftover> {
    let mut found = Vec::new();
    let mut add = |kind: &str, name: String| found.push(Leftover { kind: kind.to_owned(), name });
    let ours = |name: &str| known.iter().any(|installed| installed.instance.as_str() == name);
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !ours(&name) && name != LOST {
            add("folder", entry.path().display().to_string());
        }
    }
    let prefixes: Vec<String> = known
        .iter()
        .filter(|installed| !installed.single)
        .map(|installed| Names::of(&installed.instance).target().trim_end_matches(".target").to_owned())
        .collect();
    let fleet = !prefixes.is_empty();
    for entry in fs::read_dir(UNITS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.starts_with("plenum-") || name.starts_with("plenum."))
            && !prefixes.iter().any(|p| name.starts_with(p))
        {
            add("unit", name);
        }
    }
    if !fleet {
        for path in
            [PROGRAMS, "/run/plenum"].into_iter().filter(|path| known.is_empty() && holds_something(path))
        {
            add("folder", path.to_owned());
        }
        if fs::symlink_metadata(LINK).is_ok_and(|meta| meta.is_symlink()) {
            add("link", LINK.to_owned());
        }
        if text("/etc/passwd").lines().any(|line| line.starts_with(&format!("{USER}:"))) {
            add("user", USER.to_owned());
        }
    }
    for line in run("nft", &["list", "tables"], Duration::from_secs(5)).out.lines() {
        let table = line.trim().trim_start_matches("table ");
        if let Some(instance) = table.split(' ').nth(1).and_then(|name| name.strip_prefix("plenum_"))
            && !known.iter().any(|installed| installed.instance.as_str().replace('-', "_") == instance)
        {
            add("table", table.to_owned());
        }
    }
    if Path::new("/opt/mesosphere").exists() || Path::new("/etc/systemd/system/dcos.target").exists() {
        add("dcos", "/opt/mesosphere".to_owned());
    }
    for unit in ["mesos-master.service", "mesos-slave.service", "mesos-agent.service"] {
        if ["/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .any(|folder| Path::new(folder).join(unit).exists())
        {
            add("mesos", unit.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_found_in_a_snapshot_signed_or_not() {
        let body = r#"{"number":9,"cluster":{"number":2,"masters":[{"name":"m1","address":"10.0.0.1"},{"name":1}]}}"#;
        for text in [body.to_owned(), serde_json::json!({ "body": body, "signature": "x" }).to_string()] {
            let parsed: Value = serde_json::from_str(&text).unwrap();
            let (number, masters) = masters_in(&parsed).unwrap();
            assert_eq!((number, masters.len(), masters[0].name.as_str()), (2, 1, "m1"));
        }
        assert!(masters_in(&serde_json::json!({"a": [1, "x"]})).is_none());
    }
}

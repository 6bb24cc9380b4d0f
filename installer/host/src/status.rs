//! How a fleet's host is: what `plenum status` shows there.

use plenum_base::places::Instance;
use serde::Serialize;

use crate::events::HostError;
use crate::manifest::Manifest;
use crate::names::Names;
use crate::systemd;

/// A host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    /// The cluster.
    pub instance: String,
    /// The host's name there.
    pub name: String,
    /// Its address.
    pub address: String,
    /// What it is for.
    pub kinds: Vec<String>,
    /// The release.
    pub version: String,
    /// Whether everything that should run runs.
    pub healthy: bool,
    /// Its services.
    pub units: Vec<UnitStatus>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitStatus {
    /// Its unit.
    pub unit: String,
    /// `active`, `activating`, `failed`…
    pub condition: String,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// What it says of itself.
    pub status: String,
}

/// How this host is in the cluster `instance`; none where it is not in it.
///
/// # Errors
/// When the manifest cannot be read.
pub fn status(instance: &Instance) -> Result<Option<HostStatus>, HostError> {
    let Some(manifest) = Manifest::read(&Names::of(instance).manifest())? else { return Ok(None) };
    let units: Vec<String> = manifest.units.iter().filter(|name| systemd::runs(name)).cloned().collect();
    let states = systemd::states(&units);
    let mut problems: Vec<String> = states
        .iter()
        .filter(|state| state.active != "active")
        .map(|state| format!("{} is {}; see `journalctl -u {}`", state.name, state.active, state.name))
        .collect();
    if manifest.digest.is_none() {
        problems.push("the host is half made: run the installer's `apply` again".to_owned());
    }
    let spec = manifest.spec;
    let units = states.into_iter().filter(|state| state.name.ends_with(".service")).map(|state| UnitStatus {
        unit: state.name,
        condition: state.active,
        pid: (state.pid != 0).then_some(state.pid),
        restarts: state.restarts,
        status: state.status,
    });
    Ok(Some(HostStatus {
        instance: instance.to_string(),
        name: spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
        address: spec.as_ref().map(|spec| spec.address.to_string()).unwrap_or_default(),
        kinds: spec.iter().flat_map(|spec| &spec.kinds).map(ToString::to_string).collect(),
        version: manifest.version,
        healthy: problems.is_empty(),
        units: units.collect(),
        problems,
    }))
}

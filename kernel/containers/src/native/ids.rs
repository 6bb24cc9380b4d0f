//! User namespaces of containers: whether the machine has them, who has which ids, and what the shim is told.

use super::connection;
use super::{Inner, RuntimeConfig, launch};
use crate::ids::EACH;
use crate::runtime::RuntimeError;
use crate::spec::ContainerSpec;
use plenum_shim::launch::LAUNCH;
use plenum_shim::wire::{Ids, Launch, Request};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time for the trial.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries what containers will need, where the setting is on. Blocks for a moment.
pub fn try_out(config: &RuntimeConfig) -> Result<(), RuntimeError> {
    let Some(wanted) = &config.user_namespaces else { return Ok(()) };
    let refuse = |why: &str| {
        RuntimeError::Ids(format!(
            "containers cannot have user namespaces on this machine: {why}; change the setting or turn it off"
        ))
    };
    if let Some(problem) = wanted.problem() {
        return Err(refuse(&problem));
    }
    for folder in wanted.folders.iter().filter(|folder| !folder.exists()) {
        launch::private_dir(folder, true)
            .map_err(RuntimeError::io(format!("making {}", folder.display())))?;
    }
    let mut command = Command::new(&config.shim);
    command.arg("try-ids").arg(wanted.first.to_string()).arg(EACH.to_string()).args(&wanted.folders);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |error| RuntimeError::Shim { path: config.shim.display().to_string(), error };
    let mut child = command.spawn().map_err(failed)?;
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            None => {
                let _gone = child.kill();
                let _reaped = child.wait();
                return Err(refuse("trying it takes too long"));
            }
        }
    };
    let mut said = String::new();
    if let Some(from) = child.stderr.take() {
        let _nothing_said = from.take(4096).read_to_string(&mut said);
    }
    if status.success() { Ok(()) } else { Err(refuse(said.trim())) }
}

/// Gives a container its ids, if it is to have some, and its processes their users among them.
pub fn give(inner: &Inner, spec: &ContainerSpec, launch: &mut Launch) -> Result<Option<Ids>, RuntimeError> {
    if !spec.user_namespace {
        return Ok(None);
    }
    let Some(of) = &inner.config.user_namespaces else {
        return Err(RuntimeError::Ids("this node gives no container a user namespace".into()));
    };
    if !inner.machine.privileged {
        return Err(RuntimeError::Ids("a user namespace needs an agent that runs as root".into()));
    }
    let process = &mut launch.process;
    let ids = inner.ids.lock().take(of, &spec.id).ok_or_else(|| {
        RuntimeError::Ids(format!(
            "each of the {} ranges of ids for user namespaces belongs to a container of this node; wait for one to end, or give \
             the node more",
            of.containers
        ))
    })?;
    let outside = |id: u32| {
        ids.outside(id).ok_or_else(|| {
            RuntimeError::Ids(format!(
                "user or group {id} cannot be in a container with a user namespace, which has {EACH}; run it as another"
            ))
        })
    };
    process.uid = outside(process.uid)?;
    process.gid = outside(process.gid)?;
    // Of the machine's further groups those are left out that the container cannot have.
    process.groups = process.groups.iter().filter_map(|gid| ids.outside(*gid)).collect();
    Ok(Some(ids))
}

/// What a container that was found has.
pub fn find(inner: &Inner, id: &str, dir: &Path) {
    // Where no ids are given, nobody has to know which are taken.
    if inner.config.user_namespaces.is_none() {
        return;
    }
    if let Ok(Request::Contain(contain)) = connection::read_file::<Request>(&dir.join(LAUNCH))
        && let Some(ids) = &contain.more.ids
    {
        inner.ids.lock().found(id, ids);
    }
}

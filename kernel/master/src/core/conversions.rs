//! Whether an operation on resources may be: Mesos' rules for RESERVE, UNRESERVE, CREATE, DESTROY, GROW_VOLUME and SHRINK_VOLUME. Pure
//! functions of the operation, of what the agent has, and of who asks.
//!
//! What it makes of the resources is computed in `plenum_api::resources`; carrying it out is in `operations` and `changes`.

use std::collections::BTreeSet;

use plenum_api::mesos::offer::{Operation, operation::Type};
use plenum_api::mesos::{self, volume::Mode};
use plenum_api::resources::{Item, Resources, resources_of};

use super::validate;

/// Who asks for an operation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker<'a> {
    /// A framework, out of offers that were made to a role.
    Framework {
        role: &'a str,
        principal: Option<&'a str>,
        /// It has the capability SHARED_RESOURCES.
        shares: bool,
    },
    /// An operator; the name is known if the call was authenticated.
    Operator { principal: Option<&'a str> },
}

/// What an agent has, allocated to nobody.
#[derive(Debug)]
pub(super) struct Stock<'a> {
    pub total: &'a Resources,
    /// In use by tasks and executors.
    pub used: &'a Resources,
    pub resizes: bool,
}

type Checked = Result<(), String>;

/// The operation's type.
pub(super) fn kind(operation: &Operation) -> Type {
    operation.r#type.and_then(|kind| Type::try_from(kind).ok()).unwrap_or(Type::Unknown)
}

/// Checks an operation; its resources carry their allocation if a framework asks, and none if an operator does.
pub(super) fn check(operation: &Operation, stock: &Stock<'_>, asker: Asker<'_>) -> Checked {
    let mut named = operation.clone();
    let all = resources_of(&mut named);
    if all.is_empty() {
        return Err("the operation names no resources".into());
    }
    for resource in &all {
        check_resource(resource, asker)?;
    }
    match kind(operation) {
        Type::Reserve => check_reserve(operation.reserve.iter().flat_map(|body| &body.resources), asker),
        Type::Unreserve => check_unreserve(operation.unreserve.iter().flat_map(|body| &body.resources)),
        Type::Create => {
            let volumes: Vec<&mesos::Resource> =
                operation.create.iter().flat_map(|body| &body.volumes).collect();
            volumes.iter().try_for_each(|volume| check_volume(volume, asker))?;
            check_unique(volumes, stock.total)
        }
        Type::Destroy => {
            let volumes: Vec<&mesos::Resource> =
                operation.destroy.iter().flat_map(|body| &body.volumes).collect();
            volumes.iter().try_for_each(|volume| persistence(volume).map(drop))?;
            let volumes = read(volumes)?.unallocate();
            if let Some(unknown) = volumes.iter().find(|volume| !stock.total.contains_item(volume)) {
                return Err(format!("Persistent volumes not found: {unknown}"));
            }
            match volumes.iter().find(|volume| stock.used.contains_item(volume)) {
                Some(used) => Err(format!("Persistent volumes in use: {used}")),
                None => Ok(()),
            }
        }
        Type::GrowVolume | Type::ShrinkVolume if !stock.resizes => {
            Err("the agent does not resize volumes".into())
        }
        Type::GrowVolume | Type::ShrinkVolume => Ok(()),
        other => Err(format!("operation {} is not supported by this cluster", other.as_str_name())),
    }
}

fn read<'a>(wire: impl IntoIterator<Item = &'a mesos::Resource>) -> Result<Resources, String> {
    Resources::from_mesos(wire).map_err(|error| format!("Invalid resources: {error}"))
}

/// What holds for each resource of any operation.
fn check_resource(resource: &mesos::Resource, asker: Asker<'_>) -> Checked {
    let read = read([resource])?;
    if resource.provider_id.is_some() {
        return Err("operations on resources of a resource provider are not supported by this cluster".into());
    }
    let given = resource.allocation_info.as_ref().and_then(|info| info.role.as_deref());
    match (asker, given) {
        (Asker::Framework { role, .. }, given) if given != Some(role) => {
            Err(format!("{read} is not allocated to role '{role}' as the offers are"))
        }
        (Asker::Operator { .. }, Some(role)) => {
            Err(format!("operators change resources that are allocated to nobody, not to role '{role}'"))
        }
        _ => match resource.disk.as_ref() {
            Some(disk) if disk.persistence.is_none() && disk.volume.is_some() => {
                Err("Non-persistent volume not supported".into())
            }
            Some(disk) if disk.persistence.is_none() && disk.source.is_none() => {
                Err("DiskInfo is set but empty".into())
            }
            _ => Ok(()),
        },
    }
}

fn check_reserve<'a>(wire: impl Iterator<Item = &'a mesos::Resource>, asker: Asker<'_>) -> Checked {
    for item in &read(wire)? {
        let Some(last) = item.reservations().last().filter(|last| last.dynamic) else {
            return Err(format!("{item} is not dynamically reserved"));
        };
        match asker {
            Asker::Framework { role, .. } if *last.role != *role => {
                return Err(format!(
                    "{item} is to be reserved for role '{}', the offer is for '{role}'",
                    last.role
                ));
            }
            // Without a principal a reservation of a framework's belongs to the role.
            Asker::Framework { principal, .. }
                if last.principal.is_some() && last.principal.as_deref() != principal =>
            {
                return Err("the reservation names another principal than the framework's".into());
            }
            Asker::Operator { principal: Some(principal) }
                if last.principal.as_deref() != Some(principal) =>
            {
                return Err(format!(
                    "A reserve operation was attempted by authenticated principal '{principal}', which does not match the principal of {item}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_unreserve<'a>(wire: impl Iterator<Item = &'a mesos::Resource>) -> Checked {
    for item in &read(wire)? {
        if !item.reservations().last().is_some_and(|last| last.dynamic) {
            return Err(format!("{item} is not dynamically reserved"));
        }
        if item.is_persistent_volume() {
            return Err(format!(
                "A dynamically reserved persistent volume {item} cannot be unreserved directly: destroy it first"
            ));
        }
    }
    Ok(())
}

fn persistence(volume: &mesos::Resource) -> Result<&mesos::resource::disk_info::Persistence, String> {
    let disk = volume.disk.as_ref().ok_or("Not a persistent volume: it does not have DiskInfo")?;
    let persistence =
        disk.persistence.as_ref().ok_or("Not a persistent volume: 'persistence' is not set in DiskInfo")?;
    let how = disk.volume.as_ref().ok_or("Expecting 'volume' to be set for persistent volume")?;
    if how.mode() == Mode::Ro {
        return Err("Read-only persistent volume not supported".into());
    }
    Ok(persistence)
}

fn check_volume(volume: &mesos::Resource, asker: Asker<'_>) -> Checked {
    use mesos::resource::disk_info::source::Type as Source;
    let persistence = persistence(volume)?;
    let disk = volume.disk.as_ref();
    if disk.and_then(|disk| disk.volume.as_ref()).is_some_and(|how| how.host_path.is_some()) {
        return Err("Expecting 'host_path' to be unset for persistent volume".into());
    }
    validate::id("Invalid persistence ID for persistent volume:", &persistence.id)?;
    let source = disk.and_then(|disk| disk.source.as_ref()).map(|source| source.r#type());
    if !matches!(source, None | Some(Source::Path | Source::Mount)) {
        return Err("Persistent volumes are made of root, PATH and MOUNT disks only".into());
    }
    let read = read([volume])?;
    if read.iter().any(Item::is_revocable) {
        return Err("Persistent volumes cannot be created from revocable resources".into());
    }
    if read.iter().any(|item| item.reservations().is_empty()) {
        return Err("Persistent volumes cannot be created from unreserved resources".into());
    }
    let (principal, shares) = match asker {
        Asker::Framework { principal, shares, .. } => (principal, shares),
        Asker::Operator { principal } => (principal, true),
    };
    if volume.shared.is_some() && !shares {
        return Err(
            "Create volume operation for a shared volume by a framework without SHARED_RESOURCES capability"
                .into(),
        );
    }
    match (principal, persistence.principal.as_deref()) {
        // A framework's principal may be the master's doing, who knows it from its token: it need not repeat it.
        (Some(principal), None) if matches!(asker, Asker::Operator { .. }) => Err(format!(
            "Create volume operation attempted by principal '{principal}', but there is a volume in the operation with no principal set in 'disk.persistence'"
        )),
        (Some(principal), Some(named)) if principal != named => Err(format!(
            "Create volume operation attempted by authenticated principal '{principal}', which does not match a volume in the operation with principal '{named}' set in 'disk.persistence'"
        )),
        _ => Ok(()),
    }
}

/// A persistence id is used once in a role on an agent.
fn check_unique(volumes: Vec<&mesos::Resource>, total: &Resources) -> Checked {
    let mut seen = BTreeSet::new();
    let mut all: Vec<Item> = total.iter().filter(|item| item.is_persistent_volume()).cloned().collect();
    for volume in volumes {
        // One by one: two that are alike must not become one.
        all.extend(read([volume])?.iter().cloned());
    }
    for item in &all {
        let id = item.meta().and_then(|meta| meta.persistence_id()).unwrap_or_default();
        if !seen.insert((item.reservation_role().unwrap_or_default(), id)) {
            return Err(format!("Persistence ID '{id}' is not unique"));
        }
    }
    Ok(())
}

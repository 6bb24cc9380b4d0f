//! Reservations and persistent volumes: out of what an offer has for everybody for a new instance, as they are for one that is launched
//! again, and back.

use plenum_api::mesos::offer::{Operation, operation};
use plenum_api::mesos::resource::{DiskInfo, ReservationInfo, disk_info, reservation_info};
use plenum_api::mesos::{self, Label, Labels, Resource, Volume, value, volume};

use crate::core::Launch;
use crate::core::id::InstanceId;
use crate::core::instance::Record;
use crate::core::volume::{Claim, FRAMEWORK_LABEL, INSTANCE_LABEL, Local};
use crate::core::wipe::Free;

/// Whose a resource is, where its reservation says so.
pub(super) fn claim(resource: &Resource) -> Option<Box<Claim>> {
    let labels = match resource.reservations.last() {
        Some(last) => last.labels.as_ref(),
        None => resource.reservation.as_ref().and_then(|old| old.labels.as_ref()),
    };
    let label = |name: &str| labels?.labels.iter().find(|l| l.key == name)?.value.clone();
    let volume = resource.disk.as_ref().and_then(|disk| disk.persistence.as_ref());
    Some(Box::new(Claim {
        framework: label(FRAMEWORK_LABEL).unwrap_or_default(),
        instance: InstanceId::from_key(&label(INSTANCE_LABEL)?),
        volume: volume.map(|volume| volume.id.clone()),
    }))
}

/// Whether it is a volume on the disk of the agent's working folder that one instance at a time uses.
pub(super) fn is_plain_volume(resource: &Resource) -> bool {
    let disk = resource.disk.as_ref().filter(|disk| disk.persistence.is_some() && disk.source.is_none());
    disk.is_some() && resource.revocable.is_none() && resource.shared.is_none()
}

/// What a task gets of the offer: of a new instance with volumes what [`operations`] make of it.
pub(super) fn resources(launch: &Launch, offer: &mesos::Offer) -> Vec<Resource> {
    let record = &launch.record;
    let cut = super::resources(offer, &launch.takes);
    if !is_new(record) {
        return cut;
    }
    let (mut rest, volumes) = made(record, cut, offer);
    rest.extend(volumes);
    rest
}

/// What has to be done before the launch: everything is reserved, and the volumes are made.
pub fn operations(launch: &Launch, offer: &mesos::Offer) -> Vec<Operation> {
    let record = &launch.record;
    if !is_new(record) {
        return Vec::new();
    }
    let cut = super::resources(offer, &launch.takes);
    let reserved: Vec<Resource> = cut.iter().map(|one| reserve(record, one.clone(), offer)).collect();
    let (_, volumes) = made(record, cut, offer);
    let reserve = Operation {
        r#type: Some(operation::Type::Reserve.into()),
        reserve: Some(operation::Reserve { resources: reserved, source: Vec::new() }),
        ..Default::default()
    };
    let create = Operation {
        r#type: Some(operation::Type::Create.into()),
        create: Some(operation::Create { volumes }),
        ..Default::default()
    };
    vec![reserve, create]
}

/// What has to be done so that everybody may have what was an instance's.
pub fn free(free: &Free, offer: &mesos::Offer) -> Vec<Operation> {
    let all = free.portions.iter().filter_map(|n| offer.resources.get(*n));
    let (volumes, others): (Vec<Resource>, Vec<Resource>) =
        all.cloned().partition(|resource| resource.disk.as_ref().is_some_and(|d| d.persistence.is_some()));
    let emptied = volumes.iter().map(|volume| {
        let source = volume.disk.as_ref().and_then(|disk| disk.source.clone());
        let disk = source.map(|source| DiskInfo { source: Some(source), ..DiskInfo::default() });
        Resource { disk, shared: None, ..volume.clone() }
    });
    let resources: Vec<Resource> = others.into_iter().chain(emptied).collect();
    let destroy = (!volumes.is_empty()).then(|| Operation {
        r#type: Some(operation::Type::Destroy.into()),
        destroy: Some(operation::Destroy { volumes }),
        ..Default::default()
    });
    let unreserve = Operation {
        r#type: Some(operation::Type::Unreserve.into()),
        unreserve: Some(operation::Unreserve { resources }),
        ..Default::default()
    };
    destroy.into_iter().chain([unreserve]).collect()
}

fn is_new(record: &Record) -> bool {
    record.is_resident() && record.launches == 1
}

/// What was cut out of the offer, reserved: the volumes, and the rest.
fn made(record: &Record, cut: Vec<Resource>, offer: &mesos::Offer) -> (Vec<Resource>, Vec<Resource>) {
    let reserved = cut.into_iter().map(|one| reserve(record, one, offer));
    let mut rest: Vec<Resource> = reserved.collect();
    let volumes = record.volumes.iter().filter_map(|local| {
        let disk = rest.iter_mut().find(|one| one.name == "disk" && scalar(one) >= size(local))?;
        let volume = Resource {
            scalar: Some(value::Scalar { value: size(local) }),
            disk: Some(disk_of(local)),
            ..disk.clone()
        };
        disk.scalar = Some(value::Scalar { value: scalar(disk) - size(local) });
        Some(volume)
    });
    let volumes = volumes.collect();
    rest.retain(|one| one.name != "disk" || scalar(one) > 0.0);
    (rest, volumes)
}

fn size(local: &Local) -> f64 {
    local.size as f64
}

fn scalar(resource: &Resource) -> f64 {
    resource.scalar.as_ref().map_or(0.0, |scalar| scalar.value)
}

fn disk_of(local: &Local) -> DiskInfo {
    DiskInfo {
        persistence: Some(disk_info::Persistence { id: local.id.clone(), principal: None }),
        volume: Some(Volume {
            container_path: local.path.clone(),
            mode: volume::Mode::Rw.into(),
            ..Default::default()
        }),
        source: None,
    }
}

fn reserve(record: &Record, mut resource: Resource, offer: &mesos::Offer) -> Resource {
    let label = |key: &str, value: &str| Label { key: key.to_owned(), value: Some(value.to_owned()) };
    let labels =
        vec![label(FRAMEWORK_LABEL, &offer.framework_id.value), label(INSTANCE_LABEL, record.id.as_str())];
    (resource.role, resource.reservation) = (None, None);
    resource.reservations.push(ReservationInfo {
        r#type: Some(reservation_info::Type::Dynamic.into()),
        role: Some(record.role.clone()),
        principal: None,
        labels: Some(Labels { labels }),
    });
    resource
}

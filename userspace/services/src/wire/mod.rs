//! Between the core's nouns and Mesos' messages: offers and statuses in, tasks out.

mod checks;
mod pod;
mod share;
mod task;
pub mod volume;

use plenum_api::WireEnum;
use plenum_api::mesos::{self, Attribute, Resource, value};

pub use pod::{executor_id, group};
pub use task::task_info;

use crate::core::constraint::Location;
use crate::core::instance::{State, Status};
use crate::core::matching::{Amount, Offer, Portion, Take, thousandths};

/// The label of a status that says which bytes a task runs.
const IMAGE_LABEL: &str = "image";

/// An offer as the core sees it. Its portions stand in the order of the resources.
pub fn offer(offer: &mesos::Offer) -> Offer {
    let fault = offer.domain.as_ref().and_then(|d| d.fault_domain.as_ref());
    let location = Location {
        host: offer.hostname.clone(),
        attributes: offer.attributes.iter().map(|a| (a.name.clone(), attribute(a))).collect(),
        region: fault.map(|f| f.region.name.clone()),
        zone: fault.map(|f| f.zone.name.clone()),
    };
    let allocated = offer.allocation_info.as_ref().and_then(|a| a.role.clone());
    let first = || offer.resources.iter().find_map(|r| r.allocation_info.as_ref()?.role.clone());
    Offer {
        id: offer.id.value.clone(),
        agent: offer.agent_id.value.clone(),
        location: std::sync::Arc::new(location),
        role: allocated.or_else(first).unwrap_or_else(|| "*".to_owned()),
        maintenance: offer.unavailability.is_some(),
        portions: offer.resources.iter().map(portion).collect(),
    }
}

fn attribute(attribute: &Attribute) -> String {
    if let Some(text) = &attribute.text {
        return text.value.clone();
    }
    if let Some(scalar) = &attribute.scalar {
        return scalar.value.to_string();
    }
    let ranges =
        attribute.ranges.as_ref().map(|r| r.range.iter().map(|r| format!("{}-{}", r.begin, r.end)).collect());
    let items = attribute.set.as_ref().map(|s| s.item.clone());
    let list: Vec<String> = ranges.or(items).unwrap_or_default();
    list.join(",")
}

fn portion(resource: &Resource) -> Portion {
    // Volumes, revocable and shared resources are not for plain tasks: such a portion offers nothing.
    let special = resource.disk.is_some() || resource.revocable.is_some() || resource.shared.is_some();
    let claim = volume::claim(resource);
    // An instance's own volume is for that instance.
    let special = special && !(claim.is_some() && volume::is_plain_volume(resource));
    let refined = resource.reservations.last().and_then(|r| r.role.clone());
    let reserved = refined.or_else(|| resource.role.clone()).unwrap_or_else(|| "*".to_owned());
    let amount = match (&resource.scalar, &resource.ranges) {
        _ if special => Amount::Scalar(0),
        (Some(scalar), _) => Amount::Scalar(thousandths(scalar.value)),
        (_, Some(ranges)) => Amount::Ranges(ranges.range.iter().map(|r| (r.begin, r.end)).collect()),
        _ => Amount::Scalar(0),
    };
    Portion { name: resource.name.clone(), reserved, amount, claim }
}

/// The resources that `takes` name, cut out of the offer they were made from.
pub fn resources(offer: &mesos::Offer, takes: &[Take]) -> Vec<Resource> {
    let cut = |take: &Take| {
        let mut resource = offer.resources.get(take.portion)?.clone();
        match &take.amount {
            Amount::Scalar(n) => resource.scalar = Some(value::Scalar { value: *n as f64 / 1000.0 }),
            Amount::Ranges(list) => {
                let range =
                    list.iter().map(|(begin, end)| value::Range { begin: *begin, end: *end }).collect();
                resource.ranges = Some(value::Ranges { range });
            }
        }
        Some(resource)
    };
    takes.iter().filter_map(cut).collect()
}

/// A status as the core sees it; none for a state that this version does not know.
pub fn status(status: &mesos::TaskStatus) -> Option<Status> {
    let state = mesos::TaskState::try_from(status.state).ok()?;
    let mut out = Status::new(status.task_id.value.clone(), State::parse(state.wire_name())?);
    out.agent = status.agent_id.as_ref().map(|a| a.value.clone());
    out.message = status.message.clone().unwrap_or_default();
    out.reason = status
        .reason
        .and_then(|r| mesos::task_status::Reason::try_from(r).ok())
        .map(|r| r.wire_name().to_owned());
    out.healthy = status.healthy;
    out.uuid = status.uuid.as_ref().map(|u| u.to_vec());
    out.check = status.check_status.as_ref().and_then(checks::result);
    let labels = status.labels.iter().flat_map(|labels| &labels.labels);
    out.image =
        labels.filter(|l| l.key == IMAGE_LABEL).find_map(|l| l.value.clone()).filter(|i| i.contains('@'));
    let infos = status.container_status.iter().flat_map(|c| &c.network_infos).flat_map(|n| &n.ip_addresses);
    for address in infos {
        let Some(ip) = address.ip_address.clone() else { continue };
        let protocol = if ip.contains(':') { "IPv6" } else { "IPv4" };
        out.addresses.push((ip, protocol.to_owned()));
    }
    Some(out)
}

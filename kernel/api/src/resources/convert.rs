//! Between wire resources and the collection.

use std::sync::Arc;

use super::{Amount, Item, Meta, Name, Reservation, ResourceError, Resources, Value, role, validate};
use crate::mesos;
use crate::mesos::resource::reservation_info::Type as ReservationType;
use crate::mesos::resource::{AllocationInfo, ReservationInfo, RevocableInfo, SharedInfo};
use crate::mesos::value::Type;

/// How reservations are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The stack only: for frameworks with RESERVATION_REFINEMENT and for ourselves.
    Refined,
    /// `role` and `reservation` only: for frameworks without it. Refined stacks cannot be written and are left out.
    Legacy,
    /// The stack, and the older fields where one entry allows them: for operators.
    Both,
}

impl Resources {
    /// From the wire, in either reservation format; each resource is validated.
    pub fn from_mesos<'a>(
        wire: impl IntoIterator<Item = &'a mesos::Resource>,
    ) -> Result<Resources, ResourceError> {
        let mut out = Resources::new();
        for resource in wire {
            validate(resource)?;
            let mut item = item(resource);
            // Plain resources of one message mostly share what is said about them.
            if item.meta.is_some()
                && let Some(last) = out.items.last()
                && last.same_meta(&item)
            {
                item.meta.clone_from(&last.meta);
            }
            out.add_item(item);
        }
        Ok(out)
    }

    /// To the wire with the stack of reservations. A shared resource is repeated for each copy.
    pub fn to_mesos(&self) -> Vec<mesos::Resource> {
        self.to_mesos_as(Format::Refined)
    }

    /// To the wire in a chosen format.
    pub fn to_mesos_as(&self, format: Format) -> Vec<mesos::Resource> {
        let mut out = Vec::with_capacity(self.len());
        for item in self {
            if format == Format::Legacy && item.reservations().len() > 1 {
                continue;
            }
            let resource = wire(item, format);
            for _ in 1..item.copies() {
                out.push(resource.clone());
            }
            out.push(resource);
        }
        out
    }
}

/// As the list of wire resources.
impl serde::Serialize for Resources {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.to_mesos())
    }
}

/// From a list of wire resources, each validated.
impl<'de> serde::Deserialize<'de> for Resources {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let wire = Vec::<mesos::Resource>::deserialize(d)?;
        Resources::from_mesos(&wire).map_err(serde::de::Error::custom)
    }
}

fn item(resource: &mesos::Resource) -> Item {
    let value = match (&resource.scalar, &resource.ranges, &resource.set) {
        (Some(scalar), _, _) => Value::Scalar(Amount::from_f64(scalar.value)),
        (_, Some(ranges), _) => Value::Ranges(ranges.into()),
        (_, _, Some(set)) => Value::Set(set.item.iter().cloned().collect()),
        // `validate` refuses the rest; nothing is the safe reading.
        _ => Value::Scalar(Amount::ZERO),
    };
    let plain = resource.reservations.is_empty()
        && resource.role.as_deref().is_none_or(|r| r == role::STAR)
        && resource.allocation_info.is_none()
        && resource.disk.is_none()
        && resource.revocable.is_none()
        && resource.shared.is_none()
        && resource.provider_id.is_none();
    let meta = if plain { None } else { Some(meta(resource)).filter(|m| !m.is_plain()).map(Arc::new) };
    Item { name: Name::from(resource.name.as_str()), value, meta, copies: 1 }
}

fn meta(resource: &mesos::Resource) -> Meta {
    let reservations = if resource.reservations.is_empty() {
        legacy_stack(resource)
    } else {
        resource.reservations.iter().map(reservation).collect()
    };
    Meta {
        reservations,
        allocation: resource.allocation_info.as_ref().and_then(|a| a.role.clone()),
        disk: resource.disk.clone(),
        revocable: resource.revocable.is_some(),
        shared: resource.shared.is_some(),
        provider: resource.provider_id.clone(),
    }
}

fn legacy_stack(resource: &mesos::Resource) -> Vec<Reservation> {
    match (resource.role.as_deref(), &resource.reservation) {
        (None | Some(role::STAR), _) => Vec::new(),
        (Some(role), None) => vec![Reservation::fixed(role)],
        (Some(role), Some(info)) => {
            vec![Reservation { dynamic: true, role: role.to_string(), ..reservation(info) }]
        }
    }
}

fn reservation(info: &ReservationInfo) -> Reservation {
    let mut labels = info.labels.clone();
    if let Some(labels) = &mut labels {
        labels.labels.sort_by(|a, b| (&a.key, &a.value).cmp(&(&b.key, &b.value)));
    }
    Reservation {
        dynamic: info.r#type() == ReservationType::Dynamic,
        role: info.role.clone().unwrap_or_default(),
        principal: info.principal.clone(),
        labels,
    }
}

impl From<&ReservationInfo> for Reservation {
    fn from(info: &ReservationInfo) -> Self {
        reservation(info)
    }
}

impl From<&Reservation> for ReservationInfo {
    fn from(entry: &Reservation) -> Self {
        let kind = if entry.dynamic { ReservationType::Dynamic } else { ReservationType::Static };
        ReservationInfo {
            r#type: Some(kind.into()),
            role: Some(entry.role.clone()),
            principal: entry.principal.clone(),
            labels: entry.labels.clone(),
        }
    }
}

fn wire(item: &Item, format: Format) -> mesos::Resource {
    let mut out = mesos::Resource { name: item.name.to_string(), ..Default::default() };
    match &item.value {
        Value::Scalar(amount) => {
            out.r#type = Type::Scalar.into();
            out.scalar = Some(mesos::value::Scalar { value: amount.as_f64() });
        }
        Value::Ranges(ranges) => {
            out.r#type = Type::Ranges.into();
            out.ranges = Some(ranges.into());
        }
        Value::Set(set) => {
            out.r#type = Type::Set.into();
            out.set = Some(mesos::value::Set { item: set.iter().cloned().collect() });
        }
    }
    if format != Format::Legacy {
        out.reservations = item.reservations().iter().map(ReservationInfo::from).collect();
    }
    if format != Format::Refined {
        older_fields(&mut out, item.reservations());
    }
    if let Some(meta) = item.meta() {
        out.allocation_info = meta.allocation.clone().map(|role| AllocationInfo { role: Some(role) });
        out.disk = meta.disk.clone();
        out.revocable = meta.revocable.then_some(RevocableInfo {});
        out.shared = meta.shared.then_some(SharedInfo {});
        out.provider_id = meta.provider.clone();
    }
    out
}

fn older_fields(out: &mut mesos::Resource, stack: &[Reservation]) {
    match stack {
        [] => out.role = Some(role::STAR.to_string()),
        [only] => {
            out.role = Some(only.role.clone());
            out.reservation = only.dynamic.then(|| ReservationInfo {
                r#type: None,
                role: None,
                principal: only.principal.clone(),
                labels: only.labels.clone(),
            });
        }
        _ => {}
    }
}

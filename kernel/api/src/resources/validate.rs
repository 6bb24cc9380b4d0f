//! Whether a wire resource makes sense; the rules are Mesos'.

use super::{Amount, role};
use crate::mesos;
use crate::mesos::resource::reservation_info::Type as ReservationType;
use crate::mesos::resource::{DiskInfo, disk_info};
use crate::mesos::value::Type;

/// What is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The name is empty.
    #[error("a resource has no name")]
    NoName,
    /// The value does not go with the type, or is not allowed.
    #[error("resource `{name}`: {reason}")]
    Value {
        /// Name of the resource.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk part is not allowed.
    #[error("resource `{name}`: {reason}")]
    Disk {
        /// Name of the resource.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The reservation is not allowed.
    #[error("resource `{name}`: {reason}")]
    Reservation {
        /// Name of the resource.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be shared.
    #[error("resource `{name}` cannot be shared: only persistent volumes can")]
    Shared {
        /// Name of the resource.
        name: String,
    },
}

impl ResourceError {
    /// A stable name for logs and API answers.
    pub const fn code(&self) -> &'static str {
        match self {
            ResourceError::NoName => "RESOURCE_NO_NAME",
            ResourceError::Value { .. } => "RESOURCE_VALUE",
            ResourceError::Disk { .. } => "RESOURCE_DISK",
            ResourceError::Reservation { .. } => "RESOURCE_RESERVATION",
            ResourceError::Shared { .. } => "RESOURCE_SHARED",
        }
    }
}

/// The largest scalar accepted; sums of a whole cluster stay far from overflow.
const LARGEST: f64 = 1e12;

/// Checks one resource in either reservation format.
pub fn validate(resource: &mesos::Resource) -> Result<(), ResourceError> {
    if resource.name.is_empty() {
        return Err(ResourceError::NoName);
    }
    let name = || resource.name.clone();
    value(resource).map_err(|reason| ResourceError::Value { name: name(), reason })?;
    if let Some(disk) = &resource.disk {
        disk_info(resource, disk).map_err(|reason| ResourceError::Disk { name: name(), reason })?;
    }
    let stack = if resource.reservations.is_empty() { legacy(resource) } else { refined(resource) };
    stack.map_err(|reason| ResourceError::Reservation { name: name(), reason })?;
    let volume = resource.name == "disk" && resource.disk.as_ref().is_some_and(|d| d.persistence.is_some());
    if resource.shared.is_some() && !volume {
        return Err(ResourceError::Shared { name: name() });
    }
    Ok(())
}

fn value(resource: &mesos::Resource) -> Result<(), String> {
    let has = (resource.scalar.is_some(), resource.ranges.is_some(), resource.set.is_some());
    match Type::try_from(resource.r#type) {
        Ok(Type::Scalar) => {
            let Some(scalar) = resource.scalar.as_ref().filter(|_| has == (true, false, false)) else {
                return Err("a SCALAR has `scalar` and nothing else".into());
            };
            let value = scalar.value;
            if !value.is_finite() || value > LARGEST {
                return Err(format!("{value} is out of range"));
            }
            if value != 0.0 && Amount::from_f64(value) <= Amount::ZERO {
                return Err(format!("{value} is negative or rounds to zero thousandths"));
            }
            Ok(())
        }
        Ok(Type::Ranges) => {
            let Some(ranges) = resource.ranges.as_ref().filter(|_| has == (false, true, false)) else {
                return Err("RANGES have `ranges` and nothing else".into());
            };
            let mut sorted: Vec<(u64, u64)> = ranges.range.iter().map(|r| (r.begin, r.end)).collect();
            if let Some(r) = sorted.iter().find(|r| r.0 > r.1) {
                return Err(format!("range {}-{} is inverted", r.0, r.1));
            }
            sorted.sort_unstable();
            match sorted.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
                Some(pair) => Err(format!("ranges overlap at {}", pair[1].0)),
                None => Ok(()),
            }
        }
        Ok(Type::Set) => {
            let Some(set) = resource.set.as_ref().filter(|_| has == (false, false, true)) else {
                return Err("a SET has `set` and nothing else".into());
            };
            let mut items: Vec<&String> = set.item.iter().collect();
            items.sort_unstable();
            match items.windows(2).find(|pair| pair[0] == pair[1]) {
                Some(pair) => Err(format!("`{}` is in the set twice", pair[0])),
                None => Ok(()),
            }
        }
        Ok(Type::Text) | Err(_) => Err("the type must be SCALAR, RANGES or SET".into()),
    }
}

fn disk_info(resource: &mesos::Resource, disk: &DiskInfo) -> Result<(), String> {
    if resource.name != "disk" {
        return Err("`disk` may only be set on the resource named disk".into());
    }
    let Some(source) = &disk.source else { return Ok(()) };
    match disk_info::source::Type::try_from(source.r#type) {
        Ok(disk_info::source::Type::Path | disk_info::source::Type::Mount) => Ok(()),
        Ok(disk_info::source::Type::Block | disk_info::source::Type::Raw) => {
            if source.mount.is_some() || source.path.is_some() {
                return Err("a BLOCK or RAW disk has neither `path` nor `mount`".into());
            }
            Ok(())
        }
        Ok(disk_info::source::Type::Unknown) | Err(_) => Err("the type of the disk source is unknown".into()),
    }
}

/// The older format: `role` and `reservation`.
fn legacy(resource: &mesos::Resource) -> Result<(), String> {
    let name = resource.role.as_deref().unwrap_or(role::STAR);
    role::validate(name).map_err(|e| e.to_string())?;
    let Some(reservation) = &resource.reservation else { return Ok(()) };
    if reservation.r#type.is_some() || reservation.role.is_some() {
        return Err("`reservation` has neither `type` nor `role`; use `reservations`".into());
    }
    if name == role::STAR {
        return Err("role `*` cannot be reserved".into());
    }
    Ok(())
}

/// The stack format; with one entry the older fields may repeat it.
fn refined(resource: &mesos::Resource) -> Result<(), String> {
    let stack = &resource.reservations;
    let mut above: Option<&str> = None;
    for entry in stack {
        let dynamic = match entry.r#type.map(ReservationType::try_from) {
            Some(Ok(ReservationType::Static)) => false,
            Some(Ok(ReservationType::Dynamic)) => true,
            Some(_) => return Err("a reservation has an unknown `type`".into()),
            None => return Err("a reservation has no `type`".into()),
        };
        let name = entry.role.as_deref().ok_or("a reservation has no `role`")?;
        role::validate(name).map_err(|e| e.to_string())?;
        if name == role::STAR {
            return Err("role `*` cannot be reserved".into());
        }
        if let Some(above) = above {
            if !dynamic {
                return Err("a refined reservation cannot be STATIC".into());
            }
            if !role::is_strict_subrole(name, above) {
                return Err(format!("role `{name}` does not refine `{above}`"));
            }
        }
        above = Some(name);
    }
    match stack.as_slice() {
        [only] => consistent(resource, only),
        _ if resource.role.is_some() || resource.reservation.is_some() => {
            Err("`role` and `reservation` cannot be set beside several `reservations`".into())
        }
        _ => Ok(()),
    }
}

fn consistent(resource: &mesos::Resource, only: &mesos::resource::ReservationInfo) -> Result<(), String> {
    if resource.role.is_some() && resource.role != only.role {
        return Err("`role` differs from the role in `reservations`".into());
    }
    let Some(old) = &resource.reservation else {
        // A dynamic reservation in the older form needs both fields.
        if only.r#type() == ReservationType::Dynamic && resource.role.is_some() {
            return Err("`role` and `reservation` must both be set or both be absent".into());
        }
        return Ok(());
    };
    if only.r#type() == ReservationType::Static {
        return Err("`reservation` cannot be set beside a STATIC entry of `reservations`".into());
    }
    if resource.role.is_none() {
        return Err("`role` and `reservation` must both be set or both be absent".into());
    }
    if old.principal != only.principal || old.labels != only.labels {
        return Err("`reservation` differs from the entry in `reservations`".into());
    }
    Ok(())
}

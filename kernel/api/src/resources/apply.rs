//! What operations do to resources. Launching tasks is for the master and not done here.

use super::{Amount, ResourceError, Resources};
use crate::mesos;
use crate::mesos::offer::Operation;
use crate::mesos::offer::operation::Type;

/// Why an operation cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A resource of the operation does not make sense.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// What the operation uses up is not there.
    #[error("the operation needs {needed}, which is not part of {available}")]
    NotContained {
        /// What it uses up.
        needed: String,
        /// What there is.
        available: String,
    },
    /// The operation is incomplete, or of a type that changes no resources here.
    #[error("the operation cannot be applied: {0}")]
    Unsupported(&'static str),
    /// Copies of a shared volume are still in use.
    #[error("the persistent volume {0} has more copies in use")]
    VolumeInUse(String),
}

impl ApplyError {
    /// A stable name for logs and API answers.
    pub const fn code(&self) -> &'static str {
        match self {
            ApplyError::Resource(e) => e.code(),
            ApplyError::NotContained { .. } => "OPERATION_NOT_CONTAINED",
            ApplyError::Unsupported(_) => "OPERATION_UNSUPPORTED",
            ApplyError::VolumeInUse(_) => "OPERATION_VOLUME_IN_USE",
        }
    }
}

/// What an operation uses up and what it makes of it.
struct Conversion {
    consumed: Resources,
    produced: Resources,
    /// The consumed must be gone afterwards (the last copy of a shared volume).
    last: bool,
}

impl Resources {
    /// The resources after RESERVE, UNRESERVE, CREATE, DESTROY, GROW_VOLUME or SHRINK_VOLUME.
    pub fn apply(&self, operation: &Operation) -> Result<Resources, ApplyError> {
        let mut out = self.clone();
        for conversion in conversions(operation)? {
            let Some(mut rest) = out.checked_sub(&conversion.consumed) else {
                return Err(ApplyError::NotContained {
                    needed: conversion.consumed.to_string(),
                    available: out.to_string(),
                });
            };
            if conversion.last && rest.contains(&conversion.consumed) {
                return Err(ApplyError::VolumeInUse(conversion.consumed.to_string()));
            }
            rest += conversion.produced;
            out = rest;
        }
        Ok(out)
    }

    /// Everything that an operation uses up.
    ///
    /// # Errors
    /// When the operation itself makes no sense.
    pub fn used_up_by(operation: &Operation) -> Result<Resources, ApplyError> {
        let mut all = Resources::new();
        for conversion in conversions(operation)? {
            all += conversion.consumed;
        }
        Ok(all)
    }
}

fn conversions(operation: &Operation) -> Result<Vec<Conversion>, ApplyError> {
    const EMPTY: ApplyError = ApplyError::Unsupported("its body is missing");
    match operation.r#type() {
        Type::Reserve => {
            let body = operation.reserve.as_ref().ok_or(EMPTY)?;
            let produced = Resources::from_mesos(&body.resources)?;
            if produced.iter().any(|i| !i.reservations().last().is_some_and(|r| r.dynamic)) {
                return Err(ApplyError::Unsupported("RESERVE needs a dynamic reservation on each resource"));
            }
            let consumed = if body.source.is_empty() {
                produced.pop_reservation()
            } else {
                Resources::from_mesos(&body.source)?
            };
            same_without_reservations(&consumed, &produced)?;
            Ok(vec![Conversion { consumed, produced, last: false }])
        }
        Type::Unreserve => {
            let body = operation.unreserve.as_ref().ok_or(EMPTY)?;
            each(&body.resources, |resource| {
                let consumed = Resources::from_mesos([resource])?;
                if consumed.iter().any(|i| !i.reservations().last().is_some_and(|r| r.dynamic)) {
                    return Err(ApplyError::Unsupported("only dynamic reservations can be taken off"));
                }
                if consumed.iter().any(super::Item::is_persistent_volume) {
                    return Err(ApplyError::Unsupported("a persistent volume must be destroyed first"));
                }
                let produced = consumed.pop_reservation();
                Ok(Conversion { consumed, produced, last: false })
            })
        }
        Type::Create => {
            let body = operation.create.as_ref().ok_or(EMPTY)?;
            each(&body.volumes, |volume| {
                needs_persistence(volume)?;
                let produced = Resources::from_mesos([volume])?;
                Ok(Conversion { consumed: stripped(volume)?, produced, last: false })
            })
        }
        Type::Destroy => {
            let body = operation.destroy.as_ref().ok_or(EMPTY)?;
            each(&body.volumes, |volume| {
                needs_persistence(volume)?;
                let consumed = Resources::from_mesos([volume])?;
                Ok(Conversion { consumed, produced: stripped(volume)?, last: true })
            })
        }
        Type::GrowVolume => {
            let body = operation.grow_volume.as_ref().ok_or(EMPTY)?;
            let grown = resized(&body.volume, scalar(&body.addition)?, Amount::ZERO)?;
            let consumed = Resources::from_mesos([&body.volume, &body.addition])?;
            Ok(vec![Conversion { consumed, produced: Resources::from_mesos([&grown])?, last: false }])
        }
        Type::ShrinkVolume => {
            let body = operation.shrink_volume.as_ref().ok_or(EMPTY)?;
            let less = Amount::from_f64(body.subtract.value);
            let shrunk = resized(&body.volume, Amount::ZERO, less)?;
            let mut freed = body.volume.clone();
            freed.scalar = Some(body.subtract);
            let consumed = Resources::from_mesos([&body.volume])?;
            let produced = Resources::from_mesos([&shrunk])? + stripped(&freed)?;
            Ok(vec![Conversion { consumed, produced, last: false }])
        }
        Type::Launch | Type::LaunchGroup => Err(ApplyError::Unsupported("a launch changes no resources")),
        Type::CreateDisk | Type::DestroyDisk => {
            Err(ApplyError::Unsupported("a resource provider answers disk operations"))
        }
        Type::Unknown => Err(ApplyError::Unsupported("its type is unknown")),
    }
}

fn each(
    wire: &[mesos::Resource],
    convert: impl Fn(&mesos::Resource) -> Result<Conversion, ApplyError>,
) -> Result<Vec<Conversion>, ApplyError> {
    wire.iter().map(convert).collect()
}

fn same_without_reservations(a: &Resources, b: &Resources) -> Result<(), ApplyError> {
    if a.to_unreserved() == b.to_unreserved() {
        return Ok(());
    }
    Err(ApplyError::Unsupported("the source differs from the resources in more than reservations"))
}

fn needs_persistence(volume: &mesos::Resource) -> Result<(), ApplyError> {
    if volume.disk.as_ref().is_some_and(|d| d.persistence.is_some()) {
        return Ok(());
    }
    Err(ApplyError::Unsupported("a volume needs `disk.persistence`"))
}

/// The disk a volume is made of.
fn stripped(volume: &mesos::Resource) -> Result<Resources, ApplyError> {
    let mut disk = volume.clone();
    disk.shared = None;
    disk.disk = disk.disk.filter(|d| d.source.is_some()).map(|mut d| {
        d.persistence = None;
        d.volume = None;
        d
    });
    Ok(Resources::from_mesos([&disk])?)
}

fn scalar(resource: &mesos::Resource) -> Result<Amount, ApplyError> {
    let scalar = resource.scalar.as_ref().ok_or(ApplyError::Unsupported("a volume is a SCALAR"))?;
    Ok(Amount::from_f64(scalar.value))
}

fn resized(volume: &mesos::Resource, more: Amount, less: Amount) -> Result<mesos::Resource, ApplyError> {
    needs_persistence(volume)?;
    if volume.provider_id.is_some() {
        return Err(ApplyError::Unsupported("volumes of a resource provider cannot be resized"));
    }
    if volume.shared.is_some() {
        return Err(ApplyError::Unsupported("shared volumes cannot be resized"));
    }
    let size = scalar(volume)? + more - less;
    if size <= Amount::ZERO || less < Amount::ZERO || (more <= Amount::ZERO && less.is_zero()) {
        return Err(ApplyError::Unsupported("the new size of the volume makes no sense"));
    }
    let mut out = volume.clone();
    out.scalar = Some(mesos::value::Scalar { value: size.as_f64() });
    Ok(out)
}

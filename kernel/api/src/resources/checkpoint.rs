//! What operations have made of an agent's configured resources: dynamic reservations and persistent volumes. An agent
//! writes these down and lays them over its configuration at each start.

use super::{ApplyError, Item, Resources};
use crate::mesos;
use crate::mesos::offer::Operation;

impl Item {
    /// True when an operation made it, not a configuration: it has a dynamic reservation or is a persistent volume. What
    /// comes from a resource provider is the provider's affair.
    pub fn is_made_by_operations(&self) -> bool {
        self.meta().is_some_and(|meta| {
            meta.provider.is_none()
                && (meta.persistence_id().is_some() || meta.reservations.iter().any(|entry| entry.dynamic))
        })
    }

    /// What was configured of it: no dynamic reservation, no volume.
    fn configured(&self) -> Item {
        let mut meta = self.meta_owned();
        meta.reservations.retain(|entry| !entry.dynamic);
        if meta.persistence_id().is_some() {
            meta.disk = meta.disk.filter(|disk| disk.source.is_some()).map(|mut disk| {
                disk.persistence = None;
                disk.volume = None;
                disk
            });
        }
        meta.shared = false;
        meta.allocation = None;
        Item { copies: 1, ..self.with_meta(meta) }
    }
}

impl Resources {
    /// What operations made.
    pub fn made_by_operations(&self) -> Resources {
        self.filter(Item::is_made_by_operations)
    }

    /// These configured resources with what operations have made of them.
    ///
    /// # Errors
    /// [`ApplyError::NotContained`] when too little is configured for it.
    pub fn with_made(&self, made: &Resources) -> Result<Resources, ApplyError> {
        let mut total = self.clone();
        for item in made {
            let plain: Resources = [item.configured()].into_iter().collect();
            let Some(mut rest) = total.checked_sub(&plain) else {
                return Err(ApplyError::NotContained {
                    needed: plain.to_string(),
                    available: total.to_string(),
                });
            };
            rest.add_item(item.clone());
            total = rest;
        }
        Ok(total)
    }
}

/// Every resource that an operation names.
pub fn resources_of(operation: &mut Operation) -> Vec<&mut mesos::Resource> {
    let mut all = Vec::new();
    if let Some(body) = &mut operation.reserve {
        all.extend(body.resources.iter_mut().chain(&mut body.source));
    }
    if let Some(body) = &mut operation.unreserve {
        all.extend(&mut body.resources);
    }
    if let Some(body) = &mut operation.create {
        all.extend(&mut body.volumes);
    }
    if let Some(body) = &mut operation.destroy {
        all.extend(&mut body.volumes);
    }
    if let Some(body) = &mut operation.grow_volume {
        all.extend([&mut body.volume, &mut body.addition]);
    }
    if let Some(body) = &mut operation.shrink_volume {
        all.push(&mut body.volume);
    }
    all
}

/// The operation on resources that are allocated to nobody: as an agent knows its own.
pub fn unallocated(operation: &Operation) -> Operation {
    let mut operation = operation.clone();
    for resource in resources_of(&mut operation) {
        resource.allocation_info = None;
    }
    operation
}

/// The operation on resources that are allocated to `role`, where it does not say otherwise.
pub fn allocated(operation: &Operation, role: &str) -> Operation {
    let mut operation = operation.clone();
    for resource in resources_of(&mut operation) {
        resource.allocation_info.get_or_insert_default().role.get_or_insert_with(|| role.to_owned());
    }
    operation
}

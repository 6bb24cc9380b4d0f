//! What is said about a resource beside its name and value.

use crate::mesos::resource::DiskInfo;
use crate::mesos::{Labels, ResourceProviderId};

/// One entry of a stack of reservations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// True when made at run time; false when it comes from the agent's configuration.
    pub dynamic: bool,
    /// The role it is for.
    pub role: String,
    /// Who made it.
    pub principal: Option<String>,
    /// Labels in order of key and value; their order on the wire means nothing.
    pub labels: Option<Labels>,
}

impl Reservation {
    /// A reservation from an agent's configuration.
    pub fn fixed(role: impl Into<String>) -> Self {
        Self { dynamic: false, role: role.into(), principal: None, labels: None }
    }

    /// A reservation made at run time.
    pub fn dynamic(role: impl Into<String>, principal: Option<String>) -> Self {
        Self { dynamic: true, role: role.into(), principal, labels: None }
    }
}

/// Everything that keeps two quantities of the same name apart.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// Outermost first; empty when unreserved.
    pub reservations: Vec<Reservation>,
    /// The role it is offered to or used by.
    pub allocation: Option<String>,
    /// Kind of disk and persistent volume.
    pub disk: Option<DiskInfo>,
    /// It may be taken back.
    pub revocable: bool,
    /// Several may use it; the item counts how many do.
    pub shared: bool,
    /// The provider it comes from.
    pub provider: Option<ResourceProviderId>,
}

impl Meta {
    /// True when nothing is said.
    pub fn is_plain(&self) -> bool {
        self.reservations.is_empty()
            && self.allocation.is_none()
            && self.disk.is_none()
            && !self.revocable
            && !self.shared
            && self.provider.is_none()
    }

    /// True for a disk that is one piece: MOUNT, BLOCK, or RAW with an identity.
    pub fn is_exclusive_disk(&self) -> bool {
        use crate::mesos::resource::disk_info::source::Type;
        let source = self.disk.as_ref().and_then(|d| d.source.as_ref());
        source.is_some_and(|s| match s.r#type() {
            Type::Mount | Type::Block => true,
            Type::Raw => s.id.is_some(),
            Type::Path | Type::Unknown => false,
        })
    }

    /// The id of the persistent volume.
    pub fn persistence_id(&self) -> Option<&str> {
        Some(self.disk.as_ref()?.persistence.as_ref()?.id.as_str())
    }

    /// True when only the whole can be added or taken: exclusive disks, persistent volumes, shared resources.
    pub fn is_indivisible(&self) -> bool {
        self.shared || self.persistence_id().is_some() || self.is_exclusive_disk()
    }
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        self.allocation == other.allocation
            && self.reservations == other.reservations
            && self.revocable == other.revocable
            && self.shared == other.shared
            && self.provider == other.provider
            && same_disk(self.disk.as_ref(), other.disk.as_ref())
    }
}

impl Eq for Meta {}

/// How a volume is mounted and who made it do not tell disks apart.
fn same_disk(a: Option<&DiskInfo>, b: Option<&DiskInfo>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let id = |d: &DiskInfo| d.persistence.as_ref().map(|p| p.id.clone());
            a.source == b.source && id(a) == id(b)
        }
        _ => false,
    }
}

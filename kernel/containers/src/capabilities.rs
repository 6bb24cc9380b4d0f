//! Sets of Linux capabilities: names, numbers, the default set. Dropping them is the shim's work.

use caps::Capability;
use std::str::FromStr;

/// A set of capabilities, a bit per capability number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySet(pub u64);

/// A capability name that the kernel's headers do not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no capability named {0:?}; names are as in capabilities(7), for example CAP_NET_BIND_SERVICE"
)]
pub struct UnknownCapability(pub String);

/// What a container may use unless told otherwise: enough to own files, change user, bind low ports and signal.
/// Left out of the set that is customary for containers: making device files, raw sockets and writing audit records.
const DEFAULT: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETFCAP,
];

impl CapabilitySet {
    /// No capability.
    pub const NONE: Self = Self(0);
    /// Every capability there is or will be.
    pub const ALL: Self = Self(u64::MAX);

    /// The default set of a container.
    #[must_use]
    pub fn container_default() -> Self {
        DEFAULT.iter().fold(Self::NONE, |set, capability| set.with(*capability))
    }

    /// From names, with or without the prefix `CAP_`, in any case (Mesos leaves the prefix out).
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, UnknownCapability> {
        let mut set = Self::NONE;
        for name in names {
            let upper = name.as_ref().to_ascii_uppercase();
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            let capability =
                Capability::from_str(&full).map_err(|_| UnknownCapability(name.as_ref().to_owned()))?;
            set = set.with(capability);
        }
        Ok(set)
    }

    /// This set and one more.
    #[must_use]
    pub fn with(self, capability: Capability) -> Self {
        Self(self.0 | capability.bitmask())
    }

    /// Whether the set has a capability.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_both_spellings() {
        let set = CapabilitySet::from_names(&["NET_RAW", "cap_kill"]).unwrap();
        assert_eq!(set.0, 1 << 13 | 1 << 5);
        assert_eq!(CapabilitySet::from_names(&["FLY"]).unwrap_err(), UnknownCapability("FLY".into()));
    }

    #[test]
    fn the_default_withholds_the_machine() {
        let set = CapabilitySet::container_default();
        for withheld in [
            Capability::CAP_SYS_ADMIN,
            Capability::CAP_SYS_PTRACE,
            Capability::CAP_MKNOD,
            Capability::CAP_NET_ADMIN,
        ] {
            assert!(!set.has(withheld), "{withheld}");
        }
        assert!(set.has(Capability::CAP_NET_BIND_SERVICE));
    }
}

//! Ids: where fresh ones come from, and small conveniences on the id messages.

use std::fmt;

use crate::mesos::{
    AgentId, ContainerId, ExecutorId, FrameworkId, OfferId, OperationId, ResourceProviderId, TaskId, Uuid,
};

/// Source of fresh ids; shells give it the operating system's randomness, tests a seed.
pub trait IdSource {
    /// Sixteen bytes nobody else has; shells make them a version 4 UUID.
    fn uuid(&mut self) -> [u8; 16];

    /// The same in the usual text form (8-4-4-4-12 hexadecimal digits).
    fn uuid_text(&mut self) -> String {
        uuid_text(&self.uuid())
    }
}

/// A predictable source for tests and simulations: a counter mixed with a seed, shaped as version 4 UUIDs.
#[derive(Clone, Debug)]
pub struct SeededIds {
    state: u64,
}

impl SeededIds {
    /// A source that gives the same sequence for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        // SplitMix64, a public domain generator: distinct inputs give distinct outputs.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdSource for SeededIds {
    fn uuid(&mut self) -> [u8; 16] {
        let mut bytes = (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    }
}

/// Text form of a UUID.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

macro_rules! id {
    ($($name:ident),*) => { $(
        #[allow(clippy::needless_update, reason = "only a container has more than its value")]
        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self { value: value.to_string(), ..Default::default() }
            }
        }
        #[allow(clippy::needless_update, reason = "only a container has more than its value")]
        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self { value, ..Default::default() }
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.value
            }
        }
        impl $name {
            /// The id as text (of a container: its own part only).
            pub fn as_str(&self) -> &str {
                &self.value
            }
        }
    )* };
}

macro_rules! display {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.value)
            }
        }
    )* };
}

id!(AgentId, ContainerId, ExecutorId, FrameworkId, OfferId, OperationId, ResourceProviderId, TaskId);
display!(AgentId, ExecutorId, FrameworkId, OfferId, OperationId, ResourceProviderId, TaskId);

/// Parents first, joined by dots.
impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.parent {
            write!(f, "{parent}.")?;
        }
        f.write_str(&self.value)
    }
}

impl ContainerId {
    /// A container inside this one.
    pub fn child(&self, value: &str) -> ContainerId {
        ContainerId { value: value.to_string(), parent: Some(Box::new(self.clone())) }
    }

    /// The outermost container of this one.
    pub fn root(&self) -> &ContainerId {
        let mut at = self;
        while let Some(parent) = &at.parent {
            at = parent;
        }
        at
    }
}

impl From<[u8; 16]> for Uuid {
    fn from(bytes: [u8; 16]) -> Self {
        Uuid { value: bytes::Bytes::copy_from_slice(&bytes) }
    }
}

impl fmt::Debug for crate::mesos::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl fmt::Debug for crate::mesos::secret::Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_ids_are_distinct_repeatable_and_shaped() {
        let (mut a, mut b) = (SeededIds::new(7), SeededIds::new(7));
        let many: std::collections::BTreeSet<String> = (0..1000).map(|_| a.uuid_text()).collect();
        assert_eq!(many.len(), 1000);
        let text = b.uuid_text();
        assert!(many.contains(&text));
        assert_eq!((text.len(), &text[14..15]), (36, "4"), "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
    }

    #[test]
    fn containers_print_their_parents() {
        let inner = ContainerId::from("a").child("b").child("c");
        assert_eq!((inner.to_string().as_str(), inner.root().as_str()), ("a.b.c", "a"));
        assert_eq!(AgentId::from("x").to_string(), "x");
    }
}

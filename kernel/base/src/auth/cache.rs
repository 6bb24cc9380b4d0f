//! Remembers which credentials were found good, so that an expensive check is paid once. Credentials are kept as keyed hashes only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use parking_lot::Mutex;

use super::Principal;

/// Entries beyond which the cache is emptied: bounded memory matters more than a few repeated checks.
const MOST: usize = 10_000;

type Digest = [u8; 32];

#[derive(Debug, Clone)]
struct Entry {
    /// `None`: these credentials are wrong.
    principal: Option<Principal>,
    until: Instant,
    /// The policy number it was checked under; another one makes it void.
    policy: u64,
}

/// The cache. The key is random per process, so its content says nothing about the credentials.
pub(super) struct Cache {
    key: hmac::Key,
    entries: Mutex<HashMap<Digest, Entry>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        let secret: [u8; 32] = rand::random();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), entries: Mutex::new(HashMap::new()) }
    }

    fn digest(&self, credentials: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(hmac::sign(&self.key, credentials).as_ref());
        digest
    }

    /// `Some(None)`: known to be wrong.
    pub(super) fn get(&self, credentials: &[u8], policy: u64, now: Instant) -> Option<Option<Principal>> {
        let digest = self.digest(credentials);
        let entries = self.entries.lock();
        let entry = entries.get(&digest)?;
        (entry.policy == policy && now < entry.until).then(|| entry.principal.clone())
    }

    pub(super) fn put(
        &self,
        credentials: &[u8],
        policy: u64,
        principal: Option<Principal>,
        now: Instant,
        lasting: Duration,
    ) {
        let digest = self.digest(credentials);
        let mut entries = self.entries.lock();
        if entries.len() >= MOST {
            entries.retain(|_, entry| now < entry.until && entry.policy == policy);
            if entries.len() >= MOST {
                entries.clear();
            }
        }
        entries.insert(digest, Entry { principal, until: now + lasting, policy });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Kind;

    #[test]
    fn entries_end_with_time_and_with_the_policy() {
        let cache = Cache::new();
        let start = Instant::now();
        let ann = Principal::new("ann", Kind::User);
        cache.put(b"x", 1, Some(ann.clone()), start, Duration::from_secs(10));
        cache.put(b"y", 1, None, start, Duration::from_secs(10));
        assert_eq!(cache.get(b"x", 1, start), Some(Some(ann)));
        assert_eq!(cache.get(b"y", 1, start), Some(None));
        assert_eq!(cache.get(b"z", 1, start), None);
        assert_eq!(cache.get(b"x", 2, start), None);
        assert_eq!(cache.get(b"x", 1, start + Duration::from_secs(10)), None);
        for n in 0..MOST + 5 {
            cache.put(&n.to_be_bytes(), 1, None, start, Duration::from_secs(1));
        }
        assert!(cache.entries.lock().len() <= MOST);
    }
}

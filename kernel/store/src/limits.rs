//! The limits both implementations enforce before any I/O (they are etcd's, with a margin for its own framing).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{StoreError, Txn};

/// Guards and operations together in one transaction.
pub const MAX_OPERATIONS: usize = 100;
/// Bytes of keys and values in one transaction.
pub const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;
/// Bytes of one key, its scope's prefix included.
pub const MAX_KEY_BYTES: usize = 1024;
/// Entries on one page.
pub const MAX_PAGE_ENTRIES: usize = 1000;
/// Bytes of entries after which the embedded store ends a page. (etcd cannot bound an answer by bytes; pages
/// there are made smaller when values turn out large.)
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The shortest and longest lease. The shortest is what etcd grants with its default election timeout.
const MIN_TTL: Duration = Duration::from_secs(2);
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Refuses what no store would take.
pub(crate) fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    let count = txn.len();
    if count > MAX_OPERATIONS {
        return Err(StoreError::TooManyOperations { count, limit: MAX_OPERATIONS });
    }
    let bytes = txn.bytes();
    if bytes > MAX_TRANSACTION_BYTES {
        return Err(StoreError::TooLarge { bytes, limit: MAX_TRANSACTION_BYTES });
    }
    for guard in &txn.guards {
        check_key(guard.key())?;
    }
    let mut written = BTreeSet::new();
    for op in &txn.ops {
        check_key(op.key())?;
        if !written.insert(op.key()) {
            return Err(StoreError::invalid(format!("{} is written twice in one transaction", op.key())));
        }
    }
    Ok(())
}

/// Refuses keys that are empty, too long or hold NUL (which no path has, and range ends are made with).
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::invalid("a key is empty"));
    }
    check_prefix(key)
}

/// As [`check_key`], but empty is allowed.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_BYTES {
        let len = prefix.len();
        return Err(StoreError::invalid(format!(
            "a key has {len} bytes, at most {MAX_KEY_BYTES} are allowed"
        )));
    }
    if prefix.contains('\0') {
        return Err(StoreError::invalid("a key holds a NUL character"));
    }
    Ok(())
}

/// Whole seconds, rounded up, within what etcd grants.
pub(crate) fn round_ttl(ttl: Duration) -> Result<Duration, StoreError> {
    if ttl > MAX_TTL {
        return Err(StoreError::invalid(format!("a lease of {} s is longer than a day", ttl.as_secs())));
    }
    let up = u64::from(ttl.subsec_nanos() > 0);
    Ok(Duration::from_secs(ttl.as_secs().saturating_add(up)).max(MIN_TTL))
}

/// The number of entries a page of `limit` may hold.
pub(crate) fn page_limit(limit: usize) -> usize {
    if limit == 0 { MAX_PAGE_ENTRIES } else { limit.min(MAX_PAGE_ENTRIES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_checked_before_any_io() {
        let mut txn = Txn::new();
        for i in 0..100 {
            txn = txn.put(format!("k{i}"), "v");
        }
        assert!(check_txn(&txn).is_ok());
        assert_eq!(check_txn(&txn.absent("x")).unwrap_err().code(), "too_many_operations");
        let fits = Txn::new().put("k", vec![0; MAX_TRANSACTION_BYTES - 1]);
        assert!(check_txn(&fits).is_ok());
        let over = Txn::new().put("k", vec![0; MAX_TRANSACTION_BYTES]);
        assert_eq!(check_txn(&over).unwrap_err().code(), "too_large");
        for bad in ["", "a\0b", &"x".repeat(MAX_KEY_BYTES + 1)] {
            assert_eq!(check_txn(&Txn::new().put(bad, "")).unwrap_err().code(), "invalid");
            assert_eq!(check_txn(&Txn::new().exists(bad)).unwrap_err().code(), "invalid");
        }
        assert_eq!(check_txn(&Txn::new().put("a", "").delete("a")).unwrap_err().code(), "invalid");
    }

    #[test]
    fn leases_have_whole_seconds() {
        assert_eq!(round_ttl(Duration::ZERO).unwrap(), Duration::from_secs(2));
        assert_eq!(round_ttl(Duration::from_millis(2001)).unwrap(), Duration::from_secs(3));
        assert_eq!(round_ttl(Duration::from_secs(86_400)).unwrap(), Duration::from_secs(86_400));
        assert!(round_ttl(Duration::from_secs(86_401)).is_err());
        assert!(round_ttl(Duration::MAX).is_err());
    }
}

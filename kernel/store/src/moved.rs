//! What keeps a component from opening the store that its records were moved away from: a file beside an embedded store, a key beside
//! its part of etcd. Moving itself is done by whoever owns both stores.

use std::path::{Path, PathBuf};

use crate::{Store, StoreError, Txn};

/// The file that says so, beside `store.redb`.
pub fn marker(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".moved");
    PathBuf::from(name)
}

/// Refuses an embedded store whose records are on etcd now.
pub(crate) fn check(file: &Path) -> Result<(), StoreError> {
    match marker(file).try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::broken(format!(
            "the records of {} were moved to etcd: set store.etcd = true, or bring them back with `plenum store move --to embedded`",
            file.display()
        ))),
        Err(e) => Err(StoreError::unavailable(format!("{}: {e}", marker(file).display()))),
    }
}

/// The key that says that the part of etcd under `prefix` was moved to an embedded store.
pub fn fence(prefix: &str) -> String {
    let path = prefix.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    format!("{parent}/.moved/{name}")
}

/// Looks whether the fence of a part of etcd is set.
pub(crate) async fn check_fence(store: &dyn Store, fence: &str) -> Result<(), StoreError> {
    if store.get(fence).await?.is_none() {
        return Ok(());
    }
    Err(StoreError::broken(format!(
        "the records on etcd were moved back to this machine's own file ({fence} says so): set store.etcd = false, or bring them to \
         etcd again with `plenum store move --to etcd`"
    )))
}

/// Sets the fence, or takes it away. `store` is the whole etcd.
pub async fn set_fence(store: &dyn Store, prefix: &str, moved: bool) -> Result<(), StoreError> {
    let key = fence(prefix);
    let txn = if moved { Txn::new().put(key, "embedded") } else { Txn::new().delete(key) };
    store.commit(txn).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_beside_what_they_mark() {
        assert_eq!(marker(Path::new("/x/store.redb")), Path::new("/x/store.redb.moved"));
        assert_eq!(fence("/plenum/default/services/"), "/plenum/default/.moved/services");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.redb");
        assert!(check(&file).is_ok());
        std::fs::write(marker(&file), "etcd").unwrap();
        assert_eq!(check(&file).unwrap_err().code(), "broken");
    }
}

//! Where a component's records are kept, as its `[store]` section says it. Opening it is [`crate::open()`]'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{EtcdOptions, EtcdTls, StoreError};

/// The `[store]` section of a component that keeps records. The defaults are the store embedded in the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Whether the records are on etcd. False: in a file of this process.
    pub etcd: bool,
    /// `https://host:2379` of each member of an etcd that the operator runs. Empty: the cluster's own, on its masters.
    pub endpoints: Vec<String>,
    /// The file with the certificates that etcd's members are signed by. By default that of the component.
    pub ca: Option<PathBuf>,
    /// The certificate to show to etcd. By default that of the component.
    pub certificate: Option<PathBuf>,
    /// Its key. By default that of the component.
    pub key: Option<PathBuf>,
    /// How long a leader that has gone silent stays one, in seconds; also how long one that cannot reach the store does.
    pub lease_seconds: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { etcd: false, endpoints: Vec::new(), ca: None, certificate: None, key: None, lease_seconds: 2 }
    }
}

impl StoreSettings {
    /// The same settings, with the component's own files where none are set.
    #[must_use]
    pub fn files_or(mut self, ca: &Path, certificate: &Path, key: &Path) -> Self {
        self.ca.get_or_insert_with(|| ca.to_owned());
        self.certificate.get_or_insert_with(|| certificate.to_owned());
        self.key.get_or_insert_with(|| key.to_owned());
        self
    }

    /// For [`crate::Store::campaign`].
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_seconds))
    }

    /// What is wrong with the settings, in sentences; all of it at once.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(2..=60).contains(&self.lease_seconds) {
            problems.push("store.lease_seconds must be between 2 and 60".to_owned());
        }
        let known = |url: &&String| !url.starts_with("https://") && !url.starts_with("http://");
        if let Some(url) = self.endpoints.iter().find(known) {
            problems.push(format!("store.endpoints: \"{url}\" does not start with https://"));
        }
        let secure = self.endpoints.iter().filter(|url| url.starts_with("https://")).count();
        if secure > 0 && secure < self.endpoints.len() {
            problems.push("store.endpoints: all of them are https:// or none is".to_owned());
        }
        if !self.etcd && !self.endpoints.is_empty() {
            problems.push("store.endpoints is set, but store.etcd is false: set it to true".to_owned());
        }
        problems
    }

    /// Whether the operator's etcd is spoken to without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        !self.endpoints.is_empty() && self.endpoints.iter().all(|url| url.starts_with("http://"))
    }

    /// How the etcd that `endpoints` name is spoken to, with the files as they are now.
    ///
    /// # Errors
    /// `Invalid` where a file is not set, `Broken` where it cannot be read.
    pub fn options(&self) -> Result<EtcdOptions, StoreError> {
        let tls = if self.is_plain() { None } else { Some(self.read_tls()?) };
        Ok(EtcdOptions { tls, ..EtcdOptions::new(self.endpoints.clone()) })
    }

    /// Reads the files. Keys stay out of errors.
    pub(crate) fn read_tls(&self) -> Result<EtcdTls, StoreError> {
        let read = |what: &str, path: &Option<PathBuf>| {
            let path =
                path.as_ref().ok_or_else(|| StoreError::invalid(format!("store.{what} is not set")))?;
            std::fs::read(path).map_err(|e| {
                StoreError::broken(format!("store.{what}, {}, cannot be read: {e}", path.display()))
            })
        };
        Ok(EtcdTls {
            ca: read("ca", &self.ca)?,
            cert: read("certificate", &self.certificate)?,
            key: read("key", &self.key)?,
            server_name: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        assert_eq!(StoreSettings::default().problems(), Vec::<String>::new());
        let bad = StoreSettings {
            endpoints: vec!["http://a:2379".to_owned(), "https://b:2379".to_owned(), "c:2379".to_owned()],
            lease_seconds: 1,
            ..StoreSettings::default()
        };
        let problems = bad.problems().join("\n");
        for part in ["lease_seconds", "\"c:2379\"", "or none", "etcd is false"] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }

    #[test]
    fn files_that_are_set_win_over_the_components() {
        let own = StoreSettings { ca: Some("/x".into()), ..StoreSettings::default() };
        let filled = own.files_or(Path::new("/ca"), Path::new("/cert"), Path::new("/key"));
        assert_eq!((filled.ca, filled.key), (Some("/x".into()), Some("/key".into())));
        assert_eq!(StoreSettings::default().read_tls().unwrap_err().code(), "invalid");
    }

    #[test]
    fn without_tls_no_files_are_read() {
        let of = |url: &str| StoreSettings { endpoints: vec![url.to_owned()], ..StoreSettings::default() };
        let plain = of("http://a:2379").options().unwrap();
        assert!(plain.tls.is_none() && plain.endpoints == ["http://a:2379"]);
        assert_eq!(of("https://a:2379").options().unwrap_err().code(), "invalid");
    }
}

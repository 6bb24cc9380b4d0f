//! Counters of the master, under the names that Mesos' `/metrics/snapshot` gives them.

use std::collections::BTreeMap;

/// Counters; gauges are computed from a snapshot when they are asked for.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<&'static str, u64>);

impl Metrics {
    /// Adds one.
    pub(crate) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Sets a counter that is kept elsewhere.
    pub(crate) fn set(&mut self, name: &'static str, value: u64) {
        self.0.insert(name, value);
    }

    /// All counters by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

//! Quotas of roles as the master has them, and whether one is why an app gets nothing. The master alone holds anybody to them; here they
//! only explain, since an offer does not say that a quota made it small, nor its absence that one is used up.

use std::collections::BTreeMap;

use super::blocker::{Blocker, Kind};
use super::{Entry, Snapshot};

/// What each role may use at most: name of the resource, amount.
pub type Quotas = BTreeMap<String, BTreeMap<String, f64>>;

/// Rounding errors are smaller.
const NOTHING: f64 = 0.0005;

impl Snapshot {
    /// The quota that an app's next instance would break by what services themselves use of it, if there is one.
    pub(super) fn quota_full(&self, entry: &Entry) -> Option<Blocker> {
        let role = entry.wanted.role();
        let above =
            |holder: &str| role == holder || role.strip_prefix(holder).is_some_and(|r| r.starts_with('/'));
        let (holder, limits) =
            self.quotas.iter().find(|(holder, _)| above(holder) && self.over(holder, entry).is_some())?;
        let (name, needs, used) = self.over(holder, entry)?;
        let limit = limits.get(name).copied().unwrap_or(0.0);
        let number = |amount: f64| (amount * 1000.0).round() / 1000.0;
        let (limit, needs, used) = (number(limit), number(needs), number(used));
        let text = format!(
            "the quota of the role {holder} is full: of its {limit} {name}, {used} are used by services, and an instance needs {needs}"
        );
        let fix = format!(
            "raise the quota of {holder}, scale down or remove something in it, or lower the app's {name}"
        );
        Some(Blocker {
            rule: Some(format!("quota:{holder}:{name}")),
            since: entry.waiting,
            ..Blocker::new(Kind::QuotaFull, text, fix)
        })
    }

    /// Which resource an instance of `entry` needs more of than the quota of `holder` leaves: its name, what it needs, what is used.
    fn over(&self, holder: &str, entry: &Entry) -> Option<(&'static str, f64, f64)> {
        let limits = self.quotas.get(holder)?;
        let needs = amounts(&entry.wanted.needs_with_volumes());
        let used = self.used(holder);
        (0..needs.len()).find_map(|n| {
            let ((name, need), (_, used)) = (*needs.get(n)?, *used.get(n)?);
            (used + need > limits.get(name)? + NOTHING).then_some((name, need, used))
        })
    }

    /// What instances in the role, and in those below it, take; those that are kept do as well.
    fn used(&self, holder: &str) -> [(&'static str, f64); 4] {
        let mut sum = amounts(&super::pod::Resources::default());
        let all = self.apps.values().flat_map(|entry| {
            let live = entry.instances.values().map(|instance| &instance.record);
            live.chain(entry.kept.values().map(|kept| &kept.record)).map(move |record| (entry, record))
        });
        for (entry, record) in all {
            let role = record.role.as_str();
            if role != holder && !role.strip_prefix(holder).is_some_and(|rest| rest.starts_with('/')) {
                continue;
            }
            let definition = entry.definition_of(record);
            for ((_, sum), (_, part)) in sum.iter_mut().zip(amounts(&definition.needs_with_volumes())) {
                *sum += part;
            }
        }
        sum
    }
}

fn amounts(of: &super::pod::Resources) -> [(&'static str, f64); 4] {
    [("cpus", of.cpus), ("mem", of.mem), ("disk", of.disk), ("gpus", f64::from(of.gpus))]
}

//! Which leases there are and when they run out. Pure: time comes in as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::LeaseId;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    /// Its end has been handed to the writer.
    ending: bool,
    /// It can no longer be kept alive, even if writing down its end failed.
    over: bool,
}

/// The leases of one store, by the monotonic clock of this process.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<LeaseId, Lease>);

impl Leases {
    /// A lease has become durable.
    pub(super) fn granted(&mut self, lease: LeaseId, ttl: Duration, now: Duration) {
        self.0.insert(lease, Lease { ttl, deadline: now.saturating_add(ttl), ending: false, over: false });
    }

    /// A lease's end has become durable.
    pub(super) fn ended(&mut self, lease: LeaseId) {
        self.0.remove(&lease);
    }

    /// Starts a lease's time anew; its time to live, or `None` if it has run out.
    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Duration) -> Option<Duration> {
        let found = self.0.get_mut(&lease).filter(|found| !found.over && now < found.deadline)?;
        found.deadline = now.saturating_add(found.ttl);
        Some(found.ttl)
    }

    /// The leases that have run out, each given out once until [`Leases::not_ended`].
    pub(super) fn take_expired(&mut self, now: Duration) -> Vec<LeaseId> {
        let expired = self.0.iter_mut().filter(|(_, lease)| !lease.ending && lease.deadline <= now);
        expired
            .map(|(id, lease)| {
                lease.ending = true;
                lease.over = true;
                *id
            })
            .collect()
    }

    /// A lease's end could not be written; it is given out again at `retry`.
    pub(super) fn not_ended(&mut self, lease: LeaseId, retry: Duration) {
        if let Some(found) = self.0.get_mut(&lease).filter(|found| found.ending) {
            found.ending = false;
            found.deadline = retry;
        }
    }

    /// When the next lease runs out.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0.values().filter(|lease| !lease.ending).map(|lease| lease.deadline).min()
    }

    /// After (re)opening: the file's leases. Ones not known start with their whole time to live.
    pub(super) fn reconcile(&mut self, stored: &BTreeMap<LeaseId, Duration>, now: Duration) {
        self.0.retain(|id, _| stored.contains_key(id));
        for (id, ttl) in stored {
            if !self.0.contains_key(id) {
                self.granted(*id, *ttl, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_lease_lives_as_long_as_it_is_kept_alive() {
        let mut leases = Leases::default();
        leases.granted(LeaseId(1), S(10), S(0));
        leases.granted(LeaseId(2), S(20), S(0));
        assert_eq!(leases.next_deadline(), Some(S(10)));
        assert_eq!(leases.keep_alive(LeaseId(1), S(9)), Some(S(10)));
        assert_eq!(leases.take_expired(S(18)), []);
        assert_eq!(leases.take_expired(S(19)), [LeaseId(1)]);
        assert_eq!(leases.take_expired(S(19)), [], "given out once");
        assert_eq!(leases.keep_alive(LeaseId(1), S(19)), None, "its end is on the way");
        assert_eq!(leases.keep_alive(LeaseId(2), S(20)), None, "run out, though nobody has looked yet");
    }

    #[test]
    fn an_end_that_failed_is_tried_again_and_never_revived() {
        let mut leases = Leases::default();
        leases.granted(LeaseId(1), S(10), S(0));
        assert_eq!(leases.take_expired(S(10)), [LeaseId(1)]);
        leases.not_ended(LeaseId(1), S(12));
        assert_eq!(leases.take_expired(S(11)), []);
        assert_eq!(leases.keep_alive(LeaseId(1), S(11)), None);
        assert_eq!(leases.take_expired(S(12)), [LeaseId(1)]);
        leases.ended(LeaseId(1));
        assert_eq!(leases.next_deadline(), None);
    }

    #[test]
    fn reopening_restarts_unknown_leases_and_forgets_vanished_ones() {
        let mut leases = Leases::default();
        leases.granted(LeaseId(1), S(10), S(0));
        leases.granted(LeaseId(2), S(10), S(0));
        leases.reconcile(&BTreeMap::from([(LeaseId(2), S(10)), (LeaseId(3), S(5))]), S(8));
        assert_eq!(leases.keep_alive(LeaseId(1), S(8)), None);
        assert_eq!(leases.take_expired(S(10)), [LeaseId(2)]);
        assert_eq!(leases.take_expired(S(13)), [LeaseId(3)]);
    }
}

//! Filters of one agent: who declined what, and until when. Owns their grouping and the rounding of their
//! ends.

use plenum_api::Millis;

use crate::bag::Bag;
use crate::bits::Span;

/// The longest filter; Mesos' limit.
pub const LONGEST: Millis = Millis::from_secs(365 * 24 * 3600);

/// When a filter that starts now ends: after `refuse`, rounded up by at most a sixteenth of it, so that
/// filters of one round end together.
pub(crate) fn end(now: Millis, refuse: Millis) -> Millis {
    let refuse = refuse.get().min(LONGEST.get());
    let granule = 1u64 << (refuse / 16).max(1).ilog2();
    Millis(now.get().saturating_add(refuse).div_ceil(granule).saturating_mul(granule))
}

/// Subscriptions that declined the same until the same moment.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) until: Millis,
    pub(crate) declined: Bag,
    pub(crate) bits: Span,
}

/// All filters on an agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    groups: Vec<Group>,
}

impl Filters {
    /// Remembers a refusal; older ones that say no more than this one are forgotten.
    pub(crate) fn add(&mut self, bit: u32, declined: Bag, until: Millis) {
        let mut known = false;
        for group in &mut self.groups {
            if group.until == until && group.declined == declined {
                group.bits.insert(bit);
                known = true;
            } else if group.until <= until && group.bits.contains(bit) && declined.contains(&group.declined) {
                group.bits.remove(bit);
            }
        }
        self.groups.retain(|g| !g.bits.is_empty());
        if !known {
            let mut bits = Span::default();
            bits.insert(bit);
            self.groups.push(Group { until, declined, bits });
        }
    }

    /// Forgets what this bit declined.
    pub(crate) fn forget(&mut self, bit: u32) {
        self.groups.iter_mut().for_each(|g| g.bits.remove(bit));
        self.groups.retain(|g| !g.bits.is_empty());
    }

    /// Drops groups that have ended; how many.
    pub(crate) fn expire(&mut self, now: Millis) -> u64 {
        let before = self.groups.len();
        self.groups.retain(|g| g.until > now);
        (before - self.groups.len()) as u64
    }

    pub(crate) fn clear(&mut self) {
        self.groups.clear();
    }

    /// Groups that still hold.
    pub(crate) fn active(&self, now: Millis) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |g| g.until > now)
    }

    /// Until when this bit's filters hold such an offer back, if they do.
    pub(crate) fn holds_back(&self, bit: u32, offer: &Bag, now: Millis) -> Option<Millis> {
        let held = |g: &&Group| g.bits.contains(bit) && g.declined.contains(offer);
        self.active(now).filter(held).map(|g| g.until).max()
    }

    pub(crate) fn bags(&self) -> impl Iterator<Item = &Bag> {
        self.groups.iter().map(|g| &g.declined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bag::Amount;

    fn cpus(n: i64) -> Bag {
        let mut bag = Bag::default();
        bag.add_one(0, &Amount::Scalar(n));
        bag
    }

    #[test]
    fn ends_are_never_early_and_little_late() {
        for refuse in [1, 7, 16, 100, 5_000, 5_001, 60_000, 3_600_000, LONGEST.get() * 2] {
            for now in [0, 1, 999, 123_456_789] {
                let asked = refuse.min(LONGEST.get());
                let late = end(Millis(now), Millis(refuse)).get() - now - asked;
                assert!(late <= asked / 16, "{now}+{refuse}: {late} late");
            }
        }
    }

    #[test]
    fn one_round_is_one_group() {
        let mut filters = Filters::default();
        for bit in 0..2000 {
            filters.add(bit, cpus(8000), Millis(5000));
        }
        assert_eq!(filters.groups.len(), 1);
        filters.add(7, cpus(9000), Millis(6000));
        assert_eq!(filters.groups.len(), 2);
        assert_eq!(filters.holds_back(7, &cpus(8500), Millis(0)), Some(Millis(6000)));
        assert_eq!(filters.holds_back(8, &cpus(8500), Millis(0)), None);
        assert_eq!(filters.holds_back(8, &cpus(8000), Millis(4999)), Some(Millis(5000)));
        assert_eq!(filters.holds_back(8, &cpus(8000), Millis(5000)), None);
        assert_eq!(filters.expire(Millis(5000)), 1);
        filters.forget(7);
        assert!(filters.groups.is_empty());
    }
}

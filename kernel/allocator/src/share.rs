//! Dominant shares: the ordering key of roles and frameworks, and the cluster totals it is measured against.

use std::cmp::Ordering;

use crate::kinds::{Amounts, NameId};

/// A dominant share divided by a weight; never negative, never not-a-number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share(f64);

impl Share {
    pub(crate) fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Share {}
impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What the cluster has, and the rounded figures that shares are measured against.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    sums: Amounts,
    denominators: Vec<i64>,
    excluded: Vec<NameId>,
}

/// Rounds up to ten significant bits, so that a large cluster's figure stands still while single agents
/// come and go.
pub(crate) fn round_total(total: i64) -> i64 {
    let bits = 64 - total.max(0).leading_zeros();
    let shift = bits.saturating_sub(10);
    let step = (1i64 << shift) - 1;
    total.max(0).saturating_add(step) & !step
}

impl Totals {
    pub(crate) fn new(excluded: Vec<NameId>) -> Self {
        Totals { excluded, ..Totals::default() }
    }

    /// Takes a change in; whether any denominator moved, so that all shares are to be computed anew.
    pub(crate) fn apply(&mut self, change: &Amounts, factor: i64) -> bool {
        self.sums.apply(change, factor);
        let mut moved = false;
        for (name, amount) in change.iter() {
            if amount == 0 || self.excluded.contains(&name) {
                continue;
            }
            if name >= self.denominators.len() {
                self.denominators.resize(name + 1, 0);
            }
            let rounded = round_total(self.sums.get(name));
            if let Some(slot) = self.denominators.get_mut(name)
                && *slot != rounded
            {
                *slot = rounded;
                moved = true;
            }
        }
        moved
    }

    /// The largest part of any of the cluster's scalars, divided by the weight.
    pub(crate) fn share(&self, allocated: &Amounts, weight: f64) -> Share {
        let part = |(name, amount): (NameId, i64)| {
            let total = self.denominators.get(name).copied().unwrap_or(0);
            if total > 0 && amount > 0 { amount as f64 / total as f64 } else { 0.0 }
        };
        Share(allocated.iter().map(part).fold(0.0, f64::max) / weight)
    }
}

#[cfg(test)]
mod tests {
    use super::round_total;

    #[test]
    fn rounds_up_by_less_than_a_five_hundredth() {
        for (total, rounded) in
            [(0, 0), (-5, 0), (1, 1), (1023, 1023), (1024, 1024), (1025, 1026), (9000, 9008)]
        {
            assert_eq!(round_total(total), rounded, "{total}");
        }
        for total in (1..5_000_000i64).step_by(977) {
            let rounded = round_total(total);
            assert!(rounded >= total && (rounded - total) * 512 < total, "{total} {rounded}");
        }
        assert!(round_total(i64::MAX) > 0);
    }
}

//! Amounts of interned kinds: the algebra of the hot path. A bag is sorted by kind; zero amounts are not
//! kept.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use plenum_api::resources::Ranges;

/// A resource without its amount, as a number in [`crate::kinds::Kinds`].
pub(crate) type KindId = u32;

/// How much of a kind. Scalars are thousandths; of kinds that only come whole, the number of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Scalar(i64),
    Ranges(Ranges),
    Items(BTreeSet<String>),
}

impl Amount {
    fn is_zero(&self) -> bool {
        match self {
            Amount::Scalar(n) => *n <= 0,
            Amount::Ranges(r) => r.is_empty(),
            Amount::Items(i) => i.is_empty(),
        }
    }

    fn contains(&self, other: &Amount) -> bool {
        match (self, other) {
            (Amount::Scalar(a), Amount::Scalar(b)) => a >= b,
            (Amount::Ranges(a), Amount::Ranges(b)) => a.contains(b),
            (Amount::Items(a), Amount::Items(b)) => b.is_subset(a),
            _ => false,
        }
    }

    fn add(&mut self, other: &Amount) {
        match (self, other) {
            (Amount::Scalar(a), Amount::Scalar(b)) => *a = a.saturating_add(*b),
            (Amount::Ranges(a), Amount::Ranges(b)) => *a = a.union(b),
            (Amount::Items(a), Amount::Items(b)) => a.extend(b.iter().cloned()),
            // One kind has one type of value: nothing else can meet.
            _ => {}
        }
    }

    fn subtract(&mut self, other: &Amount) {
        match (self, other) {
            (Amount::Scalar(a), Amount::Scalar(b)) => *a = a.saturating_sub(*b),
            (Amount::Ranges(a), Amount::Ranges(b)) => *a = a.difference(b),
            (Amount::Items(a), Amount::Items(b)) => a.retain(|item| !b.contains(item)),
            _ => {}
        }
    }
}

/// Resources as (kind, amount), sorted by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bag {
    entries: Vec<(KindId, Amount)>,
}

impl Bag {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (KindId, &Amount)> {
        self.entries.iter().map(|(kind, amount)| (*kind, amount))
    }

    pub(crate) fn add_one(&mut self, kind: KindId, amount: &Amount) {
        if amount.is_zero() {
            return;
        }
        match self.entries.binary_search_by_key(&kind, |(k, _)| *k) {
            Ok(index) => {
                if let Some((_, mine)) = self.entries.get_mut(index) {
                    mine.add(amount);
                }
            }
            Err(index) => self.entries.insert(index, (kind, amount.clone())),
        }
    }

    pub(crate) fn add(&mut self, other: &Bag) {
        for (kind, amount) in other.iter() {
            self.add_one(kind, amount);
        }
    }

    /// Takes away what is there; what is not there is not owed.
    pub(crate) fn subtract(&mut self, other: &Bag) {
        for (kind, amount) in other.iter() {
            if let Ok(index) = self.entries.binary_search_by_key(&kind, |(k, _)| *k)
                && let Some((_, mine)) = self.entries.get_mut(index)
            {
                mine.subtract(amount);
                if mine.is_zero() {
                    self.entries.remove(index);
                }
            }
        }
    }

    pub(crate) fn contains(&self, other: &Bag) -> bool {
        let mut mine = self.entries.iter();
        other.entries.iter().all(|(kind, amount)| {
            mine.by_ref().find(|(k, _)| k >= kind).is_some_and(|(k, have)| k == kind && have.contains(amount))
        })
    }

    /// Appends an entry; kinds must come in ascending order.
    pub(crate) fn push(&mut self, kind: KindId, amount: Amount) {
        debug_assert!(self.entries.last().is_none_or(|(last, _)| last.cmp(&kind) == Ordering::Less));
        if !amount.is_zero() {
            self.entries.push((kind, amount));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_compares_all_kinds() {
        let bag = |list: &[(u32, i64)]| {
            let mut bag = Bag::default();
            list.iter().for_each(|(k, n)| bag.add_one(*k, &Amount::Scalar(*n)));
            bag
        };
        let have = bag(&[(1, 5), (4, 2), (9, 1)]);
        for (want, expected) in [
            (bag(&[]), true),
            (bag(&[(1, 5), (9, 1)]), true),
            (bag(&[(1, 6)]), false),
            (bag(&[(2, 1)]), false),
            (bag(&[(4, 2), (9, 1), (10, 1)]), false),
        ] {
            assert_eq!(have.contains(&want), expected, "{want:?}");
        }
        let mut items = Bag::default();
        items.add_one(2, &Amount::Items(["a".to_string(), "c".into()].into()));
        let mut one = Bag::default();
        one.add_one(2, &Amount::Items(["c".to_string()].into()));
        assert!(items.contains(&one) && !one.contains(&items));
        items.subtract(&one);
        assert!(!items.contains(&one) && !items.is_empty());
    }
}

//! Sets of integers as inclusive ranges, such as ports.

use std::fmt;

use crate::mesos;

/// Disjoint, sorted, non-touching inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// From ranges in any order, overlapping or not; inverted ones are left out.
    pub fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<(u64, u64)> = ranges.into_iter().filter(|r| r.0 <= r.1).collect();
        sorted.sort_unstable();
        Self(coalesce(sorted))
    }

    /// One range, both ends included.
    pub fn one(begin: u64, end: u64) -> Self {
        Self::new([(begin, end)])
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Every number in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter().flat_map(|(begin, end)| begin..=end)
    }

    /// True without numbers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers; saturates.
    pub fn count(&self) -> u64 {
        self.iter().fold(0, |n, (begin, end)| n.saturating_add((end - begin).saturating_add(1)))
    }

    /// True when the number is in one of the ranges.
    pub fn has(&self, number: u64) -> bool {
        let after = self.0.partition_point(|r| r.0 <= number);
        after > 0 && number <= self.0[after - 1].1
    }

    /// True when every number of `other` is here.
    pub fn contains(&self, other: &Ranges) -> bool {
        other.iter().all(|(begin, end)| {
            let after = self.0.partition_point(|r| r.0 <= begin);
            after > 0 && end <= self.0[after - 1].1
        })
    }

    /// Numbers of either.
    pub fn union(&self, other: &Ranges) -> Ranges {
        let mut all = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut a, mut b) = (self.0.as_slice(), other.0.as_slice());
        // A merge of two sorted lists.
        loop {
            match (a.split_first(), b.split_first()) {
                (Some((x, rest)), Some((y, _))) if x <= y => {
                    all.push(*x);
                    a = rest;
                }
                (_, Some((y, rest))) => {
                    all.push(*y);
                    b = rest;
                }
                (_, None) => {
                    all.extend_from_slice(a);
                    return Self(coalesce(all));
                }
            }
        }
    }

    /// Numbers of `self` that are not in `other`.
    pub fn difference(&self, other: &Ranges) -> Ranges {
        let mut out = Vec::with_capacity(self.0.len() + other.0.len());
        let mut from = 0;
        for (begin, end) in self.iter() {
            let mut next = Some(begin);
            while other.0.get(from).is_some_and(|cut| cut.1 < begin) {
                from += 1;
            }
            for &(low, high) in other.0[from..].iter().take_while(|cut| cut.0 <= end) {
                if let Some(start) = next
                    && start < low
                {
                    out.push((start, low - 1));
                }
                next = high.checked_add(1);
            }
            if let Some(start) = next
                && start <= end
            {
                out.push((start, end));
            }
        }
        Self(out)
    }

    /// Numbers of both.
    pub fn intersection(&self, other: &Ranges) -> Ranges {
        let mut out = Vec::new();
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let (low, high) = (a.0.max(b.0), a.1.min(b.1));
            if low <= high {
                out.push((low, high));
            }
            if a.1 < b.1 { i += 1 } else { j += 1 }
        }
        Self(out)
    }
}

fn coalesce(sorted: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (begin, end) in sorted {
        match out.last_mut() {
            Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => out.push((begin, end)),
        }
    }
    out
}

impl From<&mesos::value::Ranges> for Ranges {
    fn from(wire: &mesos::value::Ranges) -> Self {
        Self::new(wire.range.iter().map(|r| (r.begin, r.end)))
    }
}

impl From<&Ranges> for mesos::value::Ranges {
    fn from(ranges: &Ranges) -> Self {
        Self { range: ranges.iter().map(|(begin, end)| mesos::value::Range { begin, end }).collect() }
    }
}

/// As in `[31000-31005, 31010-31010]`.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (begin, end)) in self.iter().enumerate() {
            write!(f, "{}{begin}-{end}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

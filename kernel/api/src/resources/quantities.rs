//! Sums of scalars by name, for quota and fair sharing.

use std::collections::BTreeMap;
use std::fmt;

use super::{Amount, Name};
use crate::mesos;

/// Amounts by resource name, sorted; a name that is absent counts as zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantities(Vec<(Name, Amount)>);

impl Quantities {
    /// Nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The amount of this name; zero when absent.
    pub fn get(&self, name: &Name) -> Amount {
        self.position(name).map_or(Amount::ZERO, |at| self.0[at].1)
    }

    /// The amount of this name; `None` when absent.
    pub fn find(&self, name: &Name) -> Option<Amount> {
        self.position(name).ok().map(|at| self.0[at].1)
    }

    fn position(&self, name: &Name) -> Result<usize, usize> {
        self.0.binary_search_by(|entry| entry.0.cmp(name))
    }

    /// Sets the amount of this name (zero is kept, as a limit of zero must be).
    pub fn set(&mut self, name: Name, amount: Amount) {
        match self.position(&name) {
            Ok(at) => self.0[at].1 = amount,
            Err(at) => self.0.insert(at, (name, amount)),
        }
    }

    /// Adds to the amount of this name.
    pub fn add(&mut self, name: Name, amount: Amount) {
        match self.position(&name) {
            Ok(at) => self.0[at].1 += amount,
            Err(at) => self.0.insert(at, (name, amount)),
        }
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Quantities) {
        other.iter().for_each(|(name, amount)| self.add(name.clone(), amount));
    }

    /// Takes all of `other` away, not below zero; names that reach zero are dropped.
    pub fn sub_all(&mut self, other: &Quantities) {
        for (name, amount) in other.iter() {
            if let Ok(at) = self.position(name) {
                self.0[at].1 = self.0[at].1.less(amount);
                if self.0[at].1.is_zero() {
                    self.0.remove(at);
                }
            }
        }
    }

    /// True when no amount of `other` is larger than here.
    pub fn contains(&self, other: &Quantities) -> bool {
        other.iter().all(|(name, amount)| self.get(name) >= amount)
    }

    /// True when all amounts are zero.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|entry| entry.1.is_zero())
    }

    /// Names and amounts in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, Amount)> {
        self.0.iter().map(|entry| (&entry.0, entry.1))
    }

    /// From the map form of the wire (task limits, quota).
    pub fn from_wire(map: &BTreeMap<String, mesos::value::Scalar>) -> Self {
        map.iter().map(|(name, scalar)| (Name::from(name.as_str()), Amount::from_f64(scalar.value))).collect()
    }

    /// The map form of the wire.
    pub fn to_wire(&self) -> BTreeMap<String, mesos::value::Scalar> {
        let scalar = |amount: Amount| mesos::value::Scalar { value: amount.as_f64() };
        self.iter().map(|(name, amount)| (name.to_string(), scalar(amount))).collect()
    }
}

impl FromIterator<(Name, Amount)> for Quantities {
    fn from_iter<I: IntoIterator<Item = (Name, Amount)>>(entries: I) -> Self {
        let mut out = Quantities::new();
        entries.into_iter().for_each(|(name, amount)| out.add(name, amount));
        out
    }
}

impl fmt::Display for Quantities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, amount)) in self.iter().enumerate() {
            write!(f, "{}{name}:{amount}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

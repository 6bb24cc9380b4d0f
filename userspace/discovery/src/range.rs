//! A range of IPv4 addresses, and which address of it a name gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::names;

/// A range such as `11.0.0.0/16`; 8 to 30 bits are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    base: u32,
    bits: u8,
}

impl Range {
    /// The range around `address` with `bits` fixed bits, if that many are sensible.
    #[must_use]
    pub fn new(address: Ipv4Addr, bits: u8) -> Option<Self> {
        if !(8..=30).contains(&bits) {
            return None;
        }
        Some(Self { base: u32::from(address) & (u32::MAX << (32 - bits)), bits })
    }

    /// Whether the address is usable here: inside, and neither the first nor the last one.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.base);
        (1..=self.usable()).contains(&offset)
    }

    /// How many addresses can be given out.
    #[must_use]
    pub fn usable(self) -> u32 {
        (1u32 << (32 - self.bits)).saturating_sub(2)
    }

    fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1 + n % self.usable())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(base, bits)| Some((base.parse().ok()?, bits.parse().ok()?)));
        parts.and_then(|(base, bits)| Self::new(base, bits)).ok_or_else(|| {
            format!("\"{text}\" is no range of addresses: write it as 11.0.0.0/16, with 8 to 30 fixed bits")
        })
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

/// Which name has which address. A name's address is a hash of it; when that is taken, the next free one. The choice depends on the order
/// of arrival only where two names collide, and is written down with the records, so that it survives a restart.
#[derive(Debug, Clone)]
pub struct Assigner {
    range: Range,
    by_name: BTreeMap<String, Ipv4Addr>,
    owner: BTreeMap<Ipv4Addr, String>,
}

impl Assigner {
    /// Nothing is given out yet.
    #[must_use]
    pub fn new(range: Range) -> Self {
        Self { range, by_name: BTreeMap::new(), owner: BTreeMap::new() }
    }

    /// Remembers what was given out earlier. What lies outside the range or is taken is left out.
    pub fn remember(&mut self, name: &str, address: Ipv4Addr) {
        if self.range.contains(address)
            && !self.owner.contains_key(&address)
            && !self.by_name.contains_key(name)
        {
            self.by_name.insert(name.to_owned(), address);
            self.owner.insert(address, name.to_owned());
        }
    }

    /// The name's address; `None` when the range is full.
    pub fn named(&mut self, name: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_name.get(name) {
            return Some(*address);
        }
        let count = self.range.usable();
        if self.owner.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
            return None;
        }
        let first = u32::try_from(names::hash(name) % u64::from(count)).unwrap_or(0);
        let free = (0..count)
            .map(|n| self.range.nth(first + n))
            .find(|address| !self.owner.contains_key(address))?;
        self.remember(name, free);
        Some(free)
    }

    /// Takes an address that somebody asks for by number; false when it is outside the range or belongs to a name.
    pub fn literal(&mut self, address: Ipv4Addr) -> bool {
        let own = address.to_string();
        self.remember(&own, address);
        self.owner.get(&address) == Some(&own)
    }

    /// What a name has, if anything.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.by_name.get(name).copied()
    }

    /// Gives an address back.
    pub fn release(&mut self, name: &str) {
        if let Some(address) = self.by_name.remove(name) {
            self.owner.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range: Range = "11.3.9.9/16".parse().unwrap();
        assert_eq!(range.to_string(), "11.3.0.0/16");
        assert!(range.contains([11, 3, 0, 1].into()) && range.contains([11, 3, 255, 254].into()));
        for outside in [[11, 3, 0, 0], [11, 3, 255, 255], [11, 2, 255, 255], [11, 4, 0, 1], [0, 0, 0, 0]] {
            assert!(!range.contains(outside.into()), "{outside:?}");
        }
        for wrong in ["", "11.0.0.0", "11.0.0.0/31", "11.0.0.0/7", "x/16", "11.0.0.0/-1"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_stable_and_never_shared() {
        let range: Range = "11.0.0.0/28".parse().unwrap();
        let mut one = Assigner::new(range);
        let names: Vec<String> = (0..14).map(|n| format!("app{n}.marathon")).collect();
        let given: Vec<_> = names.iter().map(|name| one.named(name).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), 14);
        assert_eq!(one.named("one-too-many"), None);
        assert_eq!(one.named(&names[3]), Some(given[3]));
        let mut same = Assigner::new(range);
        assert_eq!(names.iter().map(|name| same.named(name).unwrap()).collect::<Vec<_>>(), given);
        one.release(&names[3]);
        assert_eq!(one.named(&names[3]), Some(given[3]), "the only free one");
    }

    #[test]
    fn literals_do_not_take_a_names_address() {
        let mut given = Assigner::new("11.0.0.0/28".parse().unwrap());
        let address = given.named("web.marathon").unwrap();
        assert!(!given.literal(address));
        assert!(!given.literal([12, 0, 0, 1].into()));
        let other = if address == Ipv4Addr::new(11, 0, 0, 9) { [11, 0, 0, 8] } else { [11, 0, 0, 9] };
        assert!(given.literal(other.into()) && given.literal(other.into()));
    }
}

//! The addresses of one network and who has which. Pure; the records on disk are what is kept.

use std::collections::BTreeMap;

use crate::types::IpNet;

/// The first two addresses of a network are the tunnel's or nobody's, and the bridge's; the last one is the broadcast address.
const FIRST: u32 = 2;

/// The addresses of one network, by their number in it. The one that was free longest is given first, so that what somebody still sends to a
/// container that has ended does not soon reach another.
#[derive(Debug, Clone)]
pub struct Pool {
    network: IpNet,
    taken: BTreeMap<u32, String>,
    of: BTreeMap<String, u32>,
    next: u32,
}

impl Pool {
    /// All addresses of an IPv4 network of /8 to /29 are free.
    #[must_use]
    pub fn new(network: IpNet) -> Self {
        Self { network: network.network(), taken: BTreeMap::new(), of: BTreeMap::new(), next: FIRST }
    }

    /// One past the last number that can be given.
    fn end(&self) -> u32 {
        let free = u32::from(32u8.saturating_sub(self.network.bits));
        1u32.checked_shl(free).unwrap_or(u32::MAX).saturating_sub(1)
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// The number of an address for the container: the one it has, or a free one. `None` when all are taken.
    pub fn take(&mut self, container: &str) -> Option<u32> {
        if let Some(number) = self.of.get(container) {
            return Some(*number);
        }
        let end = self.end();
        let number =
            (self.next..end).chain(FIRST..self.next.min(end)).find(|at| !self.taken.contains_key(at))?;
        self.taken.insert(number, container.to_owned());
        self.of.insert(container.to_owned(), number);
        self.next = number + 1;
        Some(number)
    }

    /// Notes who has a number. `false` when it is somebody else's or cannot be given.
    pub fn note(&mut self, number: u32, container: &str) -> bool {
        let free = self.taken.get(&number).is_none_or(|who| who == container);
        let good = free && (FIRST..self.end()).contains(&number);
        if good {
            if let Some(old) = self.of.insert(container.to_owned(), number) {
                self.taken.remove(&old);
            }
            self.taken.insert(number, container.to_owned());
            self.next = self.next.max(number + 1);
        }
        good
    }

    /// Frees what the container has.
    pub fn free(&mut self, container: &str) {
        if let Some(number) = self.of.remove(container) {
            self.taken.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_has_one_address_until_none_is_left() {
        let mut pool = Pool::new("10.1.2.0/29".parse().unwrap());
        assert_eq!(pool.take("a"), Some(2));
        assert_eq!(pool.take("a"), Some(2));
        for name in ["b", "c", "d", "e"] {
            assert!(pool.take(name).is_some());
        }
        assert_eq!(pool.take("f"), None);
        pool.free("a");
        assert_eq!(pool.take("f"), Some(2));
    }

    #[test]
    fn what_was_just_freed_is_given_last() {
        let mut pool = Pool::new("10.1.2.0/29".parse().unwrap());
        for expected in [2, 3, 4, 5, 6, 2, 3] {
            assert_eq!(pool.take("a"), Some(expected));
            pool.free("a");
        }
    }

    #[test]
    fn numbers_of_records_are_checked() {
        let mut pool = Pool::new("10.1.2.0/29".parse().unwrap());
        assert!(pool.note(4, "a"));
        assert!(pool.note(4, "a"));
        for (number, who) in [(4, "b"), (0, "b"), (1, "b"), (7, "b"), (u32::MAX, "b")] {
            assert!(!pool.note(number, who), "{number}");
        }
        assert_eq!(pool.take("a"), Some(4));
        assert_eq!(pool.take("b"), Some(5));
    }
}

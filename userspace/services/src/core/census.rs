//! What all apps and pods together take: roles and service ports. Kept up to date change by change, so that to plan one change nobody has to
//! look at all of them.
//!
//! Owns no decision: it only answers what a walk over the state would. [`Census::of`] is that walk; tests hold the two against each other.

use std::collections::BTreeMap;

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::Entry;

/// The counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Definitions of each role, also of what is going.
    roles: BTreeMap<String, usize>,
    /// Of what readers see.
    ports: Ports,
}

impl Census {
    /// Of nothing. Service ports are given out between these two.
    pub(super) fn new(service_ports: (u16, u16)) -> Self {
        let (first, last) = service_ports;
        let (used, freed) = (RedBlackTreeMapSync::new_sync(), RedBlackTreeSetSync::new_sync());
        let ports = Ports { used, freed, next: first.into(), first, last };
        Self { roles: BTreeMap::new(), ports }
    }

    /// An app or a pod is there. To be undone by [`Census::leave`] before it changes.
    pub(super) fn enter(&mut self, entry: &Entry) {
        let count = self.roles.entry(entry.wanted.role().to_owned()).or_default();
        *count = count.saturating_add(1);
        if !entry.removing {
            self.ports.take(entry.wanted.service_ports());
        }
    }

    /// An app or a pod is about to be no more, or another one.
    pub(super) fn leave(&mut self, entry: &Entry) {
        let role = entry.wanted.role();
        let left = self.roles.get(role).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            self.roles.remove(role);
        } else {
            self.roles.insert(role.to_owned(), left);
        }
        if !entry.removing {
            for port in entry.wanted.service_ports() {
                self.ports.free_again(port);
            }
        }
    }

    /// Every role that a definition has.
    pub(super) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The service ports that are taken, to be tried on.
    pub(super) fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// The same, counted anew; only which port was never looked at is taken from there.
    #[cfg(test)]
    pub(super) fn of(core: &super::Core) -> Self {
        let mut census = Self::new(core.state.settings.service_ports);
        core.state.apps.values().for_each(|entry| census.enter(entry));
        let ports = &mut census.ports;
        ports.next = core.census.ports.next;
        let free = (ports.first..=ports.last)
            .filter(|port| u32::from(*port) < ports.next && !ports.used.contains_key(port));
        ports.freed = free.collect();
        census
    }
}

/// Service ports, and how many definitions have each. A clone costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    used: RedBlackTreeMapSync<u16, u32>,
    /// Those below `next` that are free.
    freed: RedBlackTreeSetSync<u16>,
    /// The lowest that was never looked at; only rises, so that all searches together go once through all ports.
    next: u32,
    first: u16,
    last: u16,
}

impl Ports {
    /// So many are taken more.
    pub(super) fn take(&mut self, ports: impl IntoIterator<Item = u16>) {
        for port in ports.into_iter().filter(|port| *port != 0) {
            let count = self.used.get(&port).copied().unwrap_or(0);
            self.used.insert_mut(port, count.saturating_add(1));
            if count == 0 && u32::from(port) < self.next {
                self.freed.remove_mut(&port);
            }
            while self.never().is_some_and(|port| self.used.contains_key(&port)) {
                self.next = self.next.saturating_add(1);
            }
        }
    }

    /// Gives one back that somebody had; whether nobody else has it.
    pub(super) fn free_again(&mut self, port: u16) -> bool {
        let Some(count) = self.used.get(&port).map(|count| count.saturating_sub(1)) else { return true };
        if count > 0 {
            self.used.insert_mut(port, count);
            return false;
        }
        self.used.remove_mut(&port);
        if port >= self.first && u32::from(port) < self.next {
            self.freed.insert_mut(port);
        }
        true
    }

    /// The lowest that is free.
    pub(super) fn next(&self) -> Option<u16> {
        self.freed.first().copied().or_else(|| self.never())
    }

    /// The lowest that was never looked at, if there is one.
    fn never(&self) -> Option<u16> {
        u16::try_from(self.next).ok().filter(|port| *port <= self.last)
    }

    /// Whether it is one of those that are given out.
    pub(super) fn is_ours(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_port_is_given_out_whatever_came_and_went() {
        let mut ports = Census::new((10, 14)).ports();
        let give = |ports: &mut Ports| ports.next().inspect(|port| ports.take([*port]));
        ports.take([11, 0, 900]);
        assert_eq!([give(&mut ports), give(&mut ports), give(&mut ports)], [Some(10), Some(12), Some(13)]);
        ports.take([12]);
        assert!(!ports.free_again(12), "somebody else has it");
        assert!(ports.free_again(12) && ports.free_again(10) && ports.free_again(900));
        let tried = ports.clone();
        assert_eq!([give(&mut ports), give(&mut ports), give(&mut ports)], [Some(10), Some(12), Some(14)]);
        assert_eq!((ports.next(), tried.next()), (None, Some(10)));
        assert!(ports.is_ours(14) && !ports.is_ours(900));
        let mut last = Census::new((u16::MAX, u16::MAX)).ports();
        assert_eq!((give(&mut last), give(&mut last)), (Some(u16::MAX), None));
    }
}

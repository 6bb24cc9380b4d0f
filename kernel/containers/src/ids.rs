//! Ranges of ids for containers with a user namespace: whose is which. Pure.

use plenum_shim::wire::Ids;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Ids of one container: as many as the users of any image that does not make up its own.
pub const EACH: u32 = 65_536;

/// The ids of the machine that containers with a user namespace have. Nobody else may have them: no user of the machine, no other agent on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespaces {
    /// The first of them.
    pub first: u32,
    /// For how many containers at a time; each has [`EACH`].
    pub containers: u32,
    /// Folders on the file systems that containers have files of, that of images first: it is tried whether they can be mounted with other owners.
    pub folders: Vec<PathBuf>,
}

impl UserNamespaces {
    /// What is wrong with the numbers.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let end = u64::from(self.first) + u64::from(self.containers) * u64::from(EACH);
        if self.first < EACH {
            return Some(format!("the first id is {}, below {EACH} are users of the machine", self.first));
        }
        if self.containers == 0 {
            return Some("there are ids for no container".to_owned());
        }
        // The last of all means "nobody" to the kernel.
        (end > u64::from(u32::MAX)).then(|| {
            format!(
                "{} containers from id {} on need ids up to {end}; there are 2³²",
                self.containers, self.first
            )
        })
    }
}

/// Which container has which ids.
#[derive(Debug, Default)]
pub struct Taken {
    by: BTreeMap<String, u32>,
}

impl Taken {
    /// Ids for a container: the ones that its name leads to, if they are free, or the next that are. `None`: all are taken.
    pub fn take(&mut self, of: &UserNamespaces, id: &str) -> Option<Ids> {
        let ids = |first| Ids { first, count: EACH };
        if let Some(first) = self.by.get(id) {
            return Some(ids(*first));
        }
        let hash =
            id.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let start = hash.checked_rem(of.containers)?;
        let taken: std::collections::BTreeSet<u32> = self.by.values().copied().collect();
        // Ranges of another setting may lie across those of this one.
        let free = |first: &u32| {
            let (from, to) = (first.saturating_sub(EACH - 1), first.saturating_add(EACH - 1));
            taken.range(from..=to).next().is_none()
        };
        let order = (start..of.containers).chain(0..start);
        let first = order.map(|number| of.first.saturating_add(number.saturating_mul(EACH))).find(free)?;
        self.by.insert(id.to_owned(), first);
        Some(ids(first))
    }

    /// A container was found that has these.
    pub fn found(&mut self, id: &str, ids: &Ids) {
        self.by.insert(id.to_owned(), ids.first);
    }

    /// The container is gone.
    pub fn give_back(&mut self, id: &str) {
        self.by.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, containers: u32) -> UserNamespaces {
        UserNamespaces { first, containers, folders: Vec::new() }
    }

    #[test]
    fn nobody_shares_and_everybody_finds_the_same_again() {
        let of = range(1 << 20, 50);
        let fill = || {
            let mut taken = Taken::default();
            let firsts: Vec<u32> =
                (0..50).map(|n| taken.take(&of, &format!("c{n}")).unwrap().first).collect();
            assert_eq!(taken.take(&of, "one more"), None);
            (taken, firsts)
        };
        let (mut taken, firsts) = fill();
        assert_eq!(firsts, fill().1, "the same names, the same ids");
        let mut sorted = firsts.clone();
        sorted.sort_unstable();
        let all: Vec<u32> = (0..50).map(|n| (1 << 20) + n * EACH).collect();
        assert_eq!(sorted, all);
        assert_eq!(taken.take(&of, "c7").unwrap(), Ids { first: firsts[7], count: EACH }, "still its own");
        taken.give_back("c7");
        assert_eq!(taken.take(&of, "one more").unwrap().first, firsts[7]);
    }

    #[test]
    fn ranges_of_another_setting_are_in_the_way_where_they_overlap() {
        let mut taken = Taken::default();
        taken.found("old", &Ids { first: (1 << 20) + 100, count: EACH });
        let of = range(1 << 20, 3);
        assert_eq!(taken.take(&of, "a").unwrap().first, (1 << 20) + 2 * EACH);
        assert_eq!(taken.take(&of, "b"), None);
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        for (of, want) in [
            (range(1000, 1), "users of the machine"),
            (range(1 << 20, 0), "no container"),
            (range(u32::MAX - EACH + 1, 1), "2³²"),
            (range(1 << 20, u32::MAX), "2³²"),
        ] {
            assert!(of.problem().unwrap().contains(want), "{of:?}");
        }
        assert_eq!(range(u32::MAX - EACH, 1).problem(), None);
        assert_eq!(range(0x7000_0000, 4096).problem(), None);
    }
}

//! Which offer in hand each missing instance goes to: the best of all that fit, not the first.
//!
//! Best is, in this order: where the groups that the app is spread over by its constraints (`GROUP_BY`, `MAX_PER`) have the fewest of its
//! instances; the node with the fewest of them; the node that would have the least left over, so that room for large instances stays
//! in one piece. A tie goes to the older offer.
//!
//! Apps take turns, one instance each. An app looks at each offer once; a queue keeps those that fit, and an entry is looked at again when
//! its turn comes, as others may have taken of the offer meanwhile. Whether it fits and how well can only have become worse by that, but for
//! a `GROUP_BY` whose emptiest group has grown: its offers wait aside and are looked at once more when nothing else is left.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use plenum_api::ids::SeededIds;
use plenum_api::{IdSource, Now};

use super::bugs::{self, Bug};
use super::constraint::Neighbours;
use super::id::PathId;
use super::matching::{Placement, Reason, Rejection};
use super::offers::Held;
use super::{Core, Entry};

/// Apps that take turns. More wait for their own round, which bounds the memory.
const TABLE: usize = 64;

/// How good an offer is for an app; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Instances of the app in the same groups.
    grouped: usize,
    /// Instances of the app on the node.
    here: u32,
    /// What would be left, in thousandths of what an instance takes.
    left: i64,
    /// The offer, by its place in hand.
    offer: usize,
}

/// An app at the table.
struct Guest {
    id: PathId,
    queue: BinaryHeap<Reverse<Score>>,
    /// Offers that only a constraint is against.
    aside: Vec<usize>,
    /// Something was placed since the last look at those.
    placed: bool,
    neighbours: Neighbours,
    on_node: BTreeMap<String, u32>,
}

impl Core {
    /// Places what waits in `ready` on the offers in hand.
    pub(super) fn fill(&mut self, ready: &[PathId], now: Now, ids: &mut dyn IdSource) {
        let mut hand: Vec<Held> = self.offers.take();
        let mut writes = Vec::new();
        for id in ready {
            writes.extend(self.relaunch(id, &mut hand, now));
        }
        for some in ready.chunks(TABLE) {
            let mut guests: Vec<Guest> = some.iter().filter_map(|id| self.seat(id, &hand, now)).collect();
            while !guests.is_empty() {
                guests.retain_mut(|guest| match self.serve(guest, &mut hand, now, ids) {
                    Some(write) => {
                        writes.push(write);
                        true
                    }
                    None => false,
                });
            }
        }
        self.offers.put_back(hand);
        self.commit(writes);
    }

    /// An app's first look at every offer. What is against one is kept for those who ask why.
    fn seat(&mut self, id: &PathId, hand: &[Held], now: Now) -> Option<Guest> {
        let entry = self.state.apps.get_mut(id).filter(|entry| entry.fresh() > 0)?;
        let mut on_node: BTreeMap<String, u32> = BTreeMap::new();
        for instance in entry.instances.values() {
            match on_node.get_mut(&instance.record.agent) {
                Some(count) => *count = count.saturating_add(1),
                None => drop(on_node.insert(instance.record.agent.clone(), 1)),
            }
        }
        let placed = entry.instances.values().map(|instance| &*instance.record.location);
        let neighbours = entry.wish.neighbours(placed);
        let mut guest = Guest {
            id: id.clone(),
            queue: BinaryHeap::new(),
            aside: Vec::new(),
            placed: false,
            neighbours,
            on_node,
        };
        for (n, held) in hand.iter().enumerate() {
            if held.offer.role != entry.wanted.role() {
                // It is not for this app and says nothing about the node.
                continue;
            }
            let found = guest.look(entry, n, held);
            entry.count(&held.offer, found.as_ref().err(), now);
            match found {
                Ok(score) => guest.queue.push(Reverse(score)),
                Err(broken) => guest.put_aside(n, &broken),
            }
        }
        Some(guest)
    }

    /// One instance for this app, if any offer fits.
    fn serve(
        &mut self,
        guest: &mut Guest,
        hand: &mut [Held],
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Option<super::Write> {
        let entry = self.state.apps.get_mut(&guest.id).filter(|entry| entry.fresh() > 0)?;
        let (n, placement) = guest.best(entry, hand, ids)?;
        let held = hand.get_mut(n)?;
        entry.moved = now.mono;
        let mut again = SeededIds::new(entry.instances.len() as u64);
        let ids = if bugs::on(Bug::ReusedId) { &mut again } else { ids };
        let (launch, write) = entry.launch(held, placement, now, ids);
        guest.settled(entry, n, held);
        self.index.insert(launch.record.id.clone(), guest.id.clone());
        if entry.missing == 0 {
            self.hungry.remove(&guest.id);
            entry.waiting = None;
        }
        held.launches.push(launch);
        Some(write)
    }
}

impl Guest {
    fn look(&self, entry: &Entry, n: usize, held: &Held) -> Result<Score, Vec<Rejection>> {
        // Which ports are taken does not matter yet.
        let placement = entry.wish.fit(&held.offer, &self.neighbours, 0)?;
        Ok(self.score(entry, n, held, &placement))
    }

    fn score(&self, entry: &Entry, n: usize, held: &Held, placement: &Placement) -> Score {
        Score {
            grouped: entry.wish.grouped(&held.offer.location, &self.neighbours),
            here: self.on_node.get(&held.offer.agent).copied().unwrap_or(0),
            left: super::matching::left_over(&held.offer, &placement.takes),
            offer: n,
        }
    }

    fn put_aside(&mut self, n: usize, broken: &[Rejection]) {
        if broken.iter().all(|one| one.reason == Reason::UnfulfilledConstraint) {
            self.aside.push(n);
        }
    }

    /// The best offer now, with what is taken of it.
    fn best(&mut self, entry: &Entry, hand: &[Held], ids: &mut dyn IdSource) -> Option<(usize, Placement)> {
        let seed = ids.uuid();
        let seed = seed.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        loop {
            let Some(Reverse(known)) = self.queue.pop() else {
                self.look_aside(entry, hand)?;
                continue;
            };
            let held = hand.get(known.offer)?;
            match entry.wish.fit(&held.offer, &self.neighbours, seed) {
                Ok(placement) => {
                    let score = self.score(entry, known.offer, held, &placement);
                    if score <= known || self.queue.peek().is_none_or(|Reverse(next)| score <= *next) {
                        return Some((known.offer, placement));
                    }
                    self.queue.push(Reverse(score));
                }
                Err(broken) => self.put_aside(known.offer, &broken),
            }
        }
    }

    /// What only a constraint was against is looked at again, once for each time that something was placed; nothing if none fits.
    fn look_aside(&mut self, entry: &Entry, hand: &[Held]) -> Option<()> {
        if !std::mem::take(&mut self.placed) {
            return None;
        }
        for n in std::mem::take(&mut self.aside) {
            match self.look(entry, n, hand.get(n)?) {
                Ok(score) => self.queue.push(Reverse(score)),
                Err(broken) => self.put_aside(n, &broken),
            }
        }
        (!self.queue.is_empty()).then_some(())
    }

    /// An instance was placed on the n-th offer, which may hold another one.
    fn settled(&mut self, entry: &mut Entry, n: usize, held: &Held) {
        self.placed = true;
        self.neighbours.add(&held.offer.location);
        let here = self.on_node.entry(held.offer.agent.clone()).or_default();
        *here = here.saturating_add(1);
        match self.look(entry, n, held) {
            Ok(score) => self.queue.push(Reverse(score)),
            Err(broken) => self.put_aside(n, &broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Script;

    /// Offers `offers`, each `ID AGENT key=value…`, at once to an app with `more`, and gives the agents that instances went to.
    fn agents(more: &str, offers: &[&str]) -> Vec<String> {
        let mut script = Script::new();
        script.run("subscribe");
        script.run(&format!(
            r#"create {{"id":"/web","cmd":"run","cpus":1,"mem":100,"portDefinitions":[],{more}}}"#
        ));
        let out = script.run(&format!("offers {}", offers.join(" ; ")));
        let accepted = out.iter().filter_map(|line| line.strip_prefix("accept o"));
        accepted
            .flat_map(|line| {
                let (offer, launches) = line.split_once(": ").unwrap();
                let agent = offers.iter().find(|o| o.starts_with(&format!("o{offer} "))).unwrap();
                let agent = agent.split(' ').nth(1).unwrap().to_owned();
                std::iter::repeat_n(agent, launches.split(", ").count())
            })
            .collect()
    }

    #[test]
    fn the_best_of_all_offers_is_taken() {
        let racks =
            ["o1 a1 cpus=9 mem=900 rack=a", "o2 a2 cpus=9 mem=900 rack=a", "o3 b1 cpus=9 mem=900 rack=b"];
        let many = r#""instances":4"#;
        for (more, offers, want) in [
            // Where the least is left over.
            (
                r#""instances":1"#,
                &["o1 a1 cpus=9 mem=900", "o2 a2 cpus=2 mem=200", "o3 a3 cpus=4 mem=400"][..],
                &["a2"][..],
            ),
            // Over nodes first, whatever is left.
            (many, &["o1 a1 cpus=9 mem=900", "o2 a2 cpus=2 mem=200"], &["a1", "a1", "a2", "a2"]),
            (many, &["o1 a1 cpus=9 mem=900", "o2 a2 cpus=1 mem=100"], &["a1", "a1", "a1", "a2"]),
            (many, &["o1 a1 cpus=2 mem=900", "o2 a2 cpus=1 mem=100"], &["a1", "a1", "a2"]),
            // Evenly over groups, and over the nodes of each.
            (r#""instances":4,"constraints":[["rack","GROUP_BY","2"]]"#, &racks, &["a1", "a2", "b1", "b1"]),
            (r#""instances":4,"constraints":[["rack","MAX_PER","2"]]"#, &racks, &["a1", "a2", "b1", "b1"]),
            (r#""instances":4,"constraints":[["rack","MAX_PER","1"]]"#, &racks, &["a1", "b1"]),
            (r#""instances":4,"constraints":[["hostname","UNIQUE"]]"#, &racks, &["a1", "a2", "b1"]),
            (r#""instances":3,"constraints":[["rack","CLUSTER"]]"#, &racks, &["a1", "a1", "a2"]),
            // A third group is asked for, and nothing is in it.
            (r#""instances":4,"constraints":[["rack","GROUP_BY","3"]]"#, &racks, &["a1", "b1"]),
            // The emptiest group's nodes are full: nobody else gets more than one more.
            (
                r#""instances":6,"constraints":[["rack","GROUP_BY","2"]]"#,
                &["o1 a1 cpus=9 mem=900 rack=a", "o3 b1 cpus=1 mem=900 rack=b"],
                &["a1", "a1", "b1"],
            ),
        ] {
            let mut found = agents(more, offers);
            found.sort();
            assert_eq!(found, want, "{more} {offers:?}");
        }
    }

    #[test]
    fn apps_take_turns() {
        let mut script = Script::new();
        script.run("subscribe");
        for id in ["a", "b", "c"] {
            script.run(&format!(
                r#"create {{"id":"/{id}","cmd":"run","cpus":1,"mem":1,"portDefinitions":[],"instances":9}}"#
            ));
        }
        script.run("offer o1 a1 cpus=7 mem=900");
        let counts: Vec<usize> = script.core.entries().map(|(_, entry)| entry.instances.len()).collect();
        assert_eq!(counts, [3, 2, 2]);
    }
}

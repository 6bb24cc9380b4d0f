//! What the caretaker on etcd's leader does next: members that leave, an alarm, fragmentation. Pure; one step at a time, so that the
//! next one is decided by what the last one did. [`crate::caretaker`] does it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::admin::How;
use crate::join::Listed;

/// Data below this size is not worth defragmenting.
const SMALL: u64 = 64 * 1024 * 1024;
/// A member is not defragmented again within this time.
const REST: Duration = Duration::from_secs(600);
/// A store that stayed full is cleaned up again after this time.
const AGAIN: Duration = Duration::from_secs(300);

/// One member, as seen by the leader's caretaker.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) listed: Listed,
    /// `None`: it does not answer.
    pub(crate) how: Option<How>,
    /// Since when it has not answered.
    pub(crate) silent: Duration,
}

/// What the leader's caretaker knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The leader, whose caretaker this is.
    pub(crate) own: u64,
    pub(crate) revision: i64,
    pub(crate) members: Vec<Seen>,
    /// Names of the cluster's map.
    pub(crate) leaving: Vec<String>,
    pub(crate) no_space: Vec<u64>,
    pub(crate) quota: u64,
    pub(crate) stale_learner: Duration,
}

/// What was done before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// History was dropped up to here, and when, for the alarm there is.
    pub(crate) compacted: Option<(i64, Duration)>,
    /// When members were defragmented, by the caretaker's clock.
    pub(crate) defragmented: BTreeMap<u64, Duration>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// Another member shall lead.
    HandOver(u64),
    Remove(u64),
    Compact(i64),
    Defragment(u64),
    Disarm(u64),
}

/// The next step, if there is anything to do.
pub(crate) fn decide(view: &View, memory: &Memory, now: Duration) -> Option<Care> {
    members(view).or_else(|| alarm(view, memory, now)).or_else(|| fragmentation(view, memory, now))
}

fn is_leaving(view: &View, member: &Seen) -> bool {
    view.leaving.contains(&member.listed.name)
}

/// A member that could lead instead.
fn successor(view: &View) -> Option<u64> {
    let fit = |member: &&Seen| {
        member.listed.id != view.own
            && !member.listed.learner
            && !is_leaving(view, member)
            && member.how.as_ref().is_some_and(|how| how.leader == view.own)
    };
    // The one that is least behind.
    let behind = |member: &&Seen| std::cmp::Reverse(member.how.as_ref().map_or(0, |how| how.raft_index));
    view.members.iter().filter(fit).min_by_key(behind).map(|member| member.listed.id)
}

fn members(view: &View) -> Option<Care> {
    let stale = view.members.iter().find(|m| m.listed.learner && m.silent >= view.stale_learner);
    if let Some(stale) = stale {
        return Some(Care::Remove(stale.listed.id));
    }
    let stays = view.members.iter().any(|m| !is_leaving(view, m) && !m.listed.learner && m.how.is_some());
    let leaving = view.members.iter().filter(|m| is_leaving(view, m) && stays);
    // The leader goes last, and not while it leads.
    match leaving.max_by_key(|m| m.listed.id != view.own)? {
        member if member.listed.id == view.own => successor(view).map(Care::HandOver),
        member => Some(Care::Remove(member.listed.id)),
    }
}

/// Followers first, the leader last.
fn in_order(view: &View) -> Vec<&Seen> {
    let mut all: Vec<&Seen> = view.members.iter().collect();
    all.sort_by_key(|member| member.listed.id == view.own);
    all
}

/// Out of space: history is dropped, then each member gives back what it does not use, then writes are allowed again.
fn alarm(view: &View, memory: &Memory, now: Duration) -> Option<Care> {
    let alarmed = *view.no_space.first()?;
    // What was full stays full for a moment after history was dropped: etcd counts what is free only when it writes again. So every
    // member is defragmented once, whatever it says.
    let Some((_, since)) = memory.compacted.filter(|(_, since)| now.saturating_sub(*since) < AGAIN) else {
        return Some(Care::Compact(view.revision));
    };
    let due = |member: &&&Seen| {
        let last = memory.defragmented.get(&member.listed.id);
        member.how.is_some() && last.is_none_or(|last| *last < since)
    };
    let all = in_order(view);
    if let Some(next) = all.iter().find(due) {
        return Some(Care::Defragment(next.listed.id));
    }
    let limit = view.quota / 10 * 9;
    let fits = |member: &&Seen| member.how.as_ref().is_none_or(|how| how.size < limit);
    all.iter().all(fits).then_some(Care::Disarm(alarmed))
}

/// A member that holds twice as much as it uses is defragmented, which stops it for a moment: one at a time, the leader never as such.
fn fragmentation(view: &View, memory: &Memory, now: Duration) -> Option<Care> {
    if view.members.iter().any(|member| member.how.is_none()) {
        return None;
    }
    let rested = |member: &&&Seen| {
        memory.defragmented.get(&member.listed.id).is_none_or(|last| now.saturating_sub(*last) > REST)
    };
    let fragmented = |member: &&&Seen| {
        member.how.as_ref().is_some_and(|how| how.size > SMALL && how.in_use < how.size / 2)
    };
    let all = in_order(view);
    let next = all.iter().filter(fragmented).find(rested)?;
    if next.listed.id != view.own || view.members.len() == 1 {
        return Some(Care::Defragment(next.listed.id));
    }
    successor(view).map(Care::HandOver)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn seen(id: u64, size: u64, in_use: u64) -> Seen {
        let listed = Listed {
            id,
            name: format!("m{id}"),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner: false,
        };
        let how =
            How { id, leader: 1, size: size * MIB, in_use: in_use * MIB, raft_index: id, ..How::default() };
        Seen { listed, how: Some(how), silent: Duration::ZERO }
    }

    fn view(members: Vec<Seen>) -> View {
        View {
            own: 1,
            revision: 77,
            members,
            quota: 100 * MIB,
            stale_learner: Duration::from_secs(600),
            ..View::default()
        }
    }

    fn healthy() -> View {
        view(vec![seen(1, 10, 9), seen(2, 10, 9), seen(3, 10, 9)])
    }

    fn next(view: &View, memory: &Memory) -> Option<Care> {
        decide(view, memory, Duration::from_secs(1000))
    }

    #[test]
    fn those_that_leave_are_removed_the_leader_last() {
        let none = Memory::default();
        assert_eq!(next(&healthy(), &none), None);
        let leaving =
            |names: &[&str]| View { leaving: names.iter().map(|n| (*n).to_owned()).collect(), ..healthy() };
        assert_eq!(next(&leaving(&["m3"]), &none), Some(Care::Remove(3)));
        assert_eq!(next(&leaving(&["m1", "m3"]), &none), Some(Care::Remove(3)));
        assert_eq!(next(&leaving(&["m1"]), &none), Some(Care::HandOver(3)));
        assert_eq!(next(&leaving(&["m1", "m2", "m3"]), &none), None, "somebody stays");
        let mut alone = leaving(&["m1"]);
        alone.members.truncate(1);
        assert_eq!(next(&alone, &none), None);
        let mut silent = leaving(&["m1"]);
        silent.members[1].how = None;
        silent.members[2].how = None;
        assert_eq!(next(&silent, &none), None, "nobody could take over");
        assert_eq!(next(&leaving(&["unknown"]), &none), None);
    }

    #[test]
    fn a_learner_that_died_is_removed_after_a_while() {
        let mut view = healthy();
        view.members[2].listed.learner = true;
        assert_eq!(next(&view, &Memory::default()), None);
        view.members[2].silent = Duration::from_secs(600);
        assert_eq!(next(&view, &Memory::default()), Some(Care::Remove(3)));
        view.members[2].listed.learner = false;
        assert_eq!(next(&view, &Memory::default()), None, "a voter is the operator's to remove");
    }

    #[test]
    fn out_of_space_is_cured_step_by_step() {
        let mut view = view(vec![seen(1, 100, 5), seen(2, 100, 5), seen(3, 100, 5)]);
        view.no_space = vec![2];
        let mut memory = Memory::default();
        assert_eq!(next(&view, &memory), Some(Care::Compact(77)));
        memory.compacted = Some((77, Duration::from_secs(990)));
        for wanted in [2, 3, 1] {
            assert_eq!(next(&view, &memory), Some(Care::Defragment(wanted)));
            memory.defragmented.insert(wanted, Duration::from_secs(999));
            let member = view.members.iter_mut().find(|m| m.listed.id == wanted).unwrap();
            member.how.as_mut().unwrap().size = 5 * MIB;
        }
        assert_eq!(next(&view, &memory), Some(Care::Disarm(2)));
        view.members[0].how.as_mut().unwrap().size = 95 * MIB;
        view.members[0].how.as_mut().unwrap().in_use = 95 * MIB;
        assert_eq!(next(&view, &memory), None, "it is really full: an operator has to decide");
        memory.compacted = Some((77, Duration::from_secs(600)));
        assert_eq!(next(&view, &memory), Some(Care::Compact(77)), "now and then it is tried again");
    }

    #[test]
    fn fragmentation_is_cured_one_by_one_and_the_leader_hands_over() {
        let view = view(vec![seen(1, 90, 20), seen(2, 90, 20), seen(3, 90, 80)]);
        let mut memory = Memory::default();
        assert_eq!(next(&view, &memory), Some(Care::Defragment(2)));
        memory.defragmented.insert(2, Duration::from_secs(900));
        assert_eq!(next(&view, &memory), Some(Care::HandOver(3)));
        let mut down = view.clone();
        down.members[1].how = None;
        assert_eq!(next(&down, &memory), None, "not while a member is down");
        let alone = self::view(vec![seen(1, 90, 20)]);
        assert_eq!(next(&alone, &memory), Some(Care::Defragment(1)));
        let small = self::view(vec![seen(1, 60, 2)]);
        assert_eq!(next(&small, &memory), None);
    }
}

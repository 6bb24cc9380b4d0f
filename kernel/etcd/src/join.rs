//! What a member does when it starts: go on with its data, begin a cluster, ask to be let in, or stay out. Pure; [`crate::member`] does it.

use serde::{Deserialize, Serialize};

/// A member as etcd lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it started for the first time.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it started.
    pub client_urls: Vec<String>,
    /// Whether it follows without a vote.
    pub learner: bool,
}

/// What is known on this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Here {
    pub(crate) name: String,
    pub(crate) peer_url: String,
    /// There is data of a member.
    pub(crate) data: bool,
    /// The id that the data's member had when it last ran.
    pub(crate) id: Option<u64>,
    /// The settings say that this is the first member, and no other master is known.
    pub(crate) first: bool,
    /// It was taken out, and nobody has put it into the map again.
    pub(crate) unwanted: bool,
    /// etcd did not come up with this data again and again.
    pub(crate) broken: bool,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start with the data there is.
    Resume,
    /// Begin a cluster of one.
    Begin,
    /// Start as the member that was added already; with the value of `--initial-cluster`.
    Enter(String),
    /// Ask to be added as a learner.
    Add,
    /// Ask for a member to be removed that this one takes the place of.
    Replace(u64),
    /// Put the data aside: the cluster goes on without its member.
    SetAside,
    /// Nothing: it was taken out.
    StayOut,
    /// Nothing yet: nobody who could let it in answers.
    Wait,
}

/// The next step, given what a member of a cluster with a leader lists; `None` while nobody else answers.
pub(crate) fn decide(here: &Here, cluster: Option<&[Listed]>) -> Step {
    let Some(listed) = cluster else {
        return match here {
            Here { data: true, .. } => Step::Resume,
            Here { unwanted: true, .. } => Step::StayOut,
            Here { first: true, .. } => Step::Begin,
            _ => Step::Wait,
        };
    };
    let at_our_address = |member: &&Listed| member.peer_urls.contains(&here.peer_url);
    let by_id = |id: u64| listed.iter().find(|member| member.id == id);
    if here.data {
        let own = here.id.map_or_else(|| listed.iter().find(at_our_address), by_id);
        return match own {
            None => Step::SetAside,
            // Another member has the majority: what is broken here is fetched anew from there.
            Some(own) if here.broken || !at_our_address(&own) => Step::Replace(own.id),
            Some(_) => Step::Resume,
        };
    }
    if here.unwanted {
        return Step::StayOut;
    }
    match listed.iter().find(|member| at_our_address(member) || member.name == here.name) {
        None => Step::Add,
        Some(own) if own.name.is_empty() && at_our_address(&own) && !here.broken => {
            Step::Enter(initial_cluster(listed, own.id, &here.name))
        }
        Some(stale) => Step::Replace(stale.id),
    }
}

/// Every member as etcd wants to hear it; those without a name yet are given one.
fn initial_cluster(listed: &[Listed], own: u64, name: &str) -> String {
    let mut parts = Vec::new();
    for member in listed {
        let name = match member {
            Listed { id, .. } if *id == own => name.to_owned(),
            Listed { name, id, .. } if name.is_empty() => format!("unstarted-{id:x}"),
            Listed { name, .. } => name.clone(),
        };
        parts.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: u64, name: &str, address: &str) -> Listed {
        let peer_urls = vec![format!("https://{address}:2380")];
        Listed { id, name: name.to_owned(), peer_urls, client_urls: Vec::new(), learner: false }
    }

    fn here() -> Here {
        Here { name: "b".to_owned(), peer_url: "https://10.0.0.2:2380".to_owned(), ..Here::default() }
    }

    #[test]
    fn each_state_has_one_next_step() {
        let a = listed(1, "a", "10.0.0.1");
        let us = listed(2, "b", "10.0.0.2");
        let added = listed(2, "", "10.0.0.2");
        let elsewhere = listed(2, "b", "10.0.0.9");
        let with_data = |id| Here { data: true, id, ..here() };
        let entered = "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380".to_owned();
        let cases = [
            ("nobody answers, nothing here", here(), None, Step::Wait),
            ("the first one", Here { first: true, ..here() }, None, Step::Begin),
            ("it was removed", Here { unwanted: true, first: true, ..here() }, None, Step::StayOut),
            ("all start together", with_data(Some(2)), None, Step::Resume),
            (
                "broken, but nobody else has it",
                Here { broken: true, ..with_data(Some(2)) },
                None,
                Step::Resume,
            ),
            ("as before", with_data(Some(2)), Some(vec![a.clone(), us.clone()]), Step::Resume),
            (
                "killed before its id was noted",
                with_data(None),
                Some(vec![a.clone(), us.clone()]),
                Step::Resume,
            ),
            ("removed meanwhile", with_data(Some(2)), Some(vec![a.clone()]), Step::SetAside),
            (
                "removed and added again",
                with_data(Some(2)),
                Some(vec![a.clone(), listed(3, "", "10.0.0.2")]),
                Step::SetAside,
            ),
            (
                "another address",
                with_data(Some(2)),
                Some(vec![a.clone(), elsewhere.clone()]),
                Step::Replace(2),
            ),
            (
                "broken data",
                Here { broken: true, ..with_data(Some(2)) },
                Some(vec![a.clone(), us.clone()]),
                Step::Replace(2),
            ),
            ("new", here(), Some(vec![a.clone()]), Step::Add),
            (
                "a first one whose disk was lost",
                Here { first: true, ..here() },
                Some(vec![a.clone()]),
                Step::Add,
            ),
            ("added, then killed", here(), Some(vec![a.clone(), added.clone()]), Step::Enter(entered)),
            ("an empty disk", here(), Some(vec![a.clone(), us]), Step::Replace(2)),
            ("the same name elsewhere", here(), Some(vec![a.clone(), elsewhere]), Step::Replace(2)),
            (
                "added, but it cannot enter",
                Here { broken: true, ..here() },
                Some(vec![a.clone(), added]),
                Step::Replace(2),
            ),
            ("taken out", Here { unwanted: true, ..here() }, Some(vec![a]), Step::StayOut),
        ];
        for (what, here, cluster, wanted) in cases {
            assert_eq!(decide(&here, cluster.as_deref()), wanted, "{what}");
        }
    }

    #[test]
    fn members_without_a_name_are_listed_all_the_same() {
        let all = [listed(1, "a", "10.0.0.1"), listed(0xfe, "", "10.0.0.3"), listed(2, "", "10.0.0.2")];
        let wanted = "a=https://10.0.0.1:2380,unstarted-fe=https://10.0.0.3:2380,b=https://10.0.0.2:2380";
        assert_eq!(initial_cluster(&all, 2, "b"), wanted);
    }
}

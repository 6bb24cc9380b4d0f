//! Golden scripts: commands in, a transcript out, compared with the file beside it. `UPDATE_GOLDEN=1`
//! writes what came out.
//!
//! One command a line; `#` starts a comment. Offers get numbers in the order they are made (`#1`, …).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use plenum_allocator::{AgentSpec, Capabilities, Explanation, FrameworkSpec, Options};
use plenum_api::Millis;
use plenum_api::resources::{Quantities, Reservation, Resources};

use crate::pair::{Held, Pair, show};

struct Script {
    pair: Pair,
    /// What was offered or held, by number; gone when given back.
    offers: Vec<Option<Held>>,
    out: String,
}

fn resources(text: &str) -> Resources {
    Resources::parse(text, "*").unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn quantities(text: &str) -> Quantities {
    // Through pairs, as an amount of zero is one.
    let mut q = Quantities::new();
    for part in text.split(';') {
        let (name, amount) = part.split_once(':').expect("name:amount");
        let amount = plenum_api::resources::Amount::from_f64(amount.parse().expect("a number"));
        q.set(name.into(), amount);
    }
    q
}

fn set(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|r| !r.is_empty()).map(str::to_string).collect()
}

fn framework(words: &[&str]) -> FrameworkSpec {
    let mut spec = FrameworkSpec::default();
    for word in words {
        match word.split_once('=') {
            Some(("roles", list)) => spec.roles = set(list),
            Some(("suppressed", list)) => spec.suppressed = set(list),
            Some(("min", rest)) => {
                let (role, q) = rest.split_once('/').expect("min=role/quantities");
                spec.min_allocatable.entry(role.to_string()).or_default().push(quantities(q));
            }
            None => {
                let c = &mut spec.capabilities;
                let Capabilities { gpu_resources, region_aware, revocable_resources, .. } = c;
                match *word {
                    "gpus" => *gpu_resources = true,
                    "regions" => *region_aware = true,
                    "revocable" => *revocable_resources = true,
                    "refinement" => c.reservation_refinement = true,
                    "shared" => c.shared_resources = true,
                    _ => panic!("unknown capability {word}"),
                }
            }
            Some(_) => panic!("unknown setting {word}"),
        }
    }
    spec
}

fn agent(words: &[&str]) -> AgentSpec {
    let mut spec = AgentSpec { total: resources(words[0]), ..AgentSpec::default() };
    for word in &words[1..] {
        match word.split_once('=') {
            Some(("region", region)) => spec.region = Some(region.to_string()),
            Some(("host", host)) => spec.hostname = host.to_string(),
            _ => panic!("unknown setting {word}"),
        }
    }
    spec
}

impl Script {
    fn offer(&self, number: &str) -> (usize, Held) {
        let index: usize = number.trim_start_matches('#').parse::<usize>().expect("a number") - 1;
        let held = self.offers[index].clone().expect("an offer that is still held");
        let at = self.pair.held.iter().position(|h| {
            h.framework == held.framework
                && h.role == held.role
                && h.agent == held.agent
                && h.resources == held.resources
        });
        (at.expect("the offer is held"), held)
    }

    fn refuse(word: Option<&&str>) -> Option<Millis> {
        word.map(|secs| Millis::from_secs_f64(secs.parse().expect("seconds")))
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = words.get(2..).unwrap_or(&[]);
        let pair = &mut self.pair;
        match (words[0], words.get(1).copied().unwrap_or("")) {
            ("agent", id) => pair.add_agent(id, &agent(rest)),
            ("agent-update", id) => pair.update_agent(id, &agent(rest)),
            ("agent-remove", id) => pair.remove_agent(id),
            ("agent-off", id) => pair.agent_active(id, false),
            ("agent-on", id) => pair.agent_active(id, true),
            ("framework", id) => pair.add_framework(id, &framework(rest), true),
            ("framework-update", id) => pair.update_framework(id, &framework(rest)),
            ("framework-remove", id) => pair.remove_framework(id),
            ("framework-off", id) => pair.framework_active(id, false),
            ("framework-on", id) => pair.framework_active(id, true),
            ("suppress", id) => pair.suppress(id, &set(rest.first().unwrap_or(&""))),
            ("revive", id) => pair.revive(id, &set(rest.first().unwrap_or(&""))),
            ("weight", role) => pair.weight(role, rest[0].parse().expect("a weight")),
            ("limit", role) => pair.quota(role, rest.first().map(|q| quantities(q)).as_ref()),
            ("allow", list) => pair.allow((list != "all").then(|| set(list))),
            ("wait", secs) => {
                pair.now.mono = pair.now.mono + Millis::from_secs_f64(secs.parse().expect("seconds"))
            }
            ("decline", number) => {
                let (at, held) = self.offer(number);
                self.pair.recover(at, &held.resources, Self::refuse(rest.first()));
            }
            ("use", number) => {
                let (at, held) = self.offer(number);
                let left = &held.resources - &resources(rest[0]);
                self.pair.recover(at, &left, Self::refuse(rest.get(1)));
                let index: usize = number.trim_start_matches('#').parse::<usize>().expect("a number") - 1;
                self.offers[index] = Some(Held { resources: resources(rest[0]), offered: false, ..held });
            }
            ("reserve", number) => {
                let (at, held) = self.offer(number);
                let from = resources(rest[1]);
                let into = from.push_reservation(&Reservation::dynamic(rest[0], Some("op".to_string())));
                self.pair.convert(at, &from, &into);
                let index: usize = number.trim_start_matches('#').parse::<usize>().expect("a number") - 1;
                let mut now = &held.resources - &from;
                now += &into;
                self.offers[index] = Some(Held { resources: now, ..held });
            }
            ("why", id) => {
                let shape = resources(rest[1]);
                let told = pair.real.explain(id, rest[0], &shape, pair.now).expect("a framework");
                told.iter().for_each(|e| self.explained(e));
            }
            ("roles", _) => {
                for r in self.pair.real.roles() {
                    let limits = r.limits.map(|l| format!(" limit {l}")).unwrap_or_default();
                    let _ = writeln!(
                        self.out,
                        "  {} share {:.4} consumed {}{limits}",
                        r.role, r.share, r.consumed
                    );
                }
            }
            ("cycle", _) => self.cycle(),
            (other, _) => panic!("unknown command {other}"),
        }
    }

    fn explained(&mut self, e: &Explanation) {
        let _ = writeln!(
            self.out,
            "  {}: {:?} {:?}; needed [{}] had [{}]; fix: {}",
            e.agent, e.verdict, e.rule, e.needed, e.had, e.nearest_fix
        );
    }

    fn cycle(&mut self) {
        let allocation = self.pair.cycle();
        for (grant, line) in allocation.grants.iter().zip(show(&allocation.grants)) {
            self.offers.push(Some(Held {
                framework: grant.framework.clone(),
                role: grant.role.clone(),
                agent: grant.agent.clone(),
                resources: grant.resources.unallocate(),
                offered: true,
            }));
            let _ = writeln!(self.out, "  #{} {line}", self.offers.len());
        }
        let wake = allocation.next_wakeup.map(|at| format!(", wake at {at}")).unwrap_or_default();
        let s = allocation.stats;
        let _ = writeln!(
            self.out,
            "  visited {} agents, {} frameworks{wake}",
            s.agents_visited, s.frameworks_visited
        );
    }
}

fn transcript(text: &str) -> String {
    let options = Options { region: Some("home".to_string()), ..Options::default() };
    let mut script = Script { pair: Pair::new(options), offers: Vec::new(), out: String::new() };
    for line in text.lines() {
        // Comments and blank lines are kept, so that the transcript can be read alone.
        script.out.push_str(line.trim_end());
        script.out.push('\n');
        let command = line.trim();
        if !command.is_empty() && !command.starts_with('#') {
            let before = script.out.len();
            println!("{command}");
            script.run(command);
            print!("{}", &script.out[before..]);
        }
    }
    script.out
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut list: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the scripts are there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "script"))
        .collect();
    list.sort();
    list
}

#[test]
fn scripts_give_their_transcripts() {
    let list = scripts();
    assert!(list.len() >= 5, "scripts are missing");
    for path in list {
        let got = transcript(&std::fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("golden");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(got, expected, "{} differs from its transcript", path.display());
    }
}

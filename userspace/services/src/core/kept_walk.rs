//! Random walks of apps with volumes: what is on the nodes' disks is modelled, and nothing is ever destroyed but what somebody gave up, nor
//! launched twice at a time, nor forgotten; at the end everything runs on its data, and what was given up is gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plenum_api::IdSource;
use plenum_api::ids::SeededIds;

use super::instance::State;
use super::tests::Script;

struct Walk {
    script: Script,
    dice: SeededIds,
    /// Where the volume of the n-th instance is, and whether something ran on it.
    volumes: BTreeMap<usize, (usize, bool)>,
    /// Instances that run.
    alive: BTreeSet<usize>,
    /// Instances whose data somebody gave up.
    given_up: BTreeSet<usize>,
    todo: VecDeque<String>,
    offers: usize,
    /// The offers that are out: what is in one is not in another.
    out: BTreeSet<usize>,
    /// Nothing goes wrong any more.
    calm: bool,
    log: Vec<String>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        Self {
            script: Script::new(),
            dice: SeededIds::new(seed),
            volumes: BTreeMap::new(),
            alive: BTreeSet::new(),
            given_up: BTreeSet::new(),
            todo: VecDeque::new(),
            offers: 0,
            out: BTreeSet::new(),
            calm: false,
            log: vec![format!("# seed {seed}")],
        }
    }

    fn roll(&mut self, sides: usize) -> usize {
        usize::from(self.dice.uuid()[0]) % sides
    }

    fn run(&mut self, command: &str) {
        self.log.push(command.to_owned());
        if command == "subscribe" {
            self.out.clear();
        }
        for line in self.script.run(command) {
            self.log.push(format!("> {line}"));
            if line.starts_with("accept ") || line.starts_with("decline ") {
                let offers = line.split([' ', ':']).filter_map(|word| word.strip_prefix('o')?.parse().ok());
                for n in offers.collect::<Vec<usize>>() {
                    self.out.remove(&n);
                }
            }
            if let Some((offer, what)) = line.strip_prefix("accept o").and_then(|rest| rest.split_once(": "))
            {
                let node = offer.parse::<usize>().unwrap() % 2;
                what.split(", ").for_each(|one| self.accepted(node, one));
            } else if let Some(rest) = line.strip_prefix("kill ").or(line.strip_prefix("reconcile #")) {
                let kill = line.starts_with("kill");
                let numbers: Vec<usize> = rest.split(' ').filter_map(number).collect();
                for n in numbers {
                    self.todo.push_back(match (self.alive.contains(&n), kill) {
                        (true, true) => format!("status {n} KILLED"),
                        (true, false) => format!("status {n} RUNNING uuid=none"),
                        _ => format!("status {n} UNKNOWN uuid=none"),
                    });
                }
            }
        }
    }

    /// What the node does of one accepted offer.
    fn accepted(&mut self, node: usize, what: &str) {
        let story = || self.log.join("\n");
        if let Some(rest) = what.strip_prefix("destroys what ") {
            let n = number(rest.split(' ').next().unwrap()).unwrap();
            assert!(!self.alive.contains(&n), "{n} runs on what is destroyed\n{}", story());
            let (_, ran) = self.volumes.remove(&n).unwrap_or_else(|| panic!("{n} has a volume\n{}", story()));
            assert!(!ran || self.given_up.contains(&n), "nobody gave up the data of {n}\n{}", story());
            return;
        }
        let n = number(what.split(' ').next().unwrap()).unwrap();
        assert!(!self.alive.contains(&n), "{n} runs already\n{}", story());
        assert!(what.contains("data=5MiB"), "{n} has its volume\n{}", story());
        let again = what.contains("._app.");
        let there = self.volumes.get(&n).map(|(there, _)| *there);
        assert_eq!(there, again.then_some(node), "{n} is launched where its data is\n{}", story());
        // One launch in eight never arrives, until the end.
        if self.calm || self.roll(8) > 0 {
            self.alive.insert(n);
            self.volumes.entry(n).or_insert((node, false));
        }
    }

    /// News of a task reaches the scheduler; after its end it is not alive.
    fn status(&mut self, n: usize, state: &str) {
        if state.starts_with("RUNNING") || state.starts_with("FAILED") {
            self.volumes.get_mut(&n).unwrap().1 = true;
        }
        if !state.starts_with("RUNNING") && !state.starts_with("UNREACHABLE") {
            self.alive.remove(&n);
        }
        self.run(&format!("status {n} {state}"));
    }

    fn settle(&mut self) {
        while let Some(command) = self.todo.pop_front() {
            let (n, state) = command.strip_prefix("status ").unwrap().split_once(' ').unwrap();
            let n = n.parse().unwrap();
            if self.alive.contains(&n) != state.starts_with("UNKNOWN") {
                self.status(n, state);
            }
        }
    }

    fn offer(&mut self) {
        self.offers += 1;
        let (n, node) = (self.offers, self.offers % 2);
        if self.out.iter().any(|out| out % 2 == node) {
            return;
        }
        self.out.insert(n);
        let here = self.volumes.iter().filter(|(n, (at, _))| *at == node && !self.alive.contains(n));
        let known = |n: &usize| self.script.knows(*n);
        let lost = self.volumes.keys().find(|n| !known(n));
        assert_eq!(lost, None, "every volume on a node is known\n{}", self.log.join("\n"));
        let with: String = here.map(|(n, _)| format!(" with={n}")).collect();
        self.run(&format!("offer o{n} a{node} role=dev cpus=8 mem=8000 disk=1000{with}"));
    }

    fn give_up(&mut self, app: &str) {
        let tasks = self.script.tasks.iter().enumerate();
        let of = format!("{}.instance-", &app[1..]);
        self.given_up.extend(tasks.filter(|(_, (task, _))| task.starts_with(&of)).map(|(n, _)| n + 1));
    }

    fn step(&mut self) {
        let app = ["/a", "/b"][self.roll(2)];
        // What is not there would be made anew, as another kind of app.
        let there = self.script.core.state().entries().any(|(id, _)| id.as_str() == app);
        let n = self.roll(4);
        let nth = self.roll(self.alive.len().max(1));
        let some = self.alive.iter().nth(nth).copied();
        match (self.roll(18), some) {
            (0 | 1, _) => self.run(&format!(
                r#"create {{"id":"{app}","cmd":"v","role":"dev","cpus":0.1,"mem":1,"portDefinitions":[],"instances":{n},
                   "container":{{"type":"MESOS","volumes":[{{"containerPath":"data","mode":"RW","persistent":{{"size":5}}}}]}}}}"#
            )),
            (2, _) if there => self.run(&format!(r#"force-update {app} {{"instances":{n}}}"#)),
            (3, _) if there => self.run(&format!(r#"force-update {app} {{"cmd":"v{n}"}}"#)),
            (4, _) if n == 0 && there => {
                self.give_up(app);
                self.run(&format!("delete {app}"));
            }
            (5, _) => self.run(&format!("restart {app}")),
            (6, Some(task)) => self.run(&format!("kill {task} {}", if n == 0 { "scale" } else { "" })),
            (7, Some(task)) => {
                self.given_up.insert(task);
                self.run(&format!("kill {task} wipe"));
            }
            (8, _) if n == 0 && there => {
                self.give_up(app);
                self.run(&format!("kill {app} wipe"));
            }
            (9, Some(task)) => self.status(task, "FAILED"),
            (10, Some(task)) => self.status(task, "RUNNING"),
            (11, Some(task)) => self.status(task, "UNREACHABLE"),
            (12, _) if n == 0 => {
                let what = ["disconnect", "reload"][self.roll(2)];
                self.run(what);
                self.run("subscribe");
            }
            (13, _) => self.run("wait 2"),
            _ => self.offer(),
        }
        if self.roll(3) > 0 {
            self.settle();
        }
    }

    fn rest(&mut self) {
        self.calm = true;
        self.run("disconnect");
        self.run("subscribe");
        for _ in 0..60 {
            self.settle();
            for task in self.alive.clone() {
                if self.alive.contains(&task) {
                    self.status(task, "RUNNING");
                }
            }
            self.offer();
            self.run("wait 31");
        }
        self.settle();
    }

    fn check_rest(&self) {
        let (state, story) = (self.script.core.state(), || self.log.join("\n"));
        assert!(state.deployments.is_empty(), "deployments end: {:?}\n{}", state.deployments, story());
        assert!(state.wiping.is_empty(), "what was given up is gone: {:?}\n{}", state.wiping, story());
        assert!(state.ghosts.is_empty() && state.strangers.is_empty(), "nothing runs unknown\n{}", story());
        let mut known = 0;
        for (id, entry) in state.apps.iter() {
            assert!(!entry.removing, "{id} is gone\n{}", story());
            let running = entry.instances.values().filter(|i| i.state() == Some(State::Running)).count();
            assert_eq!(running, entry.wanted.instances() as usize, "{id} has its instances\n{}", story());
            known += entry.instances.len() + entry.kept.len();
        }
        assert_eq!(known, self.volumes.len(), "every volume on a node is known\n{}", story());
    }
}

/// The number in `#1` and `#1._app.2`.
fn number(word: &str) -> Option<usize> {
    word.trim_start_matches('#').split('.').next()?.parse().ok()
}

#[test]
fn random_walks_of_apps_with_volumes_lose_no_data_and_leave_none() {
    for seed in 0..60 {
        let mut walk = Walk::new(seed);
        walk.run("subscribe");
        for _ in 0..120 {
            walk.step();
        }
        walk.rest();
        walk.check_rest();
    }
}

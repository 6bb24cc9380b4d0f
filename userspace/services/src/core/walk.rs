//! Random walks: requests, failures, lost launches, disconnections and crashes in any order. At each step the script
//! watches the invariants; at the end everything must come to rest as wanted, with nothing running that nobody knows.

use std::collections::{BTreeSet, VecDeque};

use plenum_api::IdSource;
use plenum_api::ids::SeededIds;

use super::instance::State;
use super::tests::Script;

struct Walk {
    script: Script,
    dice: SeededIds,
    alive: BTreeSet<usize>,
    todo: VecDeque<String>,
    offers: usize,
    log: Vec<String>,
}

impl Walk {
    fn roll(&mut self, sides: usize) -> usize {
        usize::from(self.dice.uuid()[0]) % sides
    }

    /// Runs a command and does what a master would about what came of it.
    fn run(&mut self, command: &str) {
        self.log.push(command.to_owned());
        for line in self.script.run(command) {
            let tasks: Vec<usize> =
                line.split([' ', ',']).filter_map(|word| word.strip_prefix('#')?.parse().ok()).collect();
            match line.split(' ').next() {
                // One launch in eight never arrives.
                Some("accept") => {
                    for task in tasks {
                        if self.roll(8) > 0 {
                            self.alive.insert(task);
                        }
                    }
                }
                Some("kill" | "reconcile") => {
                    let kill = line.starts_with("kill");
                    for task in tasks {
                        self.todo.push_back(match (self.alive.contains(&task), kill) {
                            (true, true) => format!("status {task} KILLED"),
                            (true, false) => format!("status {task} RUNNING uuid=none"),
                            _ => format!("status {task} UNKNOWN uuid=none"),
                        });
                    }
                }
                _ => {}
            }
        }
        for (n, _) in self.script.tasks.iter().enumerate() {
            let ended = command.starts_with(&format!("status {} ", n + 1));
            if ended && !command.contains("RUNNING") && !command.contains("UNREACHABLE") {
                self.alive.remove(&(n + 1));
            }
        }
    }

    fn settle(&mut self) {
        while let Some(command) = self.todo.pop_front() {
            // A master does not say of a task that it runs after it said that it ended.
            let task = command.split(' ').nth(1).and_then(|n| n.parse().ok());
            if !command.contains("RUNNING") || task.is_some_and(|n| self.alive.contains(&n)) {
                self.run(&command);
            }
        }
    }

    fn offer(&mut self) {
        self.offers += 1;
        let (n, agent) = (self.offers, self.offers % 3);
        self.run(&format!("offer o{n} a{agent} cpus=8 mem=8000 ports=31000-31100"));
    }

    fn step(&mut self) {
        let app = ["/a", "/b", "/g/c"][self.roll(3)];
        let n = self.roll(4);
        let nth = self.roll(self.alive.len().max(1));
        let some_task = self.alive.iter().nth(nth).copied();
        let force = if self.roll(2) == 0 { "force-update" } else { "update" };
        let tree = |apps: &[&str]| {
            let one =
                |id: &&str| format!(r#"{{"id":"{id}","cmd":"v{n}","cpus":0.1,"mem":1,"instances":{n}}}"#);
            apps.iter().map(one).collect::<Vec<_>>().join(",")
        };
        let command = match (self.roll(20), some_task) {
            (0 | 1, _) => {
                format!(r#"create {{"id":"{app}","cmd":"v{n}","cpus":0.1,"mem":1,"instances":{n}}}"#)
            }
            (2, _) => format!(r#"{force} {app} {{"instances":{n}}}"#),
            (3, _) => format!(r#"{force} {app} {{"cmd":"v{n}"}}"#),
            (4, _) => format!("delete {app}"),
            (5, _) => format!("restart {app}"),
            (6, Some(task)) => format!("kill {task} {}", if n == 0 { "scale" } else { "" }),
            (7, Some(task)) => format!("status {task} FAILED"),
            (8, Some(task)) => format!("status {task} UNREACHABLE"),
            (9, _) if n == 0 => {
                self.run("disconnect");
                "subscribe".to_owned()
            }
            (10, _) if n == 0 => {
                self.run("reload");
                "subscribe".to_owned()
            }
            (11, _) => "wait 2".to_owned(),
            (12, Some(task)) => format!("status {task} RUNNING"),
            (16, _) => {
                let apps =
                    [tree(&["c"]), tree(&["c", "d"]), tree(&["d"]), String::new()][self.roll(4)].clone();
                format!(r#"force-put-group /g {{"apps":[{apps}],"dependencies":["/a"]}}"#)
            }
            (17, _) if n == 0 => "force-delete-group /g".to_owned(),
            (18, _) => r#"put-group / {"scaleBy":0.5}"#.to_owned(),
            (19, _) => {
                let versions =
                    self.script.core.state.group_versions(&super::id::PathId::root()).unwrap_or_default();
                match versions.get(self.roll(versions.len().max(1))) {
                    Some(version) => format!(r#"force-put-group / {{"version":"{version}"}}"#),
                    None => "wait 1".to_owned(),
                }
            }
            (13, _) => {
                let count = self.script.deployments.len();
                if count == 0 {
                    "wait 1".to_owned()
                } else {
                    format!("cancel {} {}", count, if n == 0 { "force" } else { "" })
                }
            }
            _ => return self.offer(),
        };
        self.run(&command);
        if self.roll(3) > 0 {
            self.settle();
        }
    }

    fn rest(&mut self) {
        self.run("disconnect");
        self.run("subscribe");
        for _ in 0..40 {
            self.settle();
            for task in self.alive.clone() {
                self.run(&format!("status {task} RUNNING"));
            }
            self.offer();
            self.run("wait 61");
        }
        self.settle();
    }

    fn check_rest(&self) {
        let core = &self.script.core;
        assert_eq!(core.census, super::census::Census::of(core), "counts are true\n{}", self.log.join("\n"));
        let last = || self.log.join("\n");
        assert!(
            core.state.deployments.is_empty(),
            "deployments end: {:?}\n{}",
            core.state.deployments,
            last()
        );
        assert!(
            core.state.ghosts.is_empty() && core.state.strangers.is_empty(),
            "nothing runs unknown: {:?} {:?}\n{}",
            core.state.ghosts,
            core.state.strangers,
            last()
        );
        for (id, entry) in core.state.apps.iter() {
            assert!(!entry.removing, "{id} is gone\n{}", last());
            let running = entry.instances.values().filter(|i| i.state() == Some(State::Running)).count();
            assert_eq!(running, entry.wanted.instances() as usize, "{id} has its instances\n{}", last());
        }
        let known: usize = core.state.apps.values().map(|e| e.instances.len()).sum();
        assert_eq!(known, self.alive.len(), "what runs is what is known\n{}", last());
    }
}

#[test]
fn random_walks_come_to_rest_as_wanted() {
    for seed in 0..60 {
        let dice = SeededIds::new(seed);
        let (alive, todo) = (BTreeSet::new(), VecDeque::new());
        let mut walk =
            Walk { script: Script::new(), dice, alive, todo, offers: 0, log: vec![format!("# seed {seed}")] };
        walk.run("subscribe");
        for _ in 0..120 {
            walk.step();
        }
        walk.rest();
        walk.check_rest();
    }
}

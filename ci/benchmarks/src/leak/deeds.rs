//! Random deeds on a node: launches of every kind, kills, and `kill -9` of agent, supervisor, init and task.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plenum_api::mesos::{NetworkInfo, TaskInfo, network_info::PortMapping};

use super::counts::children;
use crate::node::master::{Heard, terminal};
use crate::node::task::task;
use crate::node::{Node, shims};

/// More live tasks than this are killed before another is launched.
const LIVE: usize = 40;
/// For everything to end.
const END: Duration = Duration::from_secs(180);

/// Commands for the shell: they end, fail, stay, do not listen, hide, write, fork, die, and take too much.
const COMMANDS: [&str; 10] = [
    "exit 0",
    "exit 3",
    "sleep 1000",
    "sleep 0.05",
    "trap '' TERM; sleep 1000; sleep 1000",
    "setsid sleep 1000 & exit 0",
    "head -c 2000000 /dev/zero; sleep 1000",
    "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait",
    "kill -9 $$",
    "exec tail /dev/zero",
];

/// Numbers from a seed; the same each time.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end.max(1)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len());
        from.get(at).cloned()
    }
}

/// The node, and what is known of its tasks.
pub struct Deeds {
    /// The node.
    pub node: Node,
    random: Random,
    image: String,
    folder: PathBuf,
    number: usize,
    live: BTreeSet<String>,
    /// How often each was done.
    pub done: BTreeMap<&'static str, usize>,
    /// How tasks ended.
    pub ends: BTreeMap<String, usize>,
}

impl Deeds {
    /// On a node; `image` can be pulled.
    pub fn new(node: Node, random: Random, image: &str) -> Self {
        let folder = node.path("");
        Self {
            node,
            random,
            image: image.to_owned(),
            folder,
            number: 0,
            live: BTreeSet::new(),
            done: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    /// One deed.
    ///
    /// # Errors
    /// When the agent does not come back.
    pub async fn next(&mut self) -> Result<()> {
        self.listen();
        let (what, deed) = match self.random.below(100) {
            0..50 => ("launches", self.launch()),
            50..70 => ("kills", self.kill()),
            70..79 => ("supervisor killed", self.strike(0)),
            79..88 => ("init killed", self.strike(1)),
            88..98 => ("task killed", self.strike(2)),
            _ => {
                self.node.crash()?;
                let pause = self.random.below(50) as u64;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.node.start_agent().await?;
                ("agent killed", true)
            }
        };
        if deed {
            *self.done.entry(what).or_default() += 1;
        }
        let pause = self.random.below(15) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(())
    }

    /// One launch of each kind, so that what is made once is made before the count.
    pub fn launch_each(&mut self) {
        for kind in 0..COMMANDS.len() + 2 {
            self.launch_kind(kind);
        }
    }

    fn launch(&mut self) -> bool {
        if self.live.len() >= LIVE {
            return self.kill();
        }
        let kind = self.random.below(COMMANDS.len() + 4);
        self.launch_kind(kind.min(COMMANDS.len() + 1));
        true
    }

    fn launch_kind(&mut self, kind: usize) {
        self.number += 1;
        let id = format!("t{}", self.number);
        let task = match COMMANDS.get(kind) {
            Some(command) => task(&id, "/bin/sh", &["-c", command], None),
            None => {
                let stays = self.random.below(2) == 0;
                let arguments: &[&str] = if stays { &["stay"] } else { &[] };
                let task = task(&id, "/stamp", arguments, Some(&self.image));
                if kind > COMMANDS.len() {
                    on_the_bridge(task, 31_000 + self.number as u32 % 1_000)
                } else {
                    task
                }
            }
        };
        self.live.insert(id);
        self.node.master.run(vec![task]);
    }

    fn kill(&mut self) -> bool {
        let live: Vec<String> = self.live.iter().cloned().collect();
        let Some(id) = self.random.pick(&live) else { return false };
        let grace = [0, 0, 20, 200][self.random.below(4)];
        self.node.master.kill(&id, Duration::from_millis(grace));
        true
    }

    /// `kill -9` of a supervisor, of its init, of init's task.
    fn strike(&mut self, depth: usize) -> bool {
        let mut at = shims(&self.folder);
        for _ in 0..depth {
            at = self.random.pick(&at).map(children).unwrap_or_default();
        }
        let Some(pid) = self.random.pick(&at) else { return false };
        kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
    }

    fn listen(&mut self) {
        while let Some(heard) = self.node.master.heard() {
            self.note(heard);
        }
    }

    fn note(&mut self, heard: Heard) {
        if let Heard::Status { task, state, .. } = heard
            && terminal(state)
            && self.live.remove(&task)
        {
            *self.ends.entry(format!("{state:?}")).or_default() += 1;
        }
    }

    /// Ends every task that has not ended, again and again: an order that a dying agent did not hear is lost.
    ///
    /// # Errors
    /// When some do not end.
    pub async fn end_all(&mut self) -> Result<()> {
        let until = Instant::now() + END;
        while !self.live.is_empty() {
            if Instant::now() > until {
                bail!("{:?} do not end; the agent's log ends with:\n{}", self.live, self.node.log_end());
            }
            for id in &self.live {
                self.node.master.kill(id, Duration::ZERO);
            }
            let pause = Instant::now() + Duration::from_secs(2);
            while Instant::now() < pause && !self.live.is_empty() {
                if let Some(heard) = self.node.master.hear(Duration::from_millis(100)).await {
                    self.note(heard);
                }
            }
        }
        self.node.forgotten(END).await.context("after the last task has ended")
    }
}

/// With an address of its own, and a port of the machine's that leads to it.
fn on_the_bridge(mut task: TaskInfo, port: u32) -> TaskInfo {
    let mapping = PortMapping { host_port: port, container_port: 80, protocol: Some("tcp".to_owned()) };
    let network = NetworkInfo {
        name: Some("mesos-bridge".to_owned()),
        port_mappings: vec![mapping],
        ..Default::default()
    };
    if let Some(container) = &mut task.container {
        container.network_infos = vec![network];
    }
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_repeatable_and_within_bounds() {
        let draw = |seed| {
            (0..50)
                .map(|_| seed)
                .scan(Random::new(seed), |random, _| Some(random.below(7)))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert!(draw(5).iter().all(|number| *number < 7) && draw(5).iter().any(|number| *number > 0));
        assert_eq!(Random::new(1).pick::<u8>(&[]), None);
    }
}

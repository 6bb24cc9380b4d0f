//! A scheduler's core as large as is asked for, every instance running and healthy, and the records it has written. Time is given, ids come
//! from a seed: the same size is always the same cluster.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use plenum_api::ids::SeededIds;
use plenum_api::{Millis, Now};
use plenum_services::core::constraint::Location;
use plenum_services::core::id::PathId;
use plenum_services::core::instance::{State, Status};
use plenum_services::core::matching::{Amount, Offer, Portion};
use plenum_services::core::requests::{Kind, Reply, Request};
use plenum_services::core::{Core, Effect, Event, Settings, Write};
use serde_json::{Map, Value, json};

/// Nodes that instances are spread over.
pub const NODES: usize = 100;
/// Nodes that answer when offers are asked for.
const OFFERED: usize = 10;
/// Instances of each app.
pub const EACH: u32 = 10;
/// Apps of each group.
const GROUP: usize = 100;

/// How long the core took, by what it was told.
#[derive(Debug, Default)]
pub struct Times {
    /// Requests.
    pub changes: Vec<Duration>,
    /// Offers that something waited for.
    pub offers: Vec<Duration>,
    /// Status updates.
    pub updates: Vec<Duration>,
}

/// A core and its surroundings, all played.
#[derive(Debug)]
pub struct Cluster {
    /// The scheduler.
    pub core: Core,
    /// What a store would hold.
    pub records: BTreeMap<String, Vec<u8>>,
    /// What it was told since somebody emptied this.
    pub times: Times,
    /// Apps that were made.
    pub apps: usize,
    ids: SeededIds,
    now: Now,
    offers: usize,
    tokens: u64,
}

/// The id of an app.
pub fn id(n: usize) -> String {
    format!("/team-{:03}/app-{n:05}", n / GROUP)
}

/// What its owner writes: a command, resources, a port, labels, environment and a health check.
pub fn body(n: usize, instances: u32) -> Map<String, Value> {
    let body = json!({
        "id": id(n), "cmd": "exec /opt/app/bin/serve --port $PORT0", "cpus": 0.01, "mem": 16, "instances": instances,
        "env": {"STAGE": "production", "LOG_LEVEL": "info"},
        "labels": {"owner": format!("team-{:03}", n / GROUP), "HAPROXY_GROUP": "external"},
        "portDefinitions": [{"port": 0, "protocol": "tcp", "name": "http"}],
        "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/healthz", "portIndex": 0}],
    });
    if let Value::Object(body) = body { body } else { Map::new() }
}

impl Cluster {
    /// A core that a master has taken in, without apps.
    pub fn new() -> Self {
        let mut this = Self {
            core: Core::new(Settings::default()),
            records: BTreeMap::new(),
            times: Times::default(),
            apps: 0,
            ids: SeededIds::new(6),
            now: Now { mono: Millis(1_000_000), wall: Millis(1_750_000_000_000) },
            offers: 0,
            tokens: 0,
        };
        this.tell(Event::Subscribed { framework: "F".to_owned(), master: "played".to_owned() });
        this
    }

    /// Makes apps until there are so many.
    pub fn grow(&mut self, apps: usize) -> Result<()> {
        while self.apps < apps {
            let reply = self.ask(Kind::Create(body(self.apps, EACH)))?;
            ensure!(reply.status == 201, "an app was not made: {reply:?}");
            self.apps += 1;
        }
        ensure!(self.core.state().deployments.is_empty(), "deployments have not ended");
        Ok(())
    }

    /// Lets an app have so many instances.
    pub fn scale(&mut self, app: usize, instances: u32) -> Result<()> {
        let id = PathId::parse(&id(app)).map_err(anyhow::Error::msg)?;
        let body = Map::from_iter([("instances".to_owned(), json!(instances))]);
        let reply = self.ask(Kind::Update { id: id.clone(), body, partial: true })?;
        ensure!(reply.status == 200, "an app was not scaled: {reply:?}");
        let running = self.core.state().entry(&id).map_or(0, |entry| entry.instances.len());
        ensure!(running == instances as usize, "{running} instances of {id}, {instances} are wanted");
        Ok(())
    }

    /// Asks for a change and plays everything that comes of it.
    pub fn ask(&mut self, kind: Kind) -> Result<Reply> {
        self.tokens += 1;
        let (uri, client) = ("/v2/apps".to_owned(), "10.0.0.1".to_owned());
        let request = Request { token: self.tokens, kind, force: false, uri, client, once: None };
        self.tell(Event::Request(Box::new(request))).context("no answer")
    }

    /// Says that time has passed, and nothing else.
    pub fn tick(&mut self) -> Duration {
        self.now.mono = self.now.mono + Millis(1);
        let began = Instant::now();
        let effects = self.core.handle(Event::Tick, self.now, &mut self.ids);
        let took = began.elapsed();
        drop(effects);
        took
    }

    /// Offers every node's resources while nothing waits.
    pub fn idle_offers(&mut self) -> Result<Duration> {
        let offers = (0..NODES).map(|node| self.offer(node)).collect();
        self.now.mono = self.now.mono + Millis(1);
        let began = Instant::now();
        let effects = self.core.handle(Event::Offers(offers), self.now, &mut self.ids);
        let took = began.elapsed();
        ensure!(!effects.iter().any(|e| matches!(e, Effect::Accept { .. })), "nothing was to be launched");
        Ok(took)
    }

    /// Tells the core something and plays everything that comes of it; gives its answer to a request.
    fn tell(&mut self, event: Event) -> Option<Reply> {
        let mut answer = None;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.now = Now { mono: self.now.mono + Millis(1), wall: self.now.wall + Millis(1) };
            let kind = match event {
                Event::Request(_) => Some(&mut self.times.changes),
                Event::Offers(_) => Some(&mut self.times.offers),
                Event::Status(_) => Some(&mut self.times.updates),
                _ => None,
            };
            let began = Instant::now();
            let effects = self.core.handle(event, self.now, &mut self.ids);
            if let Some(times) = kind {
                times.push(began.elapsed());
            }
            for effect in effects {
                self.play(effect, &mut events, &mut answer);
            }
        }
        answer
    }

    fn play(&mut self, effect: Effect, events: &mut VecDeque<Event>, answer: &mut Option<Reply>) {
        let status = |task: String, agent: Option<String>, state: State| {
            let mut status = Status::new(task, state);
            (status.agent, status.uuid) = (agent, Some(vec![1; 16]));
            (state == State::Running).then(|| status.healthy = Some(true));
            status.addresses = vec![("10.0.0.7".to_owned(), "IPv4".to_owned())];
            Event::Status(Box::new(status))
        };
        match effect {
            Effect::Commit(writes) => {
                for write in writes {
                    match write {
                        Write::Put(key, value) => drop(self.records.insert(key, value)),
                        Write::Delete(key) => drop(self.records.remove(&key)),
                    }
                }
            }
            Effect::Accept { launches, .. } => {
                for launch in launches {
                    for (_, task) in launch.record.tasks() {
                        events.push_back(status(task, Some(launch.record.agent.clone()), State::Running));
                    }
                }
            }
            Effect::Kill { task, agent, .. } => events.push_back(status(task, agent, State::Killed)),
            Effect::Revive => {
                let offers = (0..OFFERED).map(|_| {
                    self.offers += 1;
                    self.offer(self.offers % NODES)
                });
                events.push_back(Event::Offers(offers.collect()));
            }
            Effect::Reply { reply, .. } => *answer = Some(reply),
            // Nobody here has to be told.
            _ => {}
        }
    }

    fn offer(&self, node: usize) -> Offer {
        let scalar = |name: &str, n: i64| Portion {
            name: name.to_owned(),
            reserved: "*".to_owned(),
            amount: Amount::Scalar(n * 1000),
            claim: None,
        };
        let ports = Portion {
            name: "ports".to_owned(),
            reserved: "*".to_owned(),
            amount: Amount::Ranges(vec![(1025, 65_000)]),
            claim: None,
        };
        Offer {
            id: format!("O{}-{node}", self.now.mono.0),
            agent: agent(node),
            location: Arc::new(Location { host: format!("node-{node}.sim"), ..Location::default() }),
            role: "*".to_owned(),
            maintenance: false,
            portions: vec![scalar("cpus", 64), scalar("mem", 131_072), scalar("disk", 1_048_576), ports],
        }
    }
}

/// The id of a node, as long as the master's are.
pub fn agent(node: usize) -> String {
    format!("1f6e2d9c-8a4b-4c53-9d80-7e6a5b4c3d2e-S{node}")
}

//! Somebody who changes their mind: intents of every kind while things break, and a last word when they no longer do.

use std::collections::BTreeMap;

use plenum_services::core::group_requests::GroupChange;
use plenum_services::core::id::PathId;
use plenum_services::core::pod_requests::PodChange;
use plenum_services::core::requests::{Killing, Kind, Reply, Request};
use serde_json::{Map, Value, json};

use super::node::SETUP;
use super::{Happens, World};
use crate::check::Violation;
use crate::random::Random;

/// The apps there may be.
const APPS: [&str; 5] = ["/web", "/db", "/shop/front", "/shop/back", "/shop/deep/cache"];
/// The pods there may be.
const PODS: [&str; 2] = ["/pod", "/shop/pod"];
/// The last word is taken after so long at most, without force.
const PATIENCE: u64 = 120_000;

/// What is wanted of an app or a pod in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its command.
    pub cmd: String,
    /// So many instances.
    pub instances: u64,
}

/// Them.
pub struct Operator {
    tokens: u64,
    /// Counts commands, so that no two are the same.
    commands: u64,
    /// Of what dies and what starts late there is more in some worlds than in others.
    luck: u64,
    /// The last word, as far as nobody has taken it: what is wanted, and whether it was asked for.
    open: BTreeMap<&'static str, Option<Wanted>>,
    asked: BTreeMap<u64, &'static str>,
    /// The last word that was taken.
    pub last: BTreeMap<&'static str, Option<Wanted>>,
    since: Option<u64>,
}

impl Operator {
    pub fn new(random: &mut Random) -> Self {
        Self {
            tokens: 0,
            commands: 0,
            luck: random.between(0, 3),
            open: BTreeMap::new(),
            asked: BTreeMap::new(),
            last: BTreeMap::new(),
            since: None,
        }
    }

    /// Whether the last word was taken.
    pub fn is_heard(&self) -> bool {
        self.since.is_some() && self.open.is_empty()
    }

    /// The process that was asked is gone: nobody knows what came of it.
    pub fn unanswered(&mut self) {
        self.asked.clear();
    }

    pub fn last_word(&mut self, random: &mut Random) {
        for id in APPS.into_iter().chain(PODS) {
            let cmd = self.command("good");
            let wanted = Wanted { cmd, instances: random.between(0, 4) };
            self.open.insert(id, random.chance(800).then_some(wanted));
        }
        self.since = Some(0);
    }

    pub fn replied(&mut self, token: u64, reply: &Reply, now: u64) -> Result<(), Violation> {
        if reply.status >= 500 {
            return Err(format!("a request was answered with {}: {:?}", reply.status, reply.body));
        }
        let Some(id) = self.asked.remove(&token) else { return Ok(()) };
        // It was asked for twice, and the first answer was late.
        let Some(wanted) = self.open.get(id) else { return Ok(()) };
        let gone = reply.status == 404 && wanted.is_none();
        if reply.status < 300 || gone {
            if let Some(wanted) = self.open.remove(id) {
                self.last.insert(id, wanted);
            }
            return Ok(());
        }
        let since = *self.since.get_or_insert(now);
        if reply.status != 409 {
            return Err(format!("the last word about {id} is refused: {} {:?}", reply.status, reply.body));
        }
        if since > 0 && now > since + PATIENCE {
            return Err(format!(
                "the last word about {id} is refused for {} s: {:?}",
                (now - since) / 1000,
                reply.body
            ));
        }
        Ok(())
    }

    fn command(&mut self, word: &str) -> String {
        self.commands += 1;
        format!("{word}-{}", self.commands)
    }

    fn some_command(&mut self, random: &mut Random) -> String {
        let bad = [150, 400, 700][self.luck as usize % 3];
        let word = if random.chance(bad) {
            ["broken", "crash", "sick", "flaky", "slow"][random.between(0, 5) as usize]
        } else {
            "good"
        };
        self.command(word)
    }

    fn request(&mut self, kind: Kind, force: bool) -> Request {
        self.tokens += 1;
        Request {
            token: self.tokens,
            kind,
            force,
            uri: "/v2".to_owned(),
            client: "here".to_owned(),
            once: None,
        }
    }
}

fn map(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn path(id: &str) -> PathId {
    PathId::parse(id).unwrap_or_else(|_| PathId::root())
}

/// A definition of an app, all of it.
fn app(id: &str, wanted: &Wanted, random: &mut Random) -> Map<String, Value> {
    let pick = |random: &mut Random, some: [f64; 3]| some[random.between(0, 3) as usize];
    let mut body = map(json!({
        "id": id, "cmd": wanted.cmd, "cpus": 0.25, "mem": 32, "instances": wanted.instances,
        "portDefinitions": [{"port": 0, "name": "main"}],
        "backoffSeconds": 1, "maxLaunchDelaySeconds": 20,
        "upgradeStrategy": {
            "minimumHealthCapacity": pick(random, [0.0, 0.5, 1.0]),
            "maximumOverCapacity": pick(random, [0.0, 0.25, 1.0]),
        },
        "killSelection": if random.chance(500) { "YOUNGEST_FIRST" } else { "OLDEST_FIRST" },
        "healthChecks": [], "readinessChecks": [], "constraints": [],
    }));
    let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    if random.chance(500) {
        put("healthChecks", json!([{"protocol": "MESOS_HTTP", "path": "/"}]));
    }
    if random.chance(200) {
        put("readinessChecks", json!([{"portName": "main", "intervalSeconds": 5, "timeoutSeconds": 2}]));
    }
    match random.between(0, 8) {
        0 => put("constraints", json!([["hostname", "MAX_PER", "3"]])),
        1 => put("constraints", json!([["hostname", "GROUP_BY"]])),
        2 => put("constraints", json!([["hostname", "UNLIKE", "node-0"]])),
        _ => {}
    }
    if random.chance(200) {
        put("taskKillGracePeriodSeconds", json!(random.between(1, 40)));
    }
    let after = id == "/shop/front" && random.chance(400);
    put("dependencies", if after { json!(["/shop/back"]) } else { json!([]) });
    if random.chance(400) {
        let after = random.between(0, 60);
        put("unreachableStrategy", json!({"inactiveAfterSeconds": after, "expungeAfterSeconds": after + 60}));
    }
    body
}

/// Rules by which the number follows what instances use.
fn autoscale(random: &mut Random) -> Value {
    let (min, window) = (random.between(1, 3), random.between(0, 40));
    json!({
        "min": min, "max": min + random.between(0, 5), "intervalSeconds": random.between(2, 15),
        "metrics": [{"type": "cpu", "target": 0.5}], "scaleDown": {"windowSeconds": window},
    })
}

fn pod(id: &str, wanted: &Wanted, random: &mut Random) -> Map<String, Value> {
    let container = |name: &str| json!({"name": name, "resources": {"cpus": 0.1, "mem": 32}, "exec": {"command": {"shell": "run"}}});
    let over = [0.0, 0.25, 1.0][random.between(0, 3) as usize];
    let mut containers = vec![container("one"), container("two")];
    if random.chance(400) {
        containers.push(container(SETUP));
    }
    map(json!({
        "id": id, "environment": {"CMD": wanted.cmd}, "scaling": {"kind": "fixed", "instances": wanted.instances},
        "containers": containers,
        "scheduling": {
            "backoff": {"backoff": 1, "maxLaunchDelay": 20},
            "upgrade": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": over},
        },
    }))
}

impl World {
    /// The operator does something, and sets when they do the next thing.
    pub fn operate(&mut self) -> Result<(), Violation> {
        let pause = if self.stormy { self.random.between(200, 25_000) } else { 2_000 };
        self.later(pause, Happens::Operator);
        if !self.stormy {
            return self.insist();
        }
        let count = if self.random.chance(150) { 2 } else { 1 };
        for _ in 0..count {
            let (kind, force) = (self.some_intent(), self.random.chance(400));
            let request = self.operator.request(kind, force);
            self.tell(|| format!("--- request {}: {:?} force {force}", request.token, request.kind));
            self.request(request)?;
        }
        Ok(())
    }

    /// Says the last word again to whoever has not taken it.
    fn insist(&mut self) -> Result<(), Violation> {
        let open: Vec<_> = self.operator.open.clone().into_iter().collect();
        if self.operator.since == Some(0) {
            self.operator.since = Some(self.now);
        }
        for (id, wanted) in open {
            let is_pod = PODS.contains(&id);
            let kind = match &wanted {
                Some(wanted) if is_pod => {
                    Kind::Pod(PodChange::Update(path(id), pod(id, wanted, &mut self.random)))
                }
                Some(wanted) => {
                    Kind::Update { id: path(id), body: app(id, wanted, &mut self.random), partial: false }
                }
                None if is_pod => Kind::Pod(PodChange::Remove(path(id))),
                None => Kind::Remove(path(id)),
            };
            let request = self.operator.request(kind, false);
            self.operator.asked.insert(request.token, id);
            self.request(request)?;
        }
        Ok(())
    }

    fn some_intent(&mut self) -> Kind {
        let random = &mut self.random;
        let id = APPS[random.between(0, APPS.len() as u64) as usize];
        let target = PODS[random.between(0, PODS.len() as u64) as usize];
        let wanted = Wanted { cmd: self.operator.some_command(random), instances: random.between(0, 6) };
        match random.between(0, 23) {
            0..=3 => {
                let mut body = app(id, &wanted, random);
                if random.chance(250) {
                    body.insert("autoscale".to_owned(), autoscale(random));
                    if random.chance(500) {
                        body.remove("instances");
                    }
                }
                Kind::Update { id: path(id), body, partial: false }
            }
            4..=6 => Kind::Update { id: path(id), body: map(json!({"cmd": wanted.cmd})), partial: true },
            7..=8 => Kind::Update {
                id: path(id),
                body: map(json!({"instances": wanted.instances})),
                partial: true,
            },
            9 => Kind::Restart(path(id)),
            10 => Kind::Remove(path(id)),
            11 => Kind::Kill(Killing {
                app: Some(path(id)),
                tasks: None,
                host: None,
                scale: random.chance(300),
                wipe: false,
            }),
            12 => Kind::ResetDelay(path(id)),
            13 => self.some_cancel(),
            14..=15 => Kind::Pod(PodChange::Update(path(target), pod(target, &wanted, random))),
            16 => Kind::Pod(PodChange::Remove(path(target))),
            17 => {
                let bodies = APPS[2..].iter().map(|id| app(id, &wanted, random)).collect();
                Kind::UpdateMany { bodies, partial: false }
            }
            18 => {
                let factor = [0.5, 1.0, 2.0][random.between(0, 3) as usize];
                Kind::Group(GroupChange::Update(path("/shop"), map(json!({"scaleBy": factor}))))
            }
            19 => Kind::Group(GroupChange::Remove(path("/shop"))),
            20 => {
                let apps: Vec<_> = APPS[2..4].iter().map(|id| app(id, &wanted, random)).collect();
                Kind::Group(GroupChange::Update(path("/shop"), map(json!({"apps": apps}))))
            }
            21 => self.some_return(id),
            _ => self.some_kill(id),
        }
    }

    /// Back to an older version.
    fn some_return(&mut self, id: &str) -> Kind {
        let entry = self.scheduler.state().and_then(|state| state.entry(&path(id)));
        let version = entry.and_then(|entry| entry.versions.keys().next().cloned()).unwrap_or_default();
        Kind::Update { id: path(id), body: map(json!({"version": version})), partial: true }
    }

    fn some_cancel(&mut self) -> Kind {
        let first = self.scheduler.state().and_then(|state| state.deployments.keys().next_back().cloned());
        Kind::Cancel(first.unwrap_or_else(|| "none".to_owned()))
    }

    /// One instance that runs.
    fn some_kill(&mut self, id: &str) -> Kind {
        let entry = self.scheduler.state().and_then(|state| state.entry(&path(id)));
        let record = entry.and_then(|entry| entry.instances.values().next()).map(|i| &i.record);
        let tasks = record.map(|record| record.tasks().map(|(_, task)| task).collect());
        Kind::Kill(Killing {
            app: Some(path(id)),
            tasks: Some(tasks.unwrap_or_default()),
            host: None,
            scale: false,
            wipe: false,
        })
    }
}

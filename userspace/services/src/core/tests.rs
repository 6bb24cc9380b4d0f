//! Golden scripts over the core: `tests/golden/*.txt`, one case a file. A line is a command; the lines beginning with
//! `> ` below it are what came of it. `UPDATE_GOLDEN=1` writes them anew.
//!
//! Commands: `subscribe`, `disconnect`, `reload`, `wait SECONDS`, `offer ID AGENT key=value…` (`with=N`: and what is reserved for the instance of the n-th task; `offers` for several, with ` ; ` in between), `rescind ID`,
//! `status N STATE [key=value…]` (N: the n-th task launched), `stranger ID STATE`, `create JSON`,
//! `roles DEFAULT ACCEPTED…` (settings), `quota ROLE key=value…` (what the master has), `update ID JSON`, `force-update ID JSON`, `delete ID`, `restart ID`, `kill ID|N [scale] [wipe]`, `cancel N [force]`,
//! `adopt TASK…`, `reset-delay ID`, `why ID`, `ended ID`, `queue`, `apps`, `deployments`; of pods: `pod JSON`, `update-pod ID JSON`, `delete-pod ID`, `kill-pod N`, `pod-status ID`,
//! and `status N.CONTAINER STATE …` for one of its containers.
//! `answer N STATUS BODY` or `answer N WORDS` is what the n-th task said when it was asked whether it is ready.
//! `measured ID N:cpu=SECONDS@AT,mem=MIB,requests=COUNT@AT …` is what instances were found to use.
//! `dry COMMAND …` says what a request would do.
//! Of groups: `post-group PATH JSON`, `put-group PATH JSON`, `delete-group PATH`, each with `force-` before it, `group PATH`, `group-versions PATH`.

use std::collections::BTreeMap;

use plenum_api::ids::SeededIds;
use serde_json::{Value, json};

use super::constraint::Location;
use super::group_requests::GroupChange;
use super::instance::State;
use super::matching::{Amount, Portion, thousandths};
use super::pod_requests::PodChange;
use super::requests::{Killing, Kind, Request};
use super::*;

pub(super) struct Script {
    pub(super) core: Core,
    ids: SeededIds,
    now: Now,
    names: Vec<(String, String)>,
    pub(super) tasks: Vec<(String, String)>,
    store: BTreeMap<String, Vec<u8>>,
    launched: BTreeSet<String>,
    definitions: BTreeMap<InstanceId, Arc<Definition>>,
    pub(super) deployments: Vec<String>,
    measures: BTreeMap<PathId, Millis>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            core: Core::new(Settings::default()),
            ids: SeededIds::new(7),
            now: Now::new(Millis(1000), Millis(1_700_000_000_000)),
            names: Vec::new(),
            tasks: Vec::new(),
            store: BTreeMap::new(),
            launched: BTreeSet::new(),
            definitions: BTreeMap::new(),
            deployments: Vec::new(),
            measures: BTreeMap::new(),
        }
    }

    pub(super) fn run(&mut self, line: &str) -> Vec<String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        let word = |n: usize| words.get(n).copied().unwrap_or("");
        let event = match command {
            "subscribe" => Event::Subscribed { framework: "F".to_owned(), master: "m:5050".to_owned() },
            "disconnect" => Event::Disconnected,
            "rescind" => Event::Rescinded(word(0).to_owned()),
            "offer" => {
                let mut offer = offer(&words);
                let with = words.iter().filter_map(|word| word.strip_prefix("with="));
                with.for_each(|n| offer.portions.extend(self.claimed(n.parse().unwrap())));
                Event::Offers(vec![offer])
            }
            "offers" => {
                let each = rest.split(" ; ").map(|one| offer(&one.split_whitespace().collect::<Vec<_>>()));
                Event::Offers(each.collect())
            }
            "status" => {
                let (n, container) = word(0).split_once('.').unwrap_or((word(0), "_app"));
                let task = self.tasks.get(n.parse::<usize>().unwrap() - 1);
                let (task, agent) = task.unwrap_or_else(|| panic!("{line}: not launched")).clone();
                let task = task.replace("._app.", &format!(".{container}."));
                Event::Status(Box::new(status(&task, &agent, &words[1..])))
            }
            "stranger" => Event::Status(Box::new(status(word(0), "a1", &words[1..]))),
            "answer" => {
                let (task, _) = &self.tasks[word(0).parse::<usize>().unwrap() - 1];
                let (instance, ..) = InstanceId::of_task(task).unwrap();
                let answer = match word(1).parse() {
                    Ok(status) => {
                        let (content_type, body) = ("text/plain".to_owned(), words[2..].join(" "));
                        Ok(readiness::Answer { status, content_type, body })
                    }
                    Err(_) => Err(words[1..].join(" ")),
                };
                Event::Probed(Box::new(readiness::Probed { app: id_of(task), instance, answer }))
            }
            "measured" => self.measured(&words),
            "quota" => {
                let pairs = words[1..].iter().map(|word| word.split_once('=').unwrap());
                let limits = pairs.map(|(name, limit)| (name.to_owned(), limit.parse().unwrap())).collect();
                Event::Quotas([(word(0).to_owned(), limits)].into())
            }
            "dry" => return self.dry(rest),
            "roles" => {
                let settings = Arc::make_mut(&mut self.core.state.settings);
                word(0).clone_into(&mut settings.default_role);
                settings.default_accepted_roles = words[1..].iter().map(ToString::to_string).collect();
                return Vec::new();
            }
            "wait" => return self.wait(word(0)),
            "reload" => {
                let entries: Vec<_> = self.store.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                self.core = Core::load(Settings::default(), &entries, self.now).unwrap();
                return Vec::new();
            }
            "why" | "queue" | "apps" | "ended" | "deployments" | "pod-status" | "group"
            | "group-versions" => {
                return self.show(command, word(0));
            }
            _ => self.request(command, &words, rest),
        };
        self.feed(event)
    }

    /// `measured ID N:cpu=SECONDS@AT,mem=MIB,requests=COUNT@AT …`.
    fn measured(&self, words: &[&str]) -> Event {
        let at = |text: &str| {
            let (value, at) = text.split_once('@').unwrap();
            Some((value.parse().unwrap(), at.parse().unwrap()))
        };
        let reading = |word: &&str| {
            let (n, figures) = word.split_once(':').unwrap();
            let (task, _) = &self.tasks[n.parse::<usize>().unwrap() - 1];
            let mut reading = scaling::Reading::default();
            for figure in figures.split(',') {
                match figure.split_once('=').unwrap() {
                    ("cpu", value) => reading.cpu = at(value),
                    ("requests", value) => reading.requests = at(value),
                    (_, mebibytes) => reading.memory = mebibytes.parse::<f64>().ok().map(|n| n * 1_048_576.0),
                }
            }
            (InstanceId::of_task(task).unwrap().0, reading)
        };
        let app = PathId::parse(words[0]).unwrap();
        let readings = words[1..].iter().map(reading).collect();
        let asked = self.measures.get(&app).copied().unwrap_or_default();
        Event::Measured(Box::new(scaling::Measured { app, asked, readings }))
    }

    /// Whether there is a record of the instance of the n-th task.
    pub(super) fn knows(&self, n: usize) -> bool {
        let (id, ..) = InstanceId::of_task(&self.tasks[n - 1].0).unwrap();
        self.store.contains_key(&format!("instances/{id}"))
    }

    /// What is reserved for the instance of the n-th task; its app may be gone.
    fn claimed(&self, n: usize) -> Vec<Portion> {
        let (id, ..) = InstanceId::of_task(&self.tasks[n - 1].0).unwrap();
        let record: Record =
            serde_json::from_slice(&self.store[&format!("instances/{id}")]).expect("a record");
        volume::claimed(&self.definitions[&id], &record, "F")
    }

    fn request(&self, command: &str, words: &[&str], rest: &str) -> Event {
        let id = || PathId::parse(words[0]).unwrap();
        let body = |text: &str| match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            other => panic!("{other:?}"),
        };
        let tail = || body(rest.split_once(' ').unwrap().1);
        let flag = |name: &str| words.contains(&name);
        let kind = match command {
            "create" => Kind::Create(body(rest)),
            "update" | "force-update" => Kind::Update { id: id(), body: tail(), partial: true },
            "delete" => Kind::Remove(id()),
            "restart" => Kind::Restart(id()),
            "post-group" | "force-post-group" => Kind::Group(GroupChange::Create(id(), tail())),
            "put-group" | "force-put-group" => Kind::Group(GroupChange::Update(id(), tail())),
            "delete-group" | "force-delete-group" => Kind::Group(GroupChange::Remove(id())),
            "reset-delay" => Kind::ResetDelay(id()),
            "adopt" => Kind::Adopt(words.iter().map(ToString::to_string).collect()),
            "kill" => {
                let (scale, wipe) = (flag("scale"), flag("wipe"));
                let (app, tasks) = match words[0].parse::<usize>() {
                    Ok(n) => (None, Some(vec![self.tasks[n - 1].0.clone()])),
                    Err(_) => (Some(id()), None),
                };
                Kind::Kill(Killing { app, tasks, host: None, scale, wipe })
            }
            "pod" => Kind::Pod(PodChange::Create(body(rest))),
            "update-pod" => Kind::Pod(PodChange::Update(id(), tail())),
            "delete-pod" => Kind::Pod(PodChange::Remove(id())),
            "kill-pod" => {
                let task = &self.tasks[words[0].parse::<usize>().unwrap() - 1].0;
                let (instance, app) = (task.trim_end_matches("._app.1").to_owned(), id_of(task));
                Kind::Pod(PodChange::Kill { id: app, instances: vec![instance], one: true })
            }
            "cancel" => Kind::Cancel(self.deployments[words[0].parse::<usize>().unwrap() - 1].clone()),
            other => panic!("no such command: {other}"),
        };
        let force = flag("force") || command.starts_with("force") || command == "delete";
        let (uri, client) = (String::new(), String::new());
        Event::Request(Box::new(Request { token: 1, kind, force, uri, client, once: None }))
    }

    /// What a request would do; nothing is different afterwards.
    fn dry(&mut self, line: &str) -> Vec<String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        let Event::Request(request) = self.request(command, &words, rest) else { panic!("{line}") };
        let before = format!("{:?}", self.core.state);
        let plan = dry::run(self.core.state.clone(), &request, Millis(0), self.now, &mut self.ids);
        assert_eq!(before, format!("{:?}", self.core.state), "nothing is changed by: {line}");
        let body = match plan {
            Ok(reply) => reply.body.unwrap(),
            Err(error) => return vec![self.tidy(&format!("{} {}", error.status(), error.body()))],
        };
        let mut rows = vec![format!("steps {}", body["steps"])];
        for (key, value) in body["plan"].as_object().into_iter().flatten() {
            match value {
                Value::Array(items) => rows.extend(items.iter().map(|item| format!("{key} {item}"))),
                other => rows.push(format!("{key} {other}")),
            }
        }
        rows.iter().map(|row| self.tidy(row)).collect()
    }

    fn wait(&mut self, seconds: &str) -> Vec<String> {
        let until = self.now.mono + Millis::from_secs_f64(seconds.parse().unwrap());
        let mut out = Vec::new();
        while let Some(at) = self.core.next_tick().filter(|at| *at <= until) {
            let at = at.max(self.now.mono + Millis(1));
            self.now = Now::new(at, self.now.wall + at.since(self.now.mono));
            out.extend(self.feed(Event::Tick));
        }
        if until > self.now.mono {
            self.now = Now::new(until, self.now.wall + until.since(self.now.mono));
        }
        out
    }

    fn show(&mut self, command: &str, id: &str) -> Vec<String> {
        let value = match command {
            "pod-status" => return self.pod(&PathId::parse(id).unwrap()),
            "why" => view::why(&self.core.state, &PathId::parse(id).unwrap(), self.now).unwrap_or_default(),
            "ended" => {
                self.core.state.ended_of(&PathId::parse(id).unwrap(), self.now).unwrap_or_default()["ended"]
                    .clone()
            }
            "queue" => view::queue(&self.core.state, self.now, false),
            "deployments" => Value::from(view::deployments(&self.core.state)),
            "group" => self.lines_of(&PathId::parse(id).unwrap()),
            "group-versions" => {
                self.core.state.group_versions(&PathId::parse(id).unwrap()).map_or(Value::Null, Value::from)
            }
            _ => Value::from(
                self.core
                    .entries()
                    .map(|(id, e)| {
                        let shown = view::app(&self.core.state, id, view::Embed::LIST).unwrap();
                        let of = |k: &str| shown[k].clone();
                        let tasks: Vec<String> = e.instances.keys().map(|id| id.task_id("", 1)).collect();
                        json!([
                            id,
                            of("instances"),
                            of("tasksStaged"),
                            of("tasksRunning"),
                            of("tasksHealthy"),
                            tasks
                        ])
                    })
                    .collect::<Vec<_>>(),
            ),
        };
        let rows = match value {
            Value::Array(rows) => rows,
            one => vec![one],
        };
        rows.iter().map(|row| self.tidy(&row.to_string())).collect()
    }

    fn pod(&self, id: &PathId) -> Vec<String> {
        let Some(shown) = view::pod_status(&self.core.state, id) else { return vec!["none".to_owned()] };
        let rows = |of: &Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
        let mut out = vec![format!("{}", shown["status"])];
        for one in rows(&shown, "instances") {
            let each = |c: &Value| format!("{} {} {}", c["name"], c["status"], c["conditions"][0]["value"]);
            let containers: Vec<String> = rows(&one, "containers").iter().map(each).collect();
            let text =
                format!("{} {} {}: {}", one["id"], one["status"], one["resources"], containers.join(", "));
            out.push(self.tidy(&text));
        }
        out
    }

    /// A group with all in it, a line each.
    fn lines_of(&self, id: &PathId) -> Value {
        let state = &self.core.state;
        if !state.has_group(id) {
            return Value::Null;
        }
        let version = state.group_version(id).unwrap_or_default();
        let group = state.groups.get(id);
        let mut lines = vec![json!([id, version, group.map(|g| json!([g.dependencies, g.enforce]))])];
        let here = state.entries_in(id).filter(|(path, _)| path.parent() == *id);
        lines.extend(here.map(|(path, e)| json!([path, e.wanted.instances(), e.wanted.role()])));
        for child in state.groups_of(id) {
            if let Value::Array(more) = self.lines_of(&child) {
                lines.extend(more);
            }
        }
        Value::from(lines)
    }

    fn feed(&mut self, event: Event) -> Vec<String> {
        let effects = self.core.handle(event, self.now, &mut self.ids);
        let mut out = Vec::new();
        for effect in effects {
            let text = self.effect(effect);
            out.extend(text.map(|t| self.tidy(&t)));
        }
        self.check();
        out
    }

    /// What a shell would do, with the invariants watched.
    fn effect(&mut self, effect: Effect) -> Option<String> {
        match effect {
            Effect::Commit(writes) => {
                assert!(writes.len() < 100, "a transaction holds fewer than 100 writes");
                let mut words = Vec::new();
                for write in writes {
                    match write {
                        Write::Put(key, value) => {
                            self.name_from_key(&key);
                            words.push(format!("+{key}"));
                            self.store.insert(key, value);
                        }
                        Write::Delete(key) => {
                            words.push(format!("-{key}"));
                            self.store.remove(&key);
                        }
                    }
                }
                Some(format!("commit {}", words.join(" ")))
            }
            Effect::Accept { offer, launches, frees, .. } => {
                let mut words: Vec<String> =
                    frees.into_iter().map(|free| format!("destroys what {} had", free.instance)).collect();
                for launch in launches {
                    let id = launch.record.id.clone();
                    let task = id.task_id("", launch.record.launches);
                    assert!(
                        self.store.contains_key(&format!("instances/{id}")),
                        "{id} is written down before its launch"
                    );
                    assert!(self.launched.insert(task.clone()), "{task} is launched once");
                    self.rename(&launch.record);
                    self.definitions.insert(id.clone(), launch.definition);
                    let images: Vec<String> = launch.images.values().map(|i| format!(" image={i}")).collect();
                    let ports = launch.record.host_ports;
                    let volumes: Vec<String> =
                        launch.record.volumes.iter().map(|v| format!(" {}={}MiB", v.path, v.size)).collect();
                    words.push(format!("{task} ports={ports:?}{}{}", images.join(""), volumes.join("")));
                }
                Some(format!("accept {offer}: {}", words.join(", ")))
            }
            Effect::Decline { offers, refuse } => {
                Some(format!("decline {} for {}s", offers.join(" "), refuse.0 / 1000))
            }
            Effect::Kill { task, grace, .. } => {
                Some(format!("kill {task}{}", grace.map_or(String::new(), |g| format!(" grace {g}"))))
            }
            Effect::Acknowledge { task, .. } => Some(format!("ack {task}")),
            Effect::Reconcile(tasks) if tasks.is_empty() => Some("reconcile all".to_owned()),
            Effect::Reconcile(tasks) => {
                Some(format!("reconcile {}", tasks.into_iter().map(|t| t.0).collect::<Vec<_>>().join(" ")))
            }
            Effect::Revive => Some("revive".to_owned()),
            Effect::Suppress => Some("suppress".to_owned()),
            Effect::Reply { reply, .. } => {
                let body = reply.body.unwrap_or(Value::Null);
                let body = match body.get("deploymentId").or(body.get("id")) {
                    Some(Value::String(id)) => id.clone(),
                    _ => body.to_string(),
                };
                Some(format!("reply {} {body}", reply.status))
            }
            Effect::Probe(probe) => {
                Some(format!("probe {} {} within {}s", probe.instance, probe.url, probe.timeout.0 / 1000))
            }
            Effect::Measure(measure) => {
                let part = |part: &scaling::Part| match &part.url {
                    Some(url) => format!("{} {url}", part.instance),
                    None => part.instance.to_string(),
                };
                self.measures.insert(measure.app.clone(), measure.asked);
                let parts: Vec<String> = measure.parts.iter().map(part).collect();
                Some(format!("measure {}: {}", measure.app, parts.join(", ")))
            }
            Effect::Publish(notice) => {
                let body = notice.body;
                let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("");
                let what = ["taskStatus", "condition", "appId", "id", "reason"].map(of);
                let what: Vec<&str> = what.into_iter().filter(|w| !w.is_empty()).collect();
                (notice.kind != "instance_changed_event")
                    .then(|| format!("event {} {}", notice.kind, what.join(" ")).trim_end().to_owned())
            }
        }
    }

    /// The n-th task is from now on that of the latest launch of its instance.
    fn rename(&mut self, record: &Record) {
        let known = self.tasks.iter_mut().find(|(task, _)| {
            InstanceId::of_task(task).is_some_and(|(id, ..)| id == record.id && record.launches > 1)
        });
        if let Some(known) = known {
            *known = (record.id.task_id("", record.launches), record.agent.clone());
        }
    }

    fn name_from_key(&mut self, key: &str) {
        if let Some(id) = key.strip_prefix("instances/") {
            let task = InstanceId::from_key(id).task_id("", 1);
            if !self.names.iter().any(|(long, _)| long == id) {
                let agent = self
                    .core
                    .index
                    .get(&InstanceId::from_key(id))
                    .and_then(|app| self.core.state.apps.get(app))
                    .and_then(|e| e.instances.get(&InstanceId::from_key(id)))
                    .map_or("a1".to_owned(), |i| i.record.agent.clone());
                self.tasks.push((task, agent));
                self.names.push((id.to_owned(), format!("#{}", self.tasks.len())));
            }
        }
        if let Some(id) = key.strip_prefix("deployments/")
            && !self.deployments.iter().any(|d| d == id)
        {
            self.deployments.push(id.to_owned());
            self.names.push((id.to_owned(), format!("D{}", self.deployments.len())));
        }
    }

    fn tidy(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (long, short) in &self.names {
            if !text.contains(long.as_str()) {
                continue;
            }
            // The first launch has the short name alone; the tenth is another one.
            let first = format!("{long}._app.1");
            let tenth = |n: usize| format!("{first}{n}");
            (0..10).for_each(|n| text = text.replace(&tenth(n), &format!("{short}._app.1{n}")));
            text = text.replace(&first, short).replace(long, short);
        }
        text.replace("2023-11-14T", "")
    }

    /// What holds at all times.
    fn check(&self) {
        let core = &self.core;
        let instances: BTreeSet<&InstanceId> =
            core.state.apps.values().flat_map(|e| e.instances.keys().chain(e.kept.keys())).collect();
        let indexed: BTreeSet<&InstanceId> = core.index.keys().collect();
        assert_eq!(instances, indexed, "the index knows every instance and no other");
        let stored: BTreeSet<String> =
            self.store.keys().filter_map(|k| k.strip_prefix("instances/")).map(str::to_owned).collect();
        let gone = core.state.ghosts.keys().chain(core.state.wiping.keys());
        let known: BTreeSet<String> = instances.into_iter().chain(gone).map(ToString::to_string).collect();
        assert_eq!(stored, known, "the store knows every instance and no other");
        for (id, entry) in core.state.apps.iter() {
            assert!(self.store.contains_key(&records::root_key(id)), "{id} is stored");
            assert!(
                self.store.contains_key(&records::version_key(id, entry.wanted.version())),
                "{id}'s version is stored"
            );
        }
    }
}

/// Whose a task is.
fn id_of(task: &str) -> PathId {
    let name = task.split(".instance-").next().unwrap_or_default();
    PathId::parse(&format!("/{}", name.replace('_', "/"))).unwrap()
}

fn offer(words: &[&str]) -> Offer {
    let scalar = |name: &str, amount: f64, reserved: &str| Portion {
        name: name.to_owned(),
        reserved: reserved.to_owned(),
        amount: Amount::Scalar(thousandths(amount)),
        claim: None,
    };
    let mut location = Location { host: format!("h-{}", words[1]), ..Location::default() };
    let (mut portions, mut role) = (Vec::new(), "*".to_owned());
    for word in &words[2..] {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "cpus" | "mem" | "disk" | "gpus" => portions.push(scalar(key, value.parse().unwrap(), "*")),
            "ports" => {
                let (a, b) = value.split_once('-').unwrap();
                let amount = Amount::Ranges(vec![(a.parse().unwrap(), b.parse().unwrap())]);
                let reserved = "*".to_owned();
                portions.push(Portion { name: "ports".to_owned(), reserved, amount, claim: None });
            }
            "with" => {}
            "role" => value.clone_into(&mut role),
            "reserved" => portions.iter_mut().for_each(|portion| value.clone_into(&mut portion.reserved)),
            attribute => {
                location.attributes.insert(attribute.to_owned(), value.to_owned());
            }
        }
    }
    Offer {
        id: words[0].to_owned(),
        agent: words[1].to_owned(),
        location: Arc::new(location),
        role,
        maintenance: false,
        portions,
    }
}

fn status(task: &str, agent: &str, words: &[&str]) -> Status {
    let state = State::parse(&format!("TASK_{}", words[0])).unwrap();
    let mut status =
        Status { agent: Some(agent.to_owned()), uuid: Some(vec![1]), ..Status::new(task, state) };
    for word in &words[1..] {
        match word.split_once('=').unwrap() {
            ("healthy", value) => status.healthy = Some(value == "true"),
            ("uuid", "none") => status.uuid = None,
            ("reason", value) => status.reason = Some(value.to_owned()),
            ("image", value) => status.image = Some(value.to_owned()),
            other => panic!("{other:?}"),
        }
    }
    status
}

fn check_file(path: &std::path::Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let (mut script, mut actual) = (Script::new(), String::new());
    for line in text.lines().filter(|l| !l.starts_with('>')) {
        actual.push_str(line);
        actual.push('\n');
        if !line.trim().is_empty() && !line.starts_with('#') {
            for out in script.run(line) {
                actual.push_str(&format!("> {out}\n"));
            }
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    assert_eq!(actual, text, "{}", path.display());
}

#[test]
fn golden_scripts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "the scripts are there");
    for file in files {
        check_file(&file);
    }
}

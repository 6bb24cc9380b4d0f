//! Nodes, the tasks of all frameworks, and the files in tasks' sandboxes: `/mesos` and `/agent/<id>`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Session, or_default, quantity};
use crate::error::{CliError, Result};
use crate::text::{clean, encode};

/// How long a download may pause.
const SILENCE: Duration = Duration::from_secs(60);

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// Cores.
    #[serde(default, with = "quantity")]
    pub cpus: f64,
    /// Mebibytes.
    #[serde(default, with = "quantity")]
    pub mem: f64,
    /// Mebibytes.
    #[serde(default, with = "quantity")]
    pub disk: f64,
    /// Graphics processors.
    #[serde(default, with = "quantity")]
    pub gpus: f64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// The name or address of its host.
    #[serde(default, deserialize_with = "or_default")]
    pub hostname: String,
    /// Its name in the cluster, by its certificate; empty where the cluster does not tell it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Whether it is connected and in service.
    #[serde(default, deserialize_with = "or_default")]
    pub active: bool,
    /// All it has.
    #[serde(default, deserialize_with = "or_default")]
    pub resources: Amounts,
    /// What tasks use.
    #[serde(default, deserialize_with = "or_default")]
    pub used_resources: Amounts,
    /// Its attributes.
    #[serde(default, deserialize_with = "or_default")]
    pub attributes: Map<String, Value>,
    /// Seconds since 1970.
    #[serde(default, with = "quantity")]
    pub registered_time: f64,
    /// The agent's version.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Node {
    fn says(&self, field: &str) -> bool {
        self.other.get(field).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether it has a name that says more than its host's address. On a single machine the certificate bears the role's word.
    #[must_use]
    pub fn is_named(&self) -> bool {
        let plain = self.hostname.replace(['.', ':'], "-");
        !matches!(self.node_name.as_str(), "" | "agent")
            && self.node_name != self.hostname
            && self.node_name != plain
    }

    /// What people call it: its name, or else its host.
    #[must_use]
    pub fn title(&self) -> &str {
        if self.is_named() { &self.node_name } else { &self.hostname }
    }

    /// Whether it was told to drain and is not drained yet.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain_state().is_some_and(|state| state != "DRAINED")
    }

    fn drain_state(&self) -> Option<&str> {
        self.other.get("drain_info")?.get("state")?.as_str()
    }

    /// Whether the cluster has lost it.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.says("unreachable")
    }

    /// `active`, `draining`, `drained`, `deactivated`, `unreachable`, `returning` (known from before the master changed) or `inactive`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.drain_state() {
            _ if self.is_unreachable() => "unreachable",
            _ if self.says("recovered") => "returning",
            Some("DRAINED") => "drained",
            Some(_) => "draining",
            None if self.says("deactivated") => "deactivated",
            None if self.active => "active",
            None => "inactive",
        }
    }

    /// Region and zone, as `region/zone`.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let domain = self.other.get("domain")?.get("fault_domain")?;
        let name = |part: &str| domain.get(part)?.get("name")?.as_str().map(str::to_owned);
        Some(format!("{}/{}", name("region")?, name("zone")?))
    }

    /// Whether it faces the outside: it offers to the role of public nodes, or says so.
    #[must_use]
    pub fn is_public(&self) -> bool {
        let reserved = self.other.get("reserved_resources").and_then(|roles| roles.get("slave_public"));
        reserved.is_some() || self.attributes.get("public_ip").is_some_and(|value| value == "true")
    }
}

/// A task of any framework.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterTask {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The framework's id.
    #[serde(default, deserialize_with = "or_default")]
    pub framework_id: String,
    /// The framework's name; this client fills it in.
    #[serde(default, deserialize_with = "or_default")]
    pub framework_name: String,
    /// The node's id.
    #[serde(default, deserialize_with = "or_default")]
    pub slave_id: String,
    /// The name or address of the node's host; this client fills it in.
    #[serde(default, deserialize_with = "or_default")]
    pub hostname: String,
    /// The node's name, where it says more than its address; this client fills it in.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// `TASK_RUNNING` and the like.
    #[serde(default, deserialize_with = "or_default")]
    pub state: String,
    /// What it may use.
    #[serde(default, deserialize_with = "or_default")]
    pub resources: Amounts,
    /// What was said of it, the newest last.
    #[serde(default, deserialize_with = "or_default")]
    pub statuses: Vec<Status>,
    /// Whether it has ended; this client fills it in.
    #[serde(default, deserialize_with = "or_default")]
    pub completed: bool,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ClusterTask {
    /// Whether its own program runs on a terminal.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.other.get("container").and_then(|container| container.get("tty_info")).is_some()
    }

    /// What people call its node: its name, else its host, else its id.
    #[must_use]
    pub fn node(&self) -> &str {
        let words = [&self.node_name, &self.hostname, &self.slave_id];
        words.into_iter().find(|word| !word.is_empty()).map_or("", String::as_str)
    }

    /// Its container's id in one word, its pod's before it.
    #[must_use]
    pub fn container(&self) -> Option<String> {
        fn word(id: &Value) -> Option<String> {
            let own = id.get("value")?.as_str()?;
            Some(match id.get("parent").and_then(word) {
                Some(parent) => format!("{parent}.{own}"),
                None => own.to_owned(),
            })
        }
        let known = self.statuses.iter().rev();
        known.filter_map(|status| status.other.get("container_status")?.get("container_id")).find_map(word)
    }
}

/// What was said of a task once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The state.
    #[serde(default, deserialize_with = "or_default")]
    pub state: String,
    /// Seconds since 1970.
    #[serde(default, with = "quantity")]
    pub timestamp: f64,
    /// Whether checks passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    slaves: Vec<Node>,
    #[serde(default)]
    frameworks: Vec<Framework>,
    #[serde(default)]
    completed_frameworks: Vec<Framework>,
}

#[derive(Deserialize)]
struct Framework {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default)]
    tasks: Vec<ClusterTask>,
    #[serde(default)]
    completed_tasks: Vec<ClusterTask>,
}

#[derive(Deserialize)]
struct AgentState {
    #[serde(default)]
    frameworks: Vec<AgentFramework>,
    #[serde(default)]
    completed_frameworks: Vec<AgentFramework>,
}

#[derive(Deserialize)]
struct AgentFramework {
    #[serde(default)]
    executors: Vec<Executor>,
    #[serde(default)]
    completed_executors: Vec<Executor>,
}

#[derive(Deserialize)]
struct Executor {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    directory: String,
    #[serde(default)]
    tasks: Vec<Named>,
    #[serde(default)]
    queued_tasks: Vec<Named>,
    #[serde(default)]
    completed_tasks: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
}

impl Executor {
    fn has(&self, task: &str) -> bool {
        let all = self.tasks.iter().chain(&self.queued_tasks).chain(&self.completed_tasks);
        all.map(|named| named.id.as_str()).chain([self.id.as_str()]).any(|id| id == task)
    }
}

/// What is in a folder of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path as the agent names it.
    pub path: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// Seconds since 1970.
    #[serde(default, with = "quantity")]
    pub mtime: f64,
    /// Kind and permissions as `ls` shows them.
    #[serde(default, deserialize_with = "or_default")]
    pub mode: String,
    /// Owner.
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
    /// Group.
    #[serde(default, deserialize_with = "or_default")]
    pub gid: String,
}

impl Entry {
    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.mode.starts_with('d')
    }
}

#[derive(Deserialize)]
struct Piece {
    offset: u64,
    #[serde(default)]
    data: String,
}

/// A file in a task's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node's id.
    pub agent: String,
    /// The file's path as the agent names it.
    pub path: String,
}

impl Session {
    /// All nodes.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        #[derive(Deserialize)]
        struct Answer {
            slaves: Vec<Node>,
        }
        Ok(self.get::<Answer>("/mesos/slaves").await?.slaves)
    }

    /// All nodes, those that cannot be reached included.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn all_nodes(&self) -> Result<Vec<Node>> {
        #[derive(Deserialize)]
        struct Answer {
            slaves: Vec<Node>,
            #[serde(default, deserialize_with = "or_default")]
            recovered_slaves: Vec<Node>,
            #[serde(default, deserialize_with = "or_default")]
            unreachable_slaves: Vec<Node>,
        }
        let answer = self.get::<Answer>("/mesos/slaves").await?;
        let away = |(mut node, word): (Node, &str)| {
            node.other.insert(word.to_owned(), Value::Bool(true));
            node
        };
        let recovered = answer.recovered_slaves.into_iter().map(|node| (node, "recovered"));
        let unreachable = answer.unreachable_slaves.into_iter().map(|node| (node, "unreachable"));
        Ok(answer.slaves.into_iter().chain(recovered.chain(unreachable).map(away)).collect())
    }

    /// Tasks of all frameworks: those alive, and those that ended where the master still knows them.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn tasks(&self) -> Result<Vec<ClusterTask>> {
        let state: State = self.get("/mesos/state").await?;
        let nodes: BTreeMap<&str, &Node> = state.slaves.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut all = Vec::new();
        for framework in state.frameworks.into_iter().chain(state.completed_frameworks) {
            let ended = framework.completed_tasks.into_iter().map(|task| (task, true));
            for (mut task, completed) in framework.tasks.into_iter().map(|task| (task, false)).chain(ended) {
                task.framework_name.clone_from(&framework.name);
                if let Some(node) = nodes.get(task.slave_id.as_str()) {
                    task.hostname.clone_from(&node.hostname);
                    task.node_name = node.title().to_owned();
                }
                task.completed = completed;
                all.push(task);
            }
        }
        Ok(all)
    }

    /// The folder of a task's sandbox on a node; none where the node no longer knows it.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn sandbox(&self, agent: &str, task: &str) -> Result<Option<String>> {
        let state: AgentState = self.get(&format!("/agent/{}/state", encode(agent, false))).await?;
        let frameworks = state.frameworks.iter().chain(&state.completed_frameworks);
        let mut executors = frameworks.flat_map(|f| f.executors.iter().chain(&f.completed_executors));
        Ok(executors.find(|executor| executor.has(task) && !executor.directory.is_empty()).map(|executor| {
            match executor.kind.as_str() {
                // A pod's tasks have folders of their own in its sandbox.
                "DEFAULT" if executor.id != task => format!("{}/tasks/{task}", executor.directory),
                _ => executor.directory.clone(),
            }
        }))
    }

    /// How long a file is.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn file_size(&self, file: &Place) -> Result<u64> {
        Ok(self.read(file, "offset=-1").await?.offset)
    }

    /// `length` bytes (the agent gives at most 64 KiB) of a file from `offset`.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn file_piece(&self, file: &Place, offset: u64, length: u64) -> Result<String> {
        Ok(self.read(file, &format!("offset={offset}&length={length}")).await?.data)
    }

    /// The paths of what is in a folder of a node.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn folder(&self, agent: &str, path: &str) -> Result<Vec<String>> {
        Ok(self.entries(agent, path).await?.into_iter().map(|entry| entry.path).collect())
    }

    /// What is in a folder of a node.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn entries(&self, agent: &str, path: &str) -> Result<Vec<Entry>> {
        let at = format!("/agent/{}/files/browse?path={}", encode(agent, false), encode(path, true));
        self.get(&at).await
    }

    /// Hands a whole file to `sink`, piece by piece; gives its length.
    ///
    /// # Errors
    /// [`CliError`], and what `sink` says.
    pub async fn download(&self, file: &Place, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u64> {
        let (agent, path) = (encode(&file.agent, false), encode(&file.path, true));
        let call = self.call(Method::GET, &format!("/agent/{agent}/files/download?path={path}"));
        let mut stream = self.send(call).await?.stream();
        let mut count = 0;
        while let Some(piece) = stream.next_within(SILENCE).await? {
            sink(&piece)?;
            count += u64::try_from(piece.len()).unwrap_or(0);
        }
        Ok(count)
    }

    /// What the containers of a node use, by their ids in one word.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn statistics(&self, agent: &str) -> Result<BTreeMap<String, Map<String, Value>>> {
        #[derive(Deserialize)]
        struct One {
            container_id: String,
            #[serde(default, deserialize_with = "or_default")]
            statistics: Map<String, Value>,
        }
        let at = format!("/agent/{}/containers?show_nested=true", encode(agent, false));
        let all: Vec<One> = self.get(&at).await?;
        Ok(all.into_iter().map(|one| (one.container_id, one.statistics)).collect())
    }

    async fn read(&self, file: &Place, query: &str) -> Result<Piece> {
        let path = format!(
            "/agent/{}/files/read?path={}&{query}",
            encode(&file.agent, false),
            encode(&file.path, true)
        );
        let reply = self.send(self.call(Method::GET, &path)).await?;
        let bytes = reply.bytes_up_to(4 * 1024 * 1024).await?;
        serde_json::from_slice(&bytes).map_err(|error| CliError::Answer {
            url: format!("{}{}", self.url(), clean(&path)),
            reason: clean(&error.to_string()),
        })
    }
}

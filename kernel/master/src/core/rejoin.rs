//! Agents register: new ones, known ones on a new connection, all of them after the master has restarted.
//!
//! Owns the way from `Register` to `Registered`/`Reregistered`, and rebuilding what the master knows of an agent's tasks and executors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::internal::{self, Register, goodbye::Code, master_message::Kind};
use plenum_api::mesos::{self, TaskState, task_status::Reason};
use plenum_api::resources::Resources;

use super::agents::Stage;
use super::event::{ConnId, Peer};
use super::lookup::{agent_id, framework_id, task_id, tell_on};
use super::registry::{self, AgentRecord, AgentState, Life};
use super::state::{Absence, Agent, AgentKey, FrameworkKey, Task, is_terminal};
use super::timers::Timer;
use super::{Master, Pending, Turn, validate};

/// A registration that waits for the store.
#[derive(Debug)]
pub(super) struct Admission {
    conn: ConnId,
    peer: Peer,
    id: Arc<str>,
    /// The agent got its id just now and has not heard it.
    fresh: bool,
    /// The agent had been unreachable.
    lost: bool,
    register: Register,
    /// It is given a slice of the overlay that it did not have.
    slice: bool,
}

impl Master {
    pub(super) fn agent_registers(&mut self, t: &mut Turn<'_>, conn: ConnId, register: Register) {
        self.metrics.count(if register.agent_id.is_some() {
            "master/messages_reregister_slave"
        } else {
            "master/messages_register_slave"
        });
        let Some(peer) = self.connections.get(&conn).map(|c| c.peer.clone()) else { return };
        if let Err(reason) = validate::register(&register) {
            self.goodbye(t, conn, Code::Protocol, reason);
            return;
        }
        let given = register.agent_id.as_ref().map(|id| Arc::<str>::from(id.value.as_str()));
        let known = given.as_deref().and_then(|id| {
            self.agent_by_id(id)
                .map(|(_, agent)| (Arc::clone(&agent.identity), Arc::clone(&agent.info), None))
                .or_else(|| {
                    self.absent.get(id).map(|a| (Arc::clone(&a.identity), Arc::clone(&a.info), Some(a.why)))
                })
        });
        if let Some((identity, _, why)) = &known {
            if matches!(why, Some(Absence::Gone(_))) {
                tell_on(
                    t,
                    conn,
                    Kind::ShutdownAgent(internal::ShutdownAgent {
                        message: Some("this agent was marked gone".into()),
                    }),
                );
                self.goodbye(t, conn, Code::Gone, "this agent was marked gone: it gets no tasks any more; start it with an empty work directory to use the machine again".into());
                return;
            }
            if identity.key != peer.identity.key {
                self.goodbye(t, conn, Code::Identity, "this agent id belongs to another certificate: remove the agent's `meta` folder to register as a new agent".into());
                return;
            }
        }
        let fresh = given.is_none();
        let id = given.unwrap_or_else(|| {
            self.next.agent += 1;
            format!("{}-S{}", self.id, self.next.agent - 1).into()
        });
        let lost = known.as_ref().is_some_and(|(_, _, why)| matches!(why, Some(Absence::Unreachable(_))));
        // What is stored has the node's name, too: it is shown of agents that are away, whoever leads.
        let unchanged = known.as_ref().is_some_and(|(identity, info, _)| {
            **identity == *peer.identity && same_agent(info, &register.agent_info)
        });
        let claim = register.overlay.as_ref().and_then(|wish| self.overlay.claim(&id, wish));
        let slice = claim.as_ref().is_some_and(|claim| claim.fresh);
        let admission = Admission { conn, peer, id, fresh, lost, register, slice };
        if unchanged && !lost && claim.is_none() {
            self.admit(t, admission);
            return;
        }
        let record = agent_record(&admission, self.intended(&admission.id), t.now.wall);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.stage = Stage::Admitting;
        }
        let mut ops = vec![registry::put_agent(&admission.id, &record)];
        ops.extend(claim.map(|claim| claim.op));
        self.commit(t, ops, Pending::Admit(Box::new(admission)));
    }

    pub(super) fn admit_committed(
        &mut self,
        t: &mut Turn<'_>,
        admission: Admission,
        result: Result<(), String>,
    ) {
        let here = self.connections.get(&admission.conn).is_some_and(|c| c.stage == Stage::Admitting);
        if let Err(reason) = result {
            if admission.slice {
                self.overlay.release(&admission.id);
            }
            if here {
                self.goodbye(
                    t,
                    admission.conn,
                    Code::Closing,
                    format!("the registration could not be stored ({reason}): connect again"),
                );
            }
            return;
        }
        if !here && admission.fresh {
            // It never heard its id and will ask for another one.
            let mut ops = vec![registry::delete("agent", &admission.id)];
            ops.extend(self.overlay.release(&admission.id));
            self.commit(t, ops, Pending::Tidy);
            return;
        }
        // Marked gone while this was being stored: the later decision holds.
        if matches!(self.absent.get(&admission.id), Some(absent) if matches!(absent.why, Absence::Gone(_))) {
            if here {
                self.goodbye(t, admission.conn, Code::Gone, "this agent was marked gone".into());
            }
            return;
        }
        self.admit(t, admission);
    }

    fn admit(&mut self, t: &mut Turn<'_>, admission: Admission) {
        let (conn, id, fresh, lost) =
            (admission.conn, Arc::clone(&admission.id), admission.fresh, admission.lost);
        let mut life = Life::default();
        if let Some(absent) = Arc::make_mut(&mut self.absent).remove(&id) {
            life = absent.life;
            self.recovering -= usize::from(absent.why == Absence::Recovered);
        }
        let (key, added) = self.place_agent(t, &admission, life);
        let register = admission.register;
        let (drains, overlay) = (register.draining.is_some(), register.overlay.is_some());
        let named = named_frameworks(&register);
        if let Some(agent) = self.agents.get(key) {
            self.ledger.put_agent(agent, added);
        }
        let missing = self.take_agents_state(t, key, lost, register);
        let serves = self.agents.get(key).is_some_and(|agent| agent.life.serves());
        #[cfg(feature = "deliberate-bugs")]
        let serves = serves || self.settings.deliberate_drained_offer;
        self.ledger.set_agent_active(&id, serves);
        match self.connections.get_mut(&conn) {
            Some(connection) => connection.stage = Stage::Registered(key),
            None => {
                // The connection broke while the registration was stored; the agent is known and away.
                self.agent_away(t, key);
            }
        }
        if fresh {
            let heartbeat_interval_ms = Some(self.settings.ping.0);
            let master_info = Some(self.settings.master_info.clone());
            let registered =
                internal::Registered { agent_id: agent_id(&id), heartbeat_interval_ms, master_info };
            self.tell(t, key, Kind::Registered(registered));
        } else {
            self.tell_reregistered(t, key, missing);
        }
        if overlay {
            self.tell_overlay(t, key, &id);
            self.overlay_soon(t);
        }
        for id in named.iter().filter(|id| !self.framework_keys.contains_key(id.as_str())) {
            self.tell(
                t,
                key,
                Kind::ShutdownFramework(internal::ShutdownFramework { framework_id: framework_id(id) }),
            );
        }
        self.order_overdue(t, key, lost);
        self.order_drain(t, key, drains);
        let at = t.now.mono + self.settings.ping;
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.look_at = at;
        }
        self.timers.set(at, Timer::Ping(key));
        self.touch();
        self.allocate_soon(t);
        if added {
            self.publish_agent_added(t, key);
        }
    }

    /// The agent's record: a new one, or the old one on a new connection. Returns whether it is new.
    fn place_agent(&mut self, t: &mut Turn<'_>, admission: &Admission, life: Life) -> (AgentKey, bool) {
        let register = &admission.register;
        let mut info = register.agent_info.clone();
        info.id = Some(agent_id(&admission.id));
        let total = if register.checkpointed_resources.is_empty() {
            &info.resources
        } else {
            &register.checkpointed_resources
        };
        // Checked with the registration.
        let total = Resources::from_mesos(total).unwrap_or_default();
        let mut agent = Agent {
            id: Arc::clone(&admission.id),
            info: Arc::new(info),
            identity: Arc::clone(&admission.peer.identity),
            version: register.version.as_str().into(),
            address: Arc::clone(&admission.peer.address),
            url: register.url.as_deref().map(Arc::from),
            capabilities: Arc::new(register.capabilities.clone()),
            total: Arc::new(total),
            conn: Some(admission.conn),
            registered: t.now.wall,
            reregistered: (!admission.fresh).then_some(t.now.wall),
            tasks: BTreeSet::new(),
            executors: BTreeMap::new(),
            offers: BTreeSet::new(),
            operations: BTreeMap::new(),
            away_at: None,
            leaving: false,
            life,
        };
        let Some(key) = self.agent_keys.get(&admission.id).copied() else {
            let key = self.agents.insert(agent);
            self.agent_keys.insert(Arc::clone(&admission.id), key);
            return (key, true);
        };
        if let Some(old) = self.agents.get(key).and_then(|old| old.conn)
            && old != admission.conn
        {
            self.goodbye(t, old, Code::Replaced, "a newer connection of this agent took over".into());
        }
        self.rescind_agent(t, key);
        if let Some(old) = self.agents.get_mut(key) {
            agent.registered = old.registered;
            agent.tasks = std::mem::take(&mut old.tasks);
            agent.executors = std::mem::take(&mut old.executors);
            agent.operations = std::mem::take(&mut old.operations);
            agent.leaving = old.leaving;
            agent.life = old.life;
            *old = agent;
        }
        (key, false)
    }

    /// Makes the master's knowledge of the agent's frameworks, executors and tasks what the agent says. Returns the tasks that the master
    /// believed there and the agent did not name, by framework.
    fn take_agents_state(
        &mut self,
        t: &mut Turn<'_>,
        key: AgentKey,
        lost: bool,
        register: Register,
    ) -> BTreeMap<FrameworkKey, Vec<Arc<str>>> {
        for info in register.frameworks {
            self.adopt_framework(t, info);
        }
        let before =
            self.agents.get_mut(key).map(|agent| std::mem::take(&mut agent.operations)).unwrap_or_default();
        self.take_operations(t, key, before, register.operations);
        self.take_executors(key, register.executors);
        let mut unnamed = self.agents.get(key).map(|agent| agent.tasks.clone()).unwrap_or_default();
        let mut dead: BTreeSet<(String, String)> = BTreeSet::new();
        for task in &register.tasks {
            match self.take_task(t, key, lost, task) {
                Some(task) => drop(unnamed.remove(&task)),
                None => drop(dead.insert((task.framework_id.value.clone(), task.task_id.value.clone()))),
            }
        }
        let mut missing: BTreeMap<FrameworkKey, Vec<Arc<str>>> = BTreeMap::new();
        for task_key in unnamed {
            let Some(task) = self.tasks.get(task_key) else { continue };
            if self.frameworks.contains_key(&task.framework) {
                missing.entry(task.framework).or_default().push(Arc::clone(&task.id));
            } else if !dead.contains(&(task.framework_id.to_string(), task.id.to_string())) {
                // A task of a dead framework that has ended in the meantime.
                self.forget_task(task_key);
            }
        }
        missing
    }

    /// Takes in one task as its agent describes it.
    fn take_task(
        &mut self,
        t: &mut Turn<'_>,
        agent: AgentKey,
        lost: bool,
        task: &mesos::Task,
    ) -> Option<u32> {
        let framework = self.framework_key(&task.framework_id.value)?;
        let state = TaskState::try_from(task.state).unwrap_or(TaskState::TaskStaging);
        if let Some((key, known)) = self.task_of(framework, &task.task_id.value) {
            if known.agent != agent {
                t.warn(format!(
                    "agent {} has task {} that runs on agent {}",
                    task.agent_id, task.task_id, known.agent_id
                ));
                return None;
            }
            let ended = is_terminal(state) && !is_terminal(known.state);
            if ended {
                self.release_task(key);
            }
            if let Some(known) = self.tasks.get_mut(key)
                && !is_terminal(known.state)
            {
                known.state = state;
            }
            return Some(key);
        }
        let mut body = task.clone();
        let statuses = std::mem::take(&mut body.statuses);
        let mut record = Task::new(&body, framework, agent);
        record.sent = task
            .status_update_state
            .and_then(|s| TaskState::try_from(s).ok())
            .zip(task.status_update_uuid.as_ref().and_then(|uuid| <[u8; 16]>::try_from(&uuid[..]).ok()));
        for status in &statuses {
            record.push_status(status);
        }
        record.held = !is_terminal(state);
        if record.held {
            self.ledger.hold(&record.framework_id, &record.agent_id, &record.resources());
        }
        let id = Arc::clone(&record.id);
        let key = self.tasks.insert(record);
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.tasks.insert(key);
        }
        let mut returned = false;
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            returned = framework.unreachable.remove(&id).is_some();
            framework.tasks.insert(id, key);
        }
        self.touch_framework(framework);
        if returned && !is_terminal(state) {
            self.tell_returned(t, key, state);
        }
        if lost {
            self.publish_task_added(t, key);
        }
        Some(key)
    }

    /// The framework heard that the task is out of reach, and may have replaced it: as in Mesos it hears that the task runs, from the master,
    /// without acknowledgement. Everything the agent itself has to say was acknowledged long ago.
    fn tell_returned(&self, t: &mut Turn<'_>, key: u32, state: TaskState) {
        let Some(task) = self.tasks.get(key) else { return };
        let reason = Reason::AgentReregistered;
        let status = self.master_status(t.now, task, state, reason, "the agent is back");
        self.send_update(t, task.framework, status);
    }

    /// Agents bring the description of a framework that the store does not know (a store restored from an old copy): it is taken in, so that
    /// its tasks are seen and can be resumed or killed.
    fn adopt_framework(&mut self, t: &mut Turn<'_>, info: mesos::FrameworkInfo) {
        let Some(id) = info.id.as_ref().map(|id| Arc::<str>::from(id.value.as_str())) else { return };
        if id.is_empty() || self.framework_keys.contains_key(&id) || self.removed.contains_key(&id) {
            return;
        }
        t.warn(format!("framework {id} is known from an agent only and is taken in"));
        let principal: Arc<str> = info.principal.clone().unwrap_or_default().into();
        let key = self.insert_framework(id, info, principal, t.now.wall);
        self.restore_framework(t.now, key);
        if let Some(info) = self.frameworks.get(&key).map(|f| Arc::clone(&f.info)) {
            let op = self.framework_op(key, &info);
            self.commit(t, vec![op], Pending::Tidy);
        }
    }

    fn tell_reregistered(
        &self,
        t: &mut Turn<'_>,
        key: AgentKey,
        missing: BTreeMap<FrameworkKey, Vec<Arc<str>>>,
    ) {
        let Some(agent) = self.agents.get(key) else { return };
        let mut frameworks: BTreeSet<FrameworkKey> =
            agent.executors.keys().map(|(framework, _)| *framework).collect();
        frameworks
            .extend(agent.tasks.iter().filter_map(|task| self.tasks.get(*task)).map(|task| task.framework));
        let reconciliations = missing
            .into_iter()
            .filter_map(|(framework, tasks)| {
                let framework = self.frameworks.get(&framework)?;
                let task_ids = tasks.iter().map(|id| task_id(id)).collect();
                Some(internal::ReconcileTasks {
                    framework_id: framework_id(&framework.id),
                    task_ids,
                    framework_info: Some((*framework.info).clone()),
                })
            })
            .collect();
        let message = internal::Reregistered {
            agent_id: agent_id(&agent.id),
            heartbeat_interval_ms: Some(self.settings.ping.0),
            master_info: Some(self.settings.master_info.clone()),
            reconciliations,
            frameworks: frameworks
                .iter()
                .filter_map(|key| self.frameworks.get(key))
                .map(|f| (*f.info).clone())
                .collect(),
        };
        self.tell(t, key, Kind::Reregistered(message));
    }

    /// What was ordered while the agent was away: kills that were asked for, tasks that their framework was told are lost.
    fn order_overdue(&mut self, t: &mut Turn<'_>, key: AgentKey, lost: bool) {
        let Some(agent) = self.agents.get(key).cloned() else { return };
        for task in agent.tasks.iter().filter_map(|task| self.tasks.get(*task)) {
            if is_terminal(task.state) {
                continue;
            }
            let blind =
                lost && self.frameworks.get(&task.framework).is_some_and(|f| !f.abilities.partition_aware);
            let Some(kill_policy) = task.kill.or_else(|| blind.then_some(None)) else { continue };
            let kill = internal::KillTask {
                framework_id: framework_id(&task.framework_id),
                task_id: task_id(&task.id),
                kill_policy,
            };
            self.tell(t, key, Kind::KillTask(kill));
        }
    }
}

/// Every framework that the agent has something of.
fn named_frameworks(register: &Register) -> BTreeSet<String> {
    let infos = register.frameworks.iter().filter_map(|info| info.id.as_ref());
    let executors = register.executors.iter().map(|executor| &executor.framework_id);
    let tasks = register.tasks.iter().map(|task| &task.framework_id);
    infos.chain(executors).chain(tasks).map(|id| id.value.clone()).collect()
}

/// Whether an agent describes itself as before. The id is not part of it.
fn same_agent(known: &mesos::AgentInfo, new: &mesos::AgentInfo) -> bool {
    let mut new = new.clone();
    new.id.clone_from(&known.id);
    *known == new
}

fn agent_record(admission: &Admission, life: Life, now: plenum_api::Millis) -> AgentRecord {
    let mut info = admission.register.agent_info.clone();
    info.id = Some(agent_id(&admission.id));
    AgentRecord {
        info,
        identity: admission.peer.identity.key.to_string(),
        node_name: admission.peer.identity.node.to_string(),
        state: AgentState::Admitted,
        since: now,
        principal: admission.peer.identity.key.to_string(),
        life,
    }
}

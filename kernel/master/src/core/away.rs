//! Agents that are away: disconnection, pings, unreachable, gone, leaving; agents that do not come back after a restart.
//!
//! Owns the end of an agent's record and what follows for its tasks. Coming (back) is in `rejoin`.

use std::sync::Arc;

use plenum_api::internal::{self, goodbye::Code, master_message::Kind};
use plenum_api::mesos::{self, OperationState, TaskState, task_status::Reason};
use plenum_api::{Millis, scheduler};

use super::agents::Stage;
use super::event::{AgentIdentity, Answer, ConnId, ReplyId};
use super::lookup::{agent_id, event};
use super::registry::{self, AgentRecord, AgentState, Life};
use super::state::{Absence, Absent, AgentKey, Task, is_terminal};
use super::timers::Timer;
use super::{Master, Pending, Turn};

/// Why an agent's record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Unreachable,
    Gone,
    Left,
}

impl Master {
    /// A connection is closed. An agent that spoke on it is away; its time runs.
    pub(super) fn agent_disconnected(&mut self, t: &mut Turn<'_>, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if let Stage::Registered(key) = connection.stage
            && self.agents.get(key).is_some_and(|agent| agent.conn == Some(conn))
        {
            self.agent_away(t, key);
        }
    }

    pub(super) fn agent_away(&mut self, t: &mut Turn<'_>, key: AgentKey) {
        let at = t.now.mono + self.settings.agent_timeout();
        let Some(agent) = self.agents.get_mut(key) else { return };
        agent.conn = None;
        agent.away_at = Some(at);
        t.log(format!("agent {} disconnected", agent.id));
        let id = Arc::clone(&agent.id);
        self.timers.set(at, Timer::Away(key));
        self.ledger.set_agent_active(&id, false);
        self.rescind_agent(t, key);
        self.touch();
    }

    /// An agent is pinged, or has left too many pings unanswered.
    pub(super) fn ping_due(&mut self, t: &mut Turn<'_>, key: AgentKey, at: Millis) {
        let (now, every, limit) = (t.now.mono, self.settings.ping, self.settings.agent_timeout());
        let Some(conn) = self.agents.get(key).and_then(|agent| agent.conn) else { return };
        let Some(connection) = self.connections.get_mut(&conn).filter(|c| c.look_at == at) else { return };
        let silent = now - connection.heard;
        // The pings are counted as well: time in which this process did not run is not the agent's silence.
        if silent >= limit && connection.missed >= self.settings.ping_misses.saturating_sub(1).max(1) {
            let seconds = silent.0 / 1000;
            self.goodbye(t, conn, Code::Timeout, format!("nothing was heard of the agent for {seconds} s"));
            // It has had its time already.
            self.lose_agent(t, key);
            return;
        }
        // Nothing needs to be asked where both sides hear of each other anyway. A little early is in time: one timer for each ping.
        let quiet = silent.max(now - connection.said);
        let ping = quiet + Millis(every.0 / 4) >= every;
        connection.missed += u32::from(ping);
        let wait = if ping { every } else { every - quiet };
        let mut next = now + wait;
        if silent < limit {
            next = next.min(connection.heard + limit);
        }
        connection.look_at = next;
        self.timers.set(next, Timer::Ping(key));
        if ping {
            self.next.ping += 1;
            self.tell(t, key, Kind::Ping(internal::Ping { seq: self.next.ping, connected: Some(true) }));
        }
    }

    pub(super) fn away_due(&mut self, t: &mut Turn<'_>, key: AgentKey, at: Millis) {
        if self.agents.get(key).is_some_and(|agent| agent.away_at == Some(at) && agent.conn.is_none()) {
            self.lose_agent(t, key);
        }
    }

    /// Stores that an agent is unreachable; what follows, follows when it is stored.
    fn lose_agent(&mut self, t: &mut Turn<'_>, key: AgentKey) {
        let now = t.now.wall;
        let Some(agent) = self.agents.get_mut(key).filter(|agent| !agent.leaving) else { return };
        agent.leaving = true;
        let id = Arc::clone(&agent.id);
        let life = self.lives.get(&id).copied().unwrap_or_default();
        let record = record(&agent.info, &agent.identity, AgentState::Unreachable, life, now, "master");
        let op = registry::put_agent(&id, &record);
        self.commit(t, vec![op], Pending::Unreachable(id));
    }

    pub(super) fn unreachable_committed(
        &mut self,
        t: &mut Turn<'_>,
        id: &Arc<str>,
        result: Result<(), String>,
    ) {
        let Some(key) = self.agent_keys.get(id).copied() else {
            self.absent_unreachable(t, id, &result);
            return;
        };
        let connected = self.agents.get(key).is_some_and(|agent| agent.conn.is_some());
        if let Some(agent) = self.agents.get_mut(key) {
            agent.leaving = false;
        }
        match result {
            // It came back while its loss was stored: the record is set right, and nobody was told anything.
            Ok(()) if connected => self.readmit(t, key),
            Ok(()) => {
                t.warn(format!("agent {id} is unreachable"));
                self.metrics.count("master/slave_removals/reason_unhealthy");
                self.remove_agent(t, key, Removal::Unreachable);
            }
            Err(reason) => {
                t.warn(format!(
                    "agent {id} is away, and the store could not take that down ({reason}); trying again"
                ));
                let at = t.now.mono + self.settings.ping;
                if let Some(agent) = self.agents.get_mut(key) {
                    agent.away_at = Some(at);
                }
                self.timers.set(at, Timer::Away(key));
            }
        }
    }

    fn readmit(&mut self, t: &mut Turn<'_>, key: AgentKey) {
        let Some(agent) = self.agents.get(key) else { return };
        let (state, life) = (AgentState::Admitted, self.intended(&agent.id));
        let record = record(&agent.info, &agent.identity, state, life, t.now.wall, &agent.identity.key);
        let op = registry::put_agent(&agent.id, &record);
        self.commit(t, vec![op], Pending::Tidy);
    }

    /// What was known before the start and has not come back in time is unreachable.
    pub(super) fn recovery_due(&mut self, t: &mut Turn<'_>) {
        let late: Vec<(Arc<str>, AgentRecord)> = self
            .absent
            .iter()
            .filter(|(_, absent)| absent.why == Absence::Recovered)
            .map(|(id, absent)| {
                let (state, life) = (AgentState::Unreachable, self.intended(id));
                let record = record(&absent.info, &absent.identity, state, life, t.now.wall, "master");
                (Arc::clone(id), record)
            })
            .collect();
        for (id, record) in late {
            let op = registry::put_agent(&id, &record);
            self.commit(t, vec![op], Pending::Unreachable(id));
        }
    }

    fn absent_unreachable(&mut self, t: &mut Turn<'_>, id: &Arc<str>, result: &Result<(), String>) {
        let now = t.now;
        let Some(absent) =
            Arc::make_mut(&mut self.absent).get_mut(id).filter(|absent| absent.why == Absence::Recovered)
        else {
            return;
        };
        match result {
            Ok(()) => {
                absent.why = Absence::Unreachable(now.wall);
                self.recovering -= 1;
                t.warn(format!("agent {id} has not come back since the master started and is unreachable"));
                self.announce_loss(t, id);
                self.publish_agent_removed(t, id);
                self.touch();
            }
            // The timer of all of them is set again.
            Err(_) => self.timers.set(now.mono + self.settings.ping, Timer::Recovered),
        }
    }

    /// MARK_AGENT_GONE: stored first, then carried out.
    pub(super) fn mark_gone(&mut self, t: &mut Turn<'_>, reply: ReplyId, id: &str, principal: &str) {
        let known = self
            .agent_by_id(id)
            .map(|(_, agent)| (Arc::clone(&agent.id), Arc::clone(&agent.info), Arc::clone(&agent.identity)))
            .or_else(|| {
                self.absent
                    .get_key_value(id)
                    .map(|(id, a)| (Arc::clone(id), Arc::clone(&a.info), Arc::clone(&a.identity)))
            });
        let Some((id, info, identity)) = known else {
            t.reply(
                reply,
                Answer::Refused(404, format!("agent '{id}' is not known: list the agents with GET_AGENTS")),
            );
            return;
        };
        self.give_up(t, Some(reply), id, (&info, &identity), principal);
    }

    /// Stores that an agent is gone.
    pub(super) fn give_up(
        &mut self,
        t: &mut Turn<'_>,
        reply: Option<ReplyId>,
        id: Arc<str>,
        (info, identity): (&mesos::AgentInfo, &AgentIdentity),
        principal: &str,
    ) {
        let record = record(info, identity, AgentState::Gone, Life::default(), t.now.wall, principal);
        let ops = vec![registry::put_agent(&id, &record)];
        self.dooming.insert(Arc::clone(&id));
        self.commit(t, ops, Pending::Gone(reply, id));
    }

    pub(super) fn gone_committed(
        &mut self,
        t: &mut Turn<'_>,
        reply: Option<ReplyId>,
        id: &Arc<str>,
        result: Result<(), String>,
    ) {
        self.dooming.remove(id);
        if let Err(reason) = result {
            match reply {
                Some(reply) => {
                    t.reply(
                        reply,
                        Answer::Refused(503, format!("it could not be stored ({reason}): try again")),
                    );
                }
                None => self.drain_again(t, id),
            }
            return;
        }
        self.lives.remove(id);
        self.free_slice(t, id);
        if let Some(key) = self.agent_keys.get(id).copied() {
            self.metrics.count("master/slave_removals");
            let conn = self.agents.get(key).and_then(|agent| agent.conn);
            self.tell(
                t,
                key,
                Kind::ShutdownAgent(internal::ShutdownAgent {
                    message: Some("this agent was marked gone".into()),
                }),
            );
            self.remove_agent(t, key, Removal::Gone);
            if let Some(conn) = conn {
                self.goodbye(t, conn, Code::Gone, "this agent was marked gone".into());
            }
        } else if let Some(absent) = Arc::make_mut(&mut self.absent).get_mut(id) {
            if absent.why == Absence::Recovered {
                self.recovering -= 1;
            }
            absent.why = Absence::Gone(t.now.wall);
            absent.life = Life::default();
            self.touch();
        }
        self.unreachable_to_gone(t, id);
        if let Some(reply) = reply {
            t.reply(reply, Answer::Done);
        }
    }

    /// An agent leaves for good; its tasks have ended.
    pub(super) fn agent_leaves(&mut self, t: &mut Turn<'_>, conn: ConnId, key: AgentKey, message: String) {
        self.metrics.count("master/messages_unregister_slave");
        let Some(id) = self.agents.get(key).map(|agent| Arc::clone(&agent.id)) else { return };
        t.log(format!("agent {id} leaves: {message}"));
        self.remove_agent(t, key, Removal::Left);
        self.lives.remove(&id);
        self.free_slice(t, &id);
        let op = registry::delete("agent", &id);
        self.commit(t, vec![op], Pending::Tidy);
        self.goodbye(t, conn, Code::Closing, "the agent is unregistered".into());
    }

    /// The slice of an agent that is gone for good is free.
    fn free_slice(&mut self, t: &mut Turn<'_>, id: &str) {
        if let Some(op) = self.overlay.release(id) {
            self.commit(t, vec![op], Pending::Tidy);
            self.overlay_soon(t);
        }
    }

    /// Ends an agent's record: offers, tasks, executors, resources.
    fn remove_agent(&mut self, t: &mut Turn<'_>, key: AgentKey, why: Removal) {
        self.rescind_agent(t, key);
        let Some(agent) = self.agents.get(key).cloned() else { return };
        for task in &agent.tasks {
            self.remove_task_of_agent(t, *task, why);
        }
        let lost = match why {
            Removal::Unreachable => OperationState::OperationUnreachable,
            Removal::Gone | Removal::Left => OperationState::OperationGoneByOperator,
        };
        self.lose_operations(t, &agent, lost);
        self.ledger.remove_agent(&agent.id);
        self.agents.remove(key);
        self.agent_keys.remove(&agent.id);
        for (framework, _) in agent.executors.keys() {
            self.touch_framework(*framework);
        }
        let absence = match why {
            Removal::Unreachable => Some(Absence::Unreachable(t.now.wall)),
            Removal::Gone => Some(Absence::Gone(t.now.wall)),
            Removal::Left => None,
        };
        if let Some(why) = absence {
            let why_gone = matches!(why, Absence::Gone(_));
            self.prune_absent(t);
            let (info, identity) = (Arc::clone(&agent.info), Arc::clone(&agent.identity));
            let absent =
                Absent { why, info, identity, life: if why_gone { Life::default() } else { agent.life } };
            Arc::make_mut(&mut self.absent).insert(Arc::clone(&agent.id), absent);
        }
        self.announce_loss(t, &agent.id);
        self.publish_agent_removed(t, &agent.id);
        self.allocate_soon(t);
        self.touch();
    }

    fn remove_task_of_agent(&mut self, t: &mut Turn<'_>, key: u32, why: Removal) {
        let Some(task) = self.tasks.get(key).cloned() else { return };
        let framework = task.framework;
        let aware = self.frameworks.get(&framework).is_some_and(|f| f.abilities.partition_aware);
        if !self.frameworks.contains_key(&framework) || is_terminal(task.state) {
            self.forget_task(key);
            return;
        }
        let (state, reason, message) = match (why, aware) {
            (Removal::Unreachable, true) => {
                (TaskState::TaskUnreachable, Reason::AgentRemoved, "the agent is unreachable")
            }
            (Removal::Unreachable, false) => {
                (TaskState::TaskLost, Reason::AgentRemoved, "the agent is unreachable")
            }
            (Removal::Gone, true) => {
                (TaskState::TaskGoneByOperator, Reason::AgentRemovedByOperator, "the agent was marked gone")
            }
            (Removal::Gone, false) => {
                (TaskState::TaskLost, Reason::AgentRemovedByOperator, "the agent was marked gone")
            }
            (Removal::Left, true) => {
                (TaskState::TaskGone, Reason::AgentRemoved, "the agent left the cluster")
            }
            (Removal::Left, false) => {
                (TaskState::TaskLost, Reason::AgentRemoved, "the agent left the cluster")
            }
        };
        let mut status = self.master_status(t.now, &task, state, reason, message);
        if state == TaskState::TaskUnreachable {
            status.unreachable_time = Some(mesos::TimeInfo { nanoseconds: t.now.wall.as_nanos() });
        }
        let mut ended = Task::clone(&task);
        ended.state = state;
        ended.held = false;
        ended.push_status(&status);
        self.publish_task_updated(t, &ended, &status);
        self.forget_task(key);
        let keep = self.settings.completed_tasks;
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            if state == TaskState::TaskUnreachable {
                framework.unreachable.insert(Arc::clone(&ended.id), Arc::new(ended));
                while framework.unreachable.len() > keep.max(1) * 10 {
                    framework.unreachable.pop_first();
                }
            } else {
                framework.complete(Arc::new(ended), keep);
            }
        }
        self.touch_framework(framework);
        self.send_update(t, framework, status);
    }

    /// Tasks that might have come back with an agent will not.
    fn unreachable_to_gone(&mut self, t: &mut Turn<'_>, agent: &Arc<str>) {
        let keep = self.settings.completed_tasks;
        let keys: Vec<u32> = self.frameworks.keys().copied().collect();
        for key in keys {
            let Some(framework) = self.frameworks.get_mut(&key) else { continue };
            let ids: Vec<Arc<str>> = framework
                .unreachable
                .values()
                .filter(|task| task.agent_id == *agent)
                .map(|task| Arc::clone(&task.id))
                .collect();
            for id in ids {
                let Some(task) = self.frameworks.get_mut(&key).and_then(|f| f.unreachable.remove(&id)) else {
                    continue;
                };
                let state = TaskState::TaskGoneByOperator;
                let status = self.master_status(
                    t.now,
                    &task,
                    state,
                    Reason::AgentRemovedByOperator,
                    "the agent was marked gone",
                );
                let mut ended = Task::clone(&task);
                ended.state = state;
                ended.push_status(&status);
                self.publish_task_updated(t, &ended, &status);
                if let Some(framework) = self.frameworks.get_mut(&key) {
                    framework.complete(Arc::new(ended), keep);
                }
                self.touch_framework(key);
                self.send_update(t, key, status);
            }
        }
    }

    /// FAILURE tells every framework that an agent is lost; best effort.
    fn announce_loss(&self, t: &mut Turn<'_>, id: &str) {
        for key in self.frameworks.keys() {
            let mut failure = event(scheduler::event::Type::Failure);
            failure.failure = Some(scheduler::event::Failure {
                agent_id: Some(agent_id(id)),
                executor_id: None,
                status: None,
            });
            self.send(t, *key, failure);
        }
    }

    /// Forgets the agent that has been lost or gone longest when there are too many.
    fn prune_absent(&mut self, t: &mut Turn<'_>) {
        if self.absent.len() < self.settings.absent_agents.max(1) {
            return;
        }
        let since = |why: Absence| match why {
            Absence::Recovered => None,
            Absence::Unreachable(at) | Absence::Gone(at) => Some(at),
        };
        let oldest = self.absent.iter().filter_map(|(id, a)| Some((since(a.why)?, Arc::clone(id)))).min();
        if let Some((_, id)) = oldest {
            Arc::make_mut(&mut self.absent).remove(&id);
            self.lives.remove(&id);
            self.free_slice(t, &id);
            let op = registry::delete("agent", &id);
            self.commit(t, vec![op], Pending::Tidy);
        }
    }
}

pub(super) fn record(
    info: &mesos::AgentInfo,
    identity: &AgentIdentity,
    state: AgentState,
    life: Life,
    since: Millis,
    principal: &str,
) -> AgentRecord {
    AgentRecord {
        info: info.clone(),
        identity: identity.key.to_string(),
        node_name: identity.node.to_string(),
        state,
        since,
        principal: principal.to_owned(),
        life,
    }
}

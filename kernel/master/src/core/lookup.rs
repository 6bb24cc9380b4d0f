//! Finding records by id, stream or connection, and sending to whom they belong.

use std::sync::Arc;

use plenum_api::internal::{self, master_message::Kind};
use plenum_api::{mesos, scheduler};

use super::event::{ConnId, Effect, StreamId};
use super::state::{Agent, AgentKey, FrameworkKey, Task, TaskKey};
use super::{Master, Turn};

impl Master {
    /// The agent with this id, when it is registered.
    pub(super) fn agent_by_id(&self, id: &str) -> Option<(AgentKey, &Arc<Agent>)> {
        let key = *self.agent_keys.get(id)?;
        Some((key, self.agents.get(key)?))
    }

    /// The framework's number.
    pub(super) fn framework_key(&self, id: &str) -> Option<FrameworkKey> {
        self.framework_keys.get(id).copied()
    }

    /// A live task of a framework.
    pub(super) fn task_of(&self, framework: FrameworkKey, task: &str) -> Option<(TaskKey, &Arc<Task>)> {
        let key = *self.frameworks.get(&framework)?.tasks.get(task)?;
        Some((key, self.tasks.get(key)?))
    }

    /// The framework's stream.
    pub(super) fn stream_of(&self, framework: FrameworkKey) -> Option<StreamId> {
        Some(self.frameworks.get(&framework)?.stream.as_ref()?.id)
    }

    /// Sends an event to a framework if it is connected. Returns whether it is.
    pub(super) fn send(&self, t: &mut Turn<'_>, framework: FrameworkKey, event: scheduler::Event) -> bool {
        match self.stream_of(framework) {
            Some(stream) => {
                send_on(t, stream, event);
                true
            }
            None => false,
        }
    }

    /// Sends a message to an agent if it is connected. Returns whether it is.
    pub(super) fn tell(&self, t: &mut Turn<'_>, agent: AgentKey, kind: Kind) -> bool {
        match self.agents.get(agent).and_then(|agent| agent.conn) {
            Some(conn) => {
                tell_on(t, conn, kind);
                true
            }
            None => false,
        }
    }
}

/// Sends an event on a stream.
pub(super) fn send_on(t: &mut Turn<'_>, stream: StreamId, event: scheduler::Event) {
    t.out.push(Effect::ToFramework { stream, event: Box::new(event) });
}

/// Sends a message on an agent's connection.
pub(super) fn tell_on(t: &mut Turn<'_>, conn: ConnId, kind: Kind) {
    t.out.push(Effect::ToAgent { conn, message: Box::new(internal::MasterMessage { kind: Some(kind) }) });
}

/// An event of one type, to be filled in.
pub(super) fn event(kind: scheduler::event::Type) -> scheduler::Event {
    scheduler::Event { r#type: Some(kind as i32), ..Default::default() }
}

/// An id message.
pub(super) fn agent_id(id: &str) -> mesos::AgentId {
    mesos::AgentId { value: id.to_owned() }
}

/// An id message.
pub(super) fn framework_id(id: &str) -> mesos::FrameworkId {
    mesos::FrameworkId { value: id.to_owned() }
}

/// An id message.
pub(super) fn task_id(id: &str) -> mesos::TaskId {
    mesos::TaskId { value: id.to_owned() }
}

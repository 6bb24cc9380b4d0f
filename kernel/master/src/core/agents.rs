//! Agents' connections: who is at which one, and which concern each message belongs to.
//!
//! Owns `connections`. Registration is in `rejoin`, absence in `away`, updates in `status`.

use plenum_api::Millis;
use plenum_api::internal::{
    self, AgentMessage, agent_message::Kind as FromAgent, goodbye::Code, master_message::Kind,
};

use super::event::{ConnId, Effect, Peer};
use super::lookup::tell_on;
use super::state::AgentKey;
use super::{Master, Turn};

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub peer: Peer,
    pub stage: Stage,
    /// When the agent was last heard.
    pub heard: Millis,
    /// When something was last sent to it.
    pub said: Millis,
    /// Pings sent since it was last heard.
    pub missed: u32,
    /// When it is looked at next.
    pub look_at: Millis,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing but the hello was said.
    New,
    /// Its registration waits for the store.
    Admitting,
    /// It speaks for this agent.
    Registered(AgentKey),
}

impl Master {
    pub(super) fn agent_connected(&mut self, t: &Turn<'_>, conn: ConnId, peer: Peer) {
        let now = t.now.mono;
        let new = Connection { peer, stage: Stage::New, heard: now, said: now, missed: 0, look_at: now };
        self.connections.insert(conn, new);
    }

    pub(super) fn agent_message(&mut self, t: &mut Turn<'_>, conn: ConnId, message: AgentMessage) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.heard = t.now.mono;
        connection.missed = 0;
        let stage = connection.stage;
        let Some(kind) = message.kind else { return };
        match (kind, stage) {
            // The shell has agreed on a version; a hello here is a repetition without meaning.
            (FromAgent::Hello(_), _) => {}
            (FromAgent::Goodbye(goodbye), _) => {
                t.log(format!("an agent said goodbye: {}", goodbye.message.unwrap_or_default()));
                self.hang_up(t, conn);
            }
            (FromAgent::Register(register), Stage::New) => self.agent_registers(t, conn, register),
            (kind, Stage::Registered(agent)) => self.registered_message(t, conn, agent, kind),
            (_, Stage::New | Stage::Admitting) => {
                self.goodbye(t, conn, Code::Protocol, "register first, once for each connection".into());
            }
        }
    }

    fn registered_message(&mut self, t: &mut Turn<'_>, conn: ConnId, agent: AgentKey, kind: FromAgent) {
        match kind {
            FromAgent::StatusUpdate(update) => self.status_update(t, agent, update),
            FromAgent::ExecutorMessage(message) => self.executor_message(t, agent, message),
            FromAgent::ExecutorExited(exited) => self.executor_exited(t, agent, &exited),
            FromAgent::OperationUpdate(update) => self.operation_update(t, agent, update),
            FromAgent::ResourcesChanged(changed) => self.resources_changed(t, agent, changed.total),
            FromAgent::Unregister(leave) => {
                self.agent_leaves(t, conn, agent, leave.message.unwrap_or_default())
            }
            FromAgent::Register(_) => {
                self.goodbye(t, conn, Code::Protocol, "register once for each connection".into())
            }
            FromAgent::Pong(_) | FromAgent::Hello(_) | FromAgent::Goodbye(_) => {}
        }
    }

    /// Says why and closes the connection.
    pub(super) fn goodbye(&mut self, t: &mut Turn<'_>, conn: ConnId, code: Code, message: String) {
        t.warn(format!("agent connection {conn} closed: {message}"));
        tell_on(t, conn, Kind::Goodbye(internal::Goodbye { code: code as i32, message: Some(message) }));
        self.hang_up(t, conn);
    }

    /// Closes a connection; whoever spoke on it is disconnected at once.
    pub(super) fn hang_up(&mut self, t: &mut Turn<'_>, conn: ConnId) {
        t.out.push(Effect::CloseAgent { conn });
        self.agent_disconnected(t, conn);
    }
}

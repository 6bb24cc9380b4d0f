//! What comes into the core and what leaves it: [`Event`] and [`Effect`].
//!
//! Only plain data; nothing here decides anything.

use std::fmt;
use std::sync::Arc;

use plenum_api::{internal, master, scheduler};
use plenum_store::Op;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A connection at the agents' door; the shell never uses a number twice.
    ConnId
}
number! {
    /// The event stream of one subscribed framework; the shell never uses a number twice.
    StreamId
}
number! {
    /// One HTTP call that waits for its answer.
    ReplyId
}
number! {
    /// One change of the store that somebody waits for.
    Token
}

/// Who makes a call, as the shell has authenticated them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The principal's name; written into every record.
    pub uid: Arc<str>,
    /// Whether this is an account that can be held to its name. False for nobody in particular (with an empty name) and for components of the
    /// cluster, which act in the names of others.
    pub authenticated: bool,
}

/// Who an agent is, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Fingerprint of its key. An `agent_id` belongs to one of them.
    pub key: Box<str>,
    /// The name of its node, for people; empty where it is not known. Certificates of one key may bear different names over time.
    pub node: Box<str>,
}

/// Who is at the other end of an agent's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What its certificate says.
    pub identity: Arc<AgentIdentity>,
    /// Address of the peer (`ip:port`), shown to people.
    pub address: Arc<str>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// An agent's connection is open and both sides have said hello.
    AgentConnected {
        /// The connection.
        conn: ConnId,
        /// Who it is.
        peer: Peer,
    },
    /// One message of an agent.
    AgentMessage {
        /// The connection it came on.
        conn: ConnId,
        /// The message.
        message: Box<internal::AgentMessage>,
    },
    /// A connection is closed, by whichever side.
    AgentDisconnected {
        /// The connection.
        conn: ConnId,
    },
    /// A framework subscribes and will be answered on `stream`.
    Subscribe {
        /// Where its events go.
        stream: StreamId,
        /// What the `Mesos-Stream-Id` header of its other calls must say.
        stream_id: Arc<str>,
        /// The call, of type SUBSCRIBE.
        call: Box<scheduler::Call>,
        /// Who subscribes.
        caller: Caller,
    },
    /// Any other call of a framework.
    Call {
        /// Who waits for the answer.
        reply: ReplyId,
        /// The `Mesos-Stream-Id` header.
        stream_id: Option<Arc<str>>,
        /// The call.
        call: Box<scheduler::Call>,
        /// Who calls.
        caller: Caller,
    },
    /// A framework's stream is gone: closed by the client, or too slow.
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// A call of the operator API that changes something.
    Operator {
        /// Who waits for the answer.
        reply: ReplyId,
        /// The call.
        call: Box<master::Call>,
        /// Who calls.
        caller: Caller,
    },
    /// A change of the store is durable, or was refused.
    Committed {
        /// Which.
        token: Token,
        /// Nothing, or a sentence that says why not.
        result: Result<(), String>,
    },
    /// Time has passed: the moment asked for by `next_tick` is here.
    Tick,
}

/// Something to be done.
#[derive(Debug)]
pub enum Effect {
    /// Sends a message to an agent.
    ToAgent {
        /// Its connection.
        conn: ConnId,
        /// The message.
        message: Box<internal::MasterMessage>,
    },
    /// Closes an agent's connection once what was sent before is out.
    CloseAgent {
        /// The connection.
        conn: ConnId,
    },
    /// Sends an event to a framework.
    ToFramework {
        /// Its stream.
        stream: StreamId,
        /// The event.
        event: Box<scheduler::Event>,
    },
    /// Closes a framework's stream once what was sent before is out. No `StreamClosed` is needed for it.
    CloseStream {
        /// The stream.
        stream: StreamId,
    },
    /// Makes a change durable under the leadership, then answers with `Event::Committed`.
    Commit {
        /// Names the change in the answer.
        token: Token,
        /// The change.
        ops: Vec<Op>,
    },
    /// Tells the subscribed operators.
    Publish(Box<master::Event>),
    /// Answers a call.
    Reply {
        /// Which call.
        reply: ReplyId,
        /// The answer.
        answer: Answer,
    },
    /// A line for the log.
    Log {
        /// Whether an operator should look at it.
        warn: bool,
        /// The line.
        message: String,
    },
}

/// The answer of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 202 without body.
    Accepted,
    /// 200 without body.
    Done,
    /// 200 with a body for schedulers.
    Scheduler(Box<scheduler::Response>),
    /// 200 with a body for operators.
    Operator(Box<master::Response>),
    /// Refused: an HTTP status and a sentence.
    Refused(u16, String),
}

impl Answer {
    /// A call that makes no sense: 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::Refused(400, message.into())
    }
}

//! The master's host: its store, its doors, its lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::internal::{AgentMessage, Hello, MasterFrame, MasterMessage, agent_message, master_message};
use plenum_api::mesos::MasterInfo;
use plenum_api::scheduler;
use plenum_api::scheduler::event::Type;
use plenum_master::core::{
    Caller, ConnId, Effect, Event, Master, Peer, Records, ReplyId, Settings, StreamId, Token,
};
use plenum_store::{Entry, Op, Revision};

use crate::check::Violation;
use crate::world::{Bug, Happens, World};

/// The cluster that everybody belongs to.
const CLUSTER: &str = "9d2f2f0e-0c5c-4e59-9f5e-000000000001";

/// The machine on which the master runs.
#[derive(Default)]
pub struct MasterHost {
    core: Option<Master>,
    life: u64,
    term: u64,
    /// What is durable.
    store: BTreeMap<String, bytes::Bytes>,
    /// What is being written in this life, in order.
    writing: BTreeMap<u64, Vec<Op>>,
    /// Connections by number: the agent at the other end, and whether hello was said.
    conns: BTreeMap<u64, (usize, bool)>,
    last_conn: u64,
    /// Streams by number: the framework at the other end.
    streams: BTreeMap<u64, usize>,
    last_stream: u64,
    reply: u64,
    ticks: BTreeSet<u64>,
    /// When the last message to each end of a connection arrives: order is kept.
    arrives: BTreeMap<(u64, bool), u64>,
}

impl MasterHost {
    fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value, .. } => drop(self.store.insert(key, value)),
                Op::Delete { key } => drop(self.store.remove(&key)),
            }
        }
    }

    fn records(&self) -> Result<Records, Violation> {
        let mut records = Records::default();
        for (key, value) in &self.store {
            let revision = Revision(1);
            let (key, value) = (key.clone(), value.clone());
            let entry = Entry { key, value, create_revision: revision, mod_revision: revision, lease: None };
            records.take(&entry).map_err(|error| format!("the store cannot be read: {error}"))?;
        }
        Ok(records)
    }

    /// Whether a framework is removed.
    pub fn removed(&self, framework: &str) -> bool {
        self.knows("removed", framework) || !self.knows("framework", framework)
    }

    /// Whether anybody is known durably under `kind/id`.
    fn knows(&self, kind: &str, id: &str) -> bool {
        self.store.contains_key(&format!("{kind}/{id}"))
    }
}

impl World {
    pub(crate) fn master_starts(&mut self) -> Result<(), Violation> {
        self.master.life += 1;
        self.master.term += 1;
        let settings = Settings {
            master_info: MasterInfo { port: 5050, ..Default::default() },
            deliberate_double_offer: self.bug == Some(Bug::DoubleOffer),
            ..Settings::default()
        };
        let (records, now, term) = (self.master.records()?, self.now(), self.master.term);
        self.master.core = Some(Master::recover(settings, records, term, now, &mut self.random));
        self.seen.new_master();
        self.master_feed(Event::Tick)
    }

    /// The process dies: of what it was writing some is durable, in order, and nothing is said to anybody.
    pub(crate) fn kill_master(&mut self) {
        if self.master.core.take().is_none() {
            return;
        }
        self.totals.crashes += 1;
        self.tell(|| "the master dies".to_owned());
        let writing = std::mem::take(&mut self.master.writing);
        let survive = self.random.between(0, writing.len() as u64 + 1) as usize;
        for (_, ops) in writing.into_iter().take(survive) {
            self.master.apply(ops);
        }
        self.master.ticks.clear();
        self.seen.new_master();
        for (conn, (agent, _)) in std::mem::take(&mut self.master.conns) {
            self.soon(Happens::CutAtAgent { agent, conn });
        }
        for (stream, framework) in std::mem::take(&mut self.master.streams) {
            self.soon(Happens::StreamEnds { framework, stream });
        }
        let away = self.random.between(100, 20_000);
        self.later(away, Happens::MasterStarts);
    }

    /// An agent's dialling arrives. Gives the connection's number.
    pub(crate) fn accept(&mut self, agent: usize) -> Option<u64> {
        self.master.core.as_ref()?;
        self.master.last_conn += 1;
        let conn = self.master.last_conn;
        self.master.conns.insert(conn, (agent, false));
        Some(conn)
    }

    pub(crate) fn at_master(&mut self, conn: u64, message: AgentMessage) -> Result<(), Violation> {
        let Some((agent, greeted)) = self.master.conns.get(&conn).copied() else { return Ok(()) };
        let id = ConnId(conn);
        if let Some(agent_message::Kind::Goodbye(_)) = message.kind {
            return self.cut_at_master(conn);
        }
        if !greeted {
            // As the door does: hello is answered, then the core learns of the connection.
            if !matches!(message.kind, Some(agent_message::Kind::Hello(_))) {
                return Err(format!("agent {agent} did not begin with hello"));
            }
            self.master.conns.insert(conn, (agent, true));
            let hello = Hello {
                version_min: 1,
                version_max: 1,
                features: Vec::new(),
                cluster_id: Some(CLUSTER.to_owned()),
                program_version: None,
            };
            self.order(conn, MasterMessage { kind: Some(master_message::Kind::Hello(hello)) });
            let identity: Arc<str> = Arc::from(format!("key of agent {agent}"));
            let peer = Peer { identity, address: Arc::from(format!("10.0.0.{agent}:40000")) };
            return self.master_feed(Event::AgentConnected { conn: id, peer });
        }
        self.master_feed(Event::AgentMessage { conn: id, message: Box::new(message) })
    }

    pub(crate) fn cut_at_master(&mut self, conn: u64) -> Result<(), Violation> {
        let Some((agent, greeted)) = self.master.conns.remove(&conn) else { return Ok(()) };
        self.soon(Happens::CutAtAgent { agent, conn });
        if greeted { self.master_feed(Event::AgentDisconnected { conn: ConnId(conn) }) } else { Ok(()) }
    }

    pub(crate) fn stored(&mut self, life: u64, token: u64) -> Result<(), Violation> {
        if life != self.master.life || self.master.core.is_none() {
            return Ok(());
        }
        // Writes become durable in the order in which they were asked for.
        let done: Vec<u64> = self.master.writing.range(..=token).map(|(token, _)| *token).collect();
        for token in done {
            if let Some(ops) = self.master.writing.remove(&token) {
                self.master.apply(ops);
                self.master_feed(Event::Committed { token: Token(token), result: Ok(()) })?;
            }
        }
        Ok(())
    }

    pub(crate) fn master_tick(&mut self, life: u64) -> Result<(), Violation> {
        if life != self.master.life || self.master.core.is_none() {
            return Ok(());
        }
        self.master.ticks.remove(&self.time);
        self.master_feed(Event::Tick)
    }

    pub(crate) fn subscription_arrives(&mut self, framework: usize) -> Result<(), Violation> {
        let Some(call) = self.frameworks[framework].subscribe() else { return Ok(()) };
        if self.master.core.is_none() {
            self.later(1_000, Happens::Subscribes { framework });
            return Ok(());
        }
        self.master.last_stream += 1;
        let stream = self.master.last_stream;
        self.master.streams.insert(stream, framework);
        self.frameworks[framework].stream = Some(stream);
        let header: Arc<str> = Arc::from(format!("stream-{stream}"));
        let caller = caller(framework);
        self.master_feed(Event::Subscribe {
            stream: StreamId(stream),
            stream_id: header,
            call: Box::new(call),
            caller,
        })
    }

    pub(crate) fn call_arrives(
        &mut self,
        framework: usize,
        stream: u64,
        call: scheduler::Call,
    ) -> Result<(), Violation> {
        if self.master.core.is_none() {
            return Ok(());
        }
        // What a call ends is no longer on offer, whatever the master makes of it.
        for id in call.accept.iter().flat_map(|accept| &accept.offer_ids) {
            self.seen.offer_gone(&id.value);
        }
        for id in call.decline.iter().flat_map(|decline| &decline.offer_ids) {
            self.seen.offer_gone(&id.value);
        }
        self.master.reply += 1;
        let reply = ReplyId(self.master.reply);
        let stream_id = Some(Arc::from(format!("stream-{stream}")));
        self.master_feed(Event::Call { reply, stream_id, call: Box::new(call), caller: caller(framework) })
    }

    /// A framework's connection breaks; both ends learn it, each in its time.
    pub(crate) fn drop_stream(&mut self, framework: usize) {
        let Some(stream) = self.frameworks[framework].stream else { return };
        self.totals.cuts += 1;
        self.stream_ends(framework, stream);
        if self.master.streams.remove(&stream).is_some() {
            self.seen.stream_closed(stream);
            // The core is told at once; a later moment would only be one more delay.
            let _ = self.master_feed(Event::StreamClosed { stream: StreamId(stream) });
        }
    }

    fn master_feed(&mut self, event: Event) -> Result<(), Violation> {
        let now = self.now();
        let Some(core) = self.master.core.as_mut() else { return Ok(()) };
        let effects = core.handle(event, now, &mut self.random);
        let wake = core.next_tick();
        for effect in effects {
            self.master_effect(effect)?;
        }
        if let Some(Millis(at)) = wake {
            let at = at.max(self.time + 1);
            if self.master.ticks.insert(at) {
                let life = self.master.life;
                self.at(at, Happens::MasterTick { life });
            }
        }
        Ok(())
    }

    fn master_effect(&mut self, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::ToAgent { conn, message } => {
                self.registered_is_durable(&message)?;
                self.order(conn.0, *message);
            }
            Effect::CloseAgent { conn } => {
                if let Some((agent, _)) = self.master.conns.remove(&conn.0) {
                    let at = self.arrival(conn.0, false);
                    self.at(at, Happens::CutAtAgent { agent, conn: conn.0 });
                }
            }
            Effect::ToFramework { stream, event } => self.announce(stream.0, *event)?,
            Effect::CloseStream { stream } => {
                self.seen.stream_closed(stream.0);
                if let Some(framework) = self.master.streams.remove(&stream.0) {
                    let at = self.arrival(stream.0 | 1 << 63, true);
                    self.at(at + 1, Happens::StreamEnds { framework, stream: stream.0 });
                }
            }
            Effect::Commit { token, ops } => {
                self.master.writing.insert(token.0, ops);
                let life = self.master.life;
                self.soon(Happens::Stored { life, token: token.0 });
            }
            Effect::Log { message, .. } => self.tell(|| format!("master: {message}")),
            Effect::Publish(_) | Effect::Reply { .. } => {}
        }
        Ok(())
    }

    /// Acknowledged means durable: nobody is told that they are known before the store knows them.
    fn registered_is_durable(&self, message: &MasterMessage) -> Result<(), Violation> {
        let id = match &message.kind {
            Some(master_message::Kind::Registered(new)) => &new.agent_id,
            Some(master_message::Kind::Reregistered(again)) => &again.agent_id,
            _ => return Ok(()),
        };
        if self.master.knows("agent", &id.value) {
            Ok(())
        } else {
            Err(format!("agent {} was told that it is registered, and the store does not know it", id.value))
        }
    }

    fn order(&mut self, conn: u64, message: MasterMessage) {
        if !self.master.conns.contains_key(&conn) {
            return;
        }
        let doubled = matches!(
            message.kind,
            Some(master_message::Kind::RunTasks(_) | master_message::Kind::KillTask(_))
        ) && self.random.chance(20);
        for _ in 0..=u8::from(doubled) {
            let at = self.arrival(conn, false);
            let frame = Box::new(MasterFrame { term: self.master.term, messages: vec![message.clone()] });
            self.at(at, Happens::AtAgent { conn, frame });
        }
    }

    /// A time of arrival after that of all that was sent before.
    pub(crate) fn arrival(&mut self, line: u64, upwards: bool) -> u64 {
        let wished = self.time + self.random.delay();
        let last = self.master.arrives.entry((line, upwards)).or_insert(0);
        *last = wished.max(*last + 1);
        *last
    }

    fn announce(&mut self, stream: u64, event: scheduler::Event) -> Result<(), Violation> {
        let Some(framework) = self.master.streams.get(&stream).copied() else { return Ok(()) };
        match event.r#type() {
            Type::Subscribed => {
                let id = event.subscribed.as_ref().map(|subscribed| subscribed.framework_id.value.clone());
                if !id.as_ref().is_some_and(|id| self.master.knows("framework", id)) {
                    return Err(format!(
                        "framework {id:?} was told that it is subscribed, and the store does not know it"
                    ));
                }
            }
            Type::Offers => {
                for offer in event.offers.iter().flat_map(|offers| &offers.offers) {
                    self.check_offer(offer, stream)?;
                }
            }
            Type::Rescind => {
                if let Some(rescind) = &event.rescind {
                    self.seen.offer_gone(&rescind.offer_id.value);
                }
            }
            _ => {}
        }
        // Streams and connections have numbers of their own: the high bit keeps their lines apart.
        let at = self.arrival(stream | 1 << 63, true);
        self.at(at, Happens::AtFramework { framework, stream, event: Box::new(event) });
        Ok(())
    }
}

fn caller(framework: usize) -> Caller {
    Caller { uid: Arc::from(format!("framework-{framework}")), authenticated: true }
}

//! The masters' hosts: who leads, their doors, their lives. At most one leads by the store; one that was stopped may believe that it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::internal::{AgentMessage, Hello, MasterFrame, MasterMessage, agent_message, master_message};
use plenum_api::mesos::MasterInfo;
use plenum_api::scheduler;
use plenum_api::scheduler::event::Type;
use plenum_master::core::{
    AgentIdentity, Caller, ConnId, Effect, Event, Master, Peer, ReplyId, Settings, StreamId, Token,
};
use plenum_store::Op;

use crate::check::Violation;
use crate::store::LEASE;
use crate::world::{Bug, Happens, World};

/// The cluster that everybody belongs to.
const CLUSTER: &str = "9d2f2f0e-0c5c-4e59-9f5e-000000000001";

/// Between two renewals of the lease, and between two looks of a candidate.
const RENEWAL: u64 = 500;
const LOOK: u64 = 900;

/// A machine on which a master runs.
#[derive(Default)]
pub struct MasterHost {
    alive: bool,
    /// While it leads, as far as it knows.
    core: Option<Master>,
    life: u64,
    term: u64,
    /// Until when its lease cannot have run out, by its own clock.
    valid: u64,
    /// It is stopped until then.
    frozen: u64,
    /// What is being written in this life, in order.
    writing: BTreeMap<u64, Vec<Op>>,
    /// Connections by number: the agent at the other end, and whether hello was said.
    conns: BTreeMap<u64, (usize, bool)>,
    /// Streams by number: the framework at the other end.
    streams: BTreeMap<u64, usize>,
    ticks: BTreeSet<u64>,
}

impl MasterHost {
    /// What readers are shown, while it leads.
    pub fn state(&mut self) -> Option<Arc<plenum_master::core::State>> {
        self.core.as_mut().map(Master::state)
    }
}

impl World {
    /// When the master to which this happens goes on, if it is stopped.
    pub(crate) fn stopped_until(&self, what: &Happens) -> Option<u64> {
        let master = match what {
            Happens::AtMaster { conn, .. } | Happens::CutAtMaster { conn } => self.of_conn(*conn),
            Happens::Call { stream, .. } | Happens::StreamCut { stream } => self.of_stream(*stream),
            Happens::Stored { master, .. }
            | Happens::MasterTick { master, .. }
            | Happens::Lease { master, .. } => Some(*master),
            _ => None,
        }?;
        Some(self.masters[master].frozen).filter(|until| *until > self.time)
    }

    fn of_conn(&self, conn: u64) -> Option<usize> {
        self.masters.iter().position(|host| host.conns.contains_key(&conn))
    }

    fn of_stream(&self, stream: u64) -> Option<usize> {
        self.masters.iter().position(|host| host.streams.contains_key(&stream))
    }

    /// A master that answers calls.
    pub(crate) fn leading(&mut self) -> Option<usize> {
        let answers = |host: &MasterHost| host.core.is_some() && host.frozen <= self.time;
        let leading: Vec<usize> = (0..self.masters.len()).filter(|at| answers(&self.masters[*at])).collect();
        let pick = self.random.between(0, leading.len().max(1) as u64) as usize;
        leading.get(pick).copied()
    }

    /// A process starts, and is a candidate.
    pub(crate) fn master_starts(&mut self, master: usize) -> Result<(), Violation> {
        let host = &mut self.masters[master];
        host.alive = true;
        host.life += 1;
        let life = host.life;
        self.lease_due(master, life)
    }

    /// A leader renews its lease, a candidate looks whether it can lead.
    pub(crate) fn lease_due(&mut self, master: usize, life: u64) -> Result<(), Violation> {
        let (host, now) = (&mut self.masters[master], self.time);
        if !host.alive || host.life != life {
            return Ok(());
        }
        if host.core.is_some() {
            self.later(RENEWAL, Happens::Lease { master, life });
            if self.store.renew(master, self.masters[master].term, now) {
                self.masters[master].valid = now + LEASE - LEASE / 20;
            } else if self.bug != Some(Bug::OldTerm) {
                self.end_master(master, "is deposed");
            }
            return Ok(());
        }
        self.later(LOOK, Happens::Lease { master, life });
        match self.store.campaign(master, now) {
            Some(term) => self.leads(master, term),
            None => Ok(()),
        }
    }

    fn leads(&mut self, master: usize, term: u64) -> Result<(), Violation> {
        let settings = Settings {
            master_info: MasterInfo { port: 5050, ..Default::default() },
            deliberate_double_offer: self.bug == Some(Bug::DoubleOffer),
            deliberate_drained_offer: self.bug == Some(Bug::DrainedOffer),
            ..Settings::default()
        };
        let (records, now) = (self.store.records()?, self.now());
        let core = Master::recover(settings, records, term, now, &mut self.random);
        let host = &mut self.masters[master];
        host.term = term;
        host.valid = now.mono.0 + LEASE - LEASE / 20;
        host.core = Some(core);
        self.totals.leaders += 1;
        self.tell(|| format!("master {master} leads in term {term}"));
        self.seen.new_master();
        self.master_feed(master, Event::Tick)
    }

    /// A process is stopped for a while: it notices nothing of that.
    pub(crate) fn freeze_master(&mut self, master: usize) {
        let until = self.time + self.random.between(500, 40_000);
        let host = &mut self.masters[master];
        if host.alive {
            host.frozen = host.frozen.max(until);
            self.totals.stops += 1;
            self.tell(|| format!("master {master} is stopped until {:.3} s", until as f64 / 1000.0));
        }
    }

    /// The process dies: of what it was writing some is durable, in order, and nothing is said to anybody.
    pub(crate) fn kill_master(&mut self, master: usize) {
        if self.masters[master].alive {
            self.totals.crashes += 1;
            self.end_master(master, "dies");
        }
    }

    fn end_master(&mut self, master: usize, how: &str) {
        self.tell(|| format!("master {master} {how}"));
        let term = self.masters[master].term;
        let led = self.store.holds(master, term, self.time);
        let host = &mut self.masters[master];
        host.alive = false;
        host.core = None;
        host.frozen = 0;
        host.ticks.clear();
        let writing = std::mem::take(&mut host.writing);
        let survive = self.random.between(0, writing.len() as u64 + 1) as usize;
        if led {
            for (_, ops) in writing.into_iter().take(survive) {
                self.store.apply(ops);
            }
            self.seen.new_master();
        }
        for (conn, (agent, _)) in std::mem::take(&mut self.masters[master].conns) {
            self.soon(Happens::CutAtAgent { agent, conn });
        }
        for (stream, framework) in std::mem::take(&mut self.masters[master].streams) {
            self.seen.stream_closed(stream);
            self.soon(Happens::StreamEnds { framework, stream });
        }
        let away = self.random.between(100, 20_000);
        self.later(away, Happens::MasterStarts { master });
    }

    /// An agent's dialling arrives. Gives the connection's number.
    pub(crate) fn accept(&mut self, agent: usize) -> Option<u64> {
        let master = self.leading()?;
        self.last_conn += 1;
        self.masters[master].conns.insert(self.last_conn, (agent, false));
        Some(self.last_conn)
    }

    pub(crate) fn at_master(&mut self, conn: u64, message: AgentMessage) -> Result<(), Violation> {
        let Some(master) = self.of_conn(conn) else { return Ok(()) };
        let Some((agent, greeted)) = self.masters[master].conns.get(&conn).copied() else { return Ok(()) };
        if self.is_deposed(master) {
            return Ok(());
        }
        let id = ConnId(conn);
        if let Some(agent_message::Kind::Goodbye(_)) = message.kind {
            return self.cut_at_master(conn);
        }
        if !greeted {
            // As the door does: hello is answered, then the core learns of the connection.
            if !matches!(message.kind, Some(agent_message::Kind::Hello(_))) {
                return Err(format!("agent {agent} did not begin with hello"));
            }
            self.masters[master].conns.insert(conn, (agent, true));
            let hello = Hello {
                version_min: 1,
                version_max: 1,
                features: Vec::new(),
                cluster_id: Some(CLUSTER.to_owned()),
                program_version: None,
            };
            self.order(master, conn, MasterMessage { kind: Some(master_message::Kind::Hello(hello)) });
            let key = format!("key of agent {agent}").into();
            let identity = Arc::new(AgentIdentity { key, node: format!("n{agent}").into() });
            let peer = Peer { identity, address: Arc::from(format!("10.0.0.{agent}:40000")) };
            return self.master_feed(master, Event::AgentConnected { conn: id, peer });
        }
        self.master_feed(master, Event::AgentMessage { conn: id, message: Box::new(message) })
    }

    pub(crate) fn cut_at_master(&mut self, conn: u64) -> Result<(), Violation> {
        let Some(master) = self.of_conn(conn) else { return Ok(()) };
        let Some((agent, greeted)) = self.masters[master].conns.remove(&conn) else { return Ok(()) };
        self.soon(Happens::CutAtAgent { agent, conn });
        if greeted {
            self.master_feed(master, Event::AgentDisconnected { conn: ConnId(conn) })
        } else {
            Ok(())
        }
    }

    pub(crate) fn stored(&mut self, master: usize, life: u64, token: u64) -> Result<(), Violation> {
        let host = &self.masters[master];
        if life != host.life || host.core.is_none() {
            return Ok(());
        }
        if !self.store.holds(master, host.term, self.time) {
            self.end_master(master, "hears from the store that it is deposed");
            return Ok(());
        }
        // Writes become durable in the order in which they were asked for.
        let writing = &self.masters[master].writing;
        let done: Vec<u64> = writing.range(..=token).map(|(token, _)| *token).collect();
        for token in done {
            if let Some(ops) = self.masters[master].writing.remove(&token) {
                self.store.apply(ops);
                self.drained_is_empty()?;
                self.master_feed(master, Event::Committed { token: Token(token), result: Ok(()) })?;
            }
        }
        Ok(())
    }

    pub(crate) fn master_tick(&mut self, master: usize, life: u64, at: u64) -> Result<(), Violation> {
        let host = &mut self.masters[master];
        if life != host.life || host.core.is_none() {
            return Ok(());
        }
        host.ticks.remove(&at);
        self.master_feed(master, Event::Tick)
    }

    pub(crate) fn subscription_arrives(&mut self, framework: usize) -> Result<(), Violation> {
        let Some(call) = self.frameworks[framework].subscribe() else { return Ok(()) };
        let Some(master) = self.leading() else {
            self.later(1_000, Happens::Subscribes { framework });
            return Ok(());
        };
        self.last_stream += 1;
        let stream = self.last_stream;
        self.masters[master].streams.insert(stream, framework);
        self.frameworks[framework].stream = Some(stream);
        let header: Arc<str> = Arc::from(format!("stream-{stream}"));
        let caller = caller(framework);
        self.master_feed(
            master,
            Event::Subscribe { stream: StreamId(stream), stream_id: header, call: Box::new(call), caller },
        )
    }

    pub(crate) fn call_arrives(
        &mut self,
        framework: usize,
        stream: u64,
        call: scheduler::Call,
    ) -> Result<(), Violation> {
        let Some(master) = self.of_stream(stream) else { return Ok(()) };
        if self.is_deposed(master) {
            return Ok(());
        }
        // What a call ends is no longer on offer, whatever the master makes of it.
        for id in call.accept.iter().flat_map(|accept| &accept.offer_ids) {
            self.seen.offer_gone(&id.value);
        }
        for id in call.decline.iter().flat_map(|decline| &decline.offer_ids) {
            self.seen.offer_gone(&id.value);
        }
        self.reply += 1;
        let reply = ReplyId(self.reply);
        let stream_id = Some(Arc::from(format!("stream-{stream}")));
        self.master_feed(
            master,
            Event::Call { reply, stream_id, call: Box::new(call), caller: caller(framework) },
        )
    }

    /// A framework's connection breaks; both ends learn it, each in its time.
    pub(crate) fn drop_stream(&mut self, framework: usize) {
        let Some(stream) = self.frameworks[framework].stream else { return };
        self.totals.cuts += 1;
        self.stream_ends(framework, stream);
        self.later(0, Happens::StreamCut { stream });
    }

    pub(crate) fn stream_cut(&mut self, stream: u64) -> Result<(), Violation> {
        let Some(master) = self.of_stream(stream) else { return Ok(()) };
        self.masters[master].streams.remove(&stream);
        self.seen.stream_closed(stream);
        self.master_feed(master, Event::StreamClosed { stream: StreamId(stream) })
    }

    /// As the shell does before anything goes out: a leader whose lease may be over ends. Says whether it has.
    fn is_deposed(&mut self, master: usize) -> bool {
        let host = &self.masters[master];
        if host.core.is_some() && self.time >= host.valid && self.bug != Some(Bug::OldTerm) {
            self.end_master(master, "finds its lease over");
        }
        self.masters[master].core.is_none()
    }

    pub(crate) fn master_feed(&mut self, master: usize, event: Event) -> Result<(), Violation> {
        if self.is_deposed(master) {
            return Ok(());
        }
        let now = self.now();
        let Some(core) = self.masters[master].core.as_mut() else { return Ok(()) };
        let effects = core.handle(event, now, &mut self.random);
        let wake = core.next_tick();
        for effect in effects {
            self.master_effect(master, effect)?;
        }
        if let Some(Millis(at)) = wake {
            let at = at.max(self.time + 1);
            let host = &mut self.masters[master];
            if host.ticks.insert(at) {
                let life = host.life;
                self.at(at, Happens::MasterTick { master, life, at });
            }
        }
        Ok(())
    }

    fn master_effect(&mut self, master: usize, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::ToAgent { conn, message } => {
                self.registered_is_durable(&message)?;
                self.order(master, conn.0, *message);
            }
            Effect::CloseAgent { conn } => {
                if let Some((agent, _)) = self.masters[master].conns.remove(&conn.0) {
                    let at = self.arrival(conn.0, false);
                    self.at(at, Happens::CutAtAgent { agent, conn: conn.0 });
                }
            }
            Effect::ToFramework { stream, event } => self.announce(master, stream.0, *event)?,
            Effect::CloseStream { stream } => {
                self.seen.stream_closed(stream.0);
                if let Some(framework) = self.masters[master].streams.remove(&stream.0) {
                    let at = self.arrival(stream.0 | 1 << 63, true);
                    self.at(at + 1, Happens::StreamEnds { framework, stream: stream.0 });
                }
            }
            Effect::Commit { token, ops } => {
                let host = &mut self.masters[master];
                host.writing.insert(token.0, ops);
                let life = host.life;
                self.soon(Happens::Stored { master, life, token: token.0 });
            }
            Effect::Log { message, .. } => self.tell(|| format!("master {master}: {message}")),
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
        if self.store.knows("agent", &id.value) {
            Ok(())
        } else {
            Err(format!("agent {} was told that it is registered, and the store does not know it", id.value))
        }
    }

    fn order(&mut self, master: usize, conn: u64, message: MasterMessage) {
        if !self.masters[master].conns.contains_key(&conn) {
            return;
        }
        let doubled = matches!(
            message.kind,
            Some(master_message::Kind::RunTasks(_) | master_message::Kind::KillTask(_))
        ) && self.random.chance(20);
        for _ in 0..=u8::from(doubled) {
            let at = self.arrival(conn, false);
            let frame =
                Box::new(MasterFrame { term: self.masters[master].term, messages: vec![message.clone()] });
            self.at(at, Happens::AtAgent { conn, frame });
        }
    }

    /// A time of arrival after that of all that was sent before.
    pub(crate) fn arrival(&mut self, line: u64, upwards: bool) -> u64 {
        let wished = self.time + self.random.delay();
        let last = self.arrives.entry((line, upwards)).or_insert(0);
        *last = wished.max(*last + 1);
        *last
    }

    fn announce(&mut self, master: usize, stream: u64, event: scheduler::Event) -> Result<(), Violation> {
        let Some(framework) = self.masters[master].streams.get(&stream).copied() else { return Ok(()) };
        match event.r#type() {
            Type::Subscribed => {
                let id = event.subscribed.as_ref().map(|subscribed| subscribed.framework_id.value.clone());
                if !id.as_ref().is_some_and(|id| self.store.knows("framework", id)) {
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

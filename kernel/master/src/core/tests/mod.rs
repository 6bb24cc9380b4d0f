//! Scripts over the core: a small cluster of records, no sockets, a clock that the test moves.

mod agents;
mod frameworks;
mod life;
mod load;
mod operations;
mod property;
mod tasks;

use std::collections::BTreeMap;

use plenum_api::ids::SeededIds;
use plenum_api::internal::{self, AgentMessage, Register, agent_message, master_message::Kind};
use plenum_api::mesos::{self, TaskState};
use plenum_api::resources::Resources;
use plenum_api::scheduler::{self, Call, call, event};
use plenum_api::{Millis, Now, master};
use plenum_store::{Entry, Op, Revision};

use super::{
    AgentIdentity, Answer, Caller, ConnId, Effect, Event, Master, Peer, Records, ReplyId, Settings, StreamId,
    Token,
};

/// A master, its store, and everything it has sent.
pub struct Rig {
    pub master: Master,
    pub now: Now,
    pub ids: SeededIds,
    pub store: BTreeMap<String, bytes::Bytes>,
    /// Commits wait here while `hold` is set.
    pub waiting: Vec<(Token, Vec<Op>)>,
    pub hold: bool,
    pub sent: BTreeMap<StreamId, Vec<scheduler::Event>>,
    pub told: BTreeMap<ConnId, Vec<Kind>>,
    pub closed_streams: Vec<StreamId>,
    pub closed_conns: Vec<ConnId>,
    pub answers: BTreeMap<ReplyId, Answer>,
    pub published: Vec<master::Event>,
    pub next: u64,
    /// Agents leave pings unanswered.
    pub mute: bool,
    /// Headers of streams.
    pub headers: BTreeMap<StreamId, String>,
}

pub fn settings() -> Settings {
    Settings { completed_tasks: 3, completed_frameworks: 2, ..Settings::default() }
}

pub fn caller(uid: &str) -> Caller {
    Caller { uid: uid.into(), authenticated: true }
}

pub fn resources(text: &str) -> Vec<mesos::Resource> {
    Resources::parse(text, "*").expect("resources").to_mesos()
}

pub fn framework_info(name: &str) -> mesos::FrameworkInfo {
    use mesos::framework_info::capability::Type;
    mesos::FrameworkInfo {
        user: "root".into(),
        name: name.into(),
        failover_timeout: Some(60.0),
        roles: vec!["dev".into()],
        capabilities: [Type::MultiRole, Type::PartitionAware]
            .map(|t| mesos::framework_info::Capability { r#type: Some(t as i32) })
            .to_vec(),
        ..Default::default()
    }
}

pub fn agent_info(host: &str) -> mesos::AgentInfo {
    mesos::AgentInfo {
        hostname: host.into(),
        resources: resources("cpus:4;mem:4096;ports:[31000-32000]"),
        ..Default::default()
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(settings(), BTreeMap::new(), 1)
    }

    pub fn with(settings: Settings, store: BTreeMap<String, bytes::Bytes>, term: u64) -> Self {
        let mut records = Records::default();
        for (key, value) in &store {
            let entry = Entry {
                key: key.clone(),
                value: value.clone(),
                create_revision: Revision(1),
                mod_revision: Revision(1),
                lease: None,
            };
            records.take(&entry).expect("readable");
        }
        let now = Now::new(Millis(1_000), Millis(1_700_000_000_000));
        let mut ids = SeededIds::new(term);
        let master = Master::recover(settings, records, term, now, &mut ids);
        Self {
            master,
            now,
            ids,
            store,
            waiting: Vec::new(),
            hold: false,
            sent: BTreeMap::new(),
            told: BTreeMap::new(),
            closed_streams: Vec::new(),
            closed_conns: Vec::new(),
            answers: BTreeMap::new(),
            published: Vec::new(),
            next: 0,
            mute: false,
            headers: BTreeMap::new(),
        }
    }

    /// The same cluster after the master was killed and started again.
    pub fn restarted(self) -> Self {
        let term = self.master.term() + 1;
        Self::with(settings(), self.store, term)
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn handle(&mut self, event: Event) {
        let mut queue = std::collections::VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            for effect in self.master.handle(event, self.now, &mut self.ids) {
                match effect {
                    Effect::ToAgent { conn, message } => {
                        self.told.entry(conn).or_default().extend(message.kind)
                    }
                    Effect::CloseAgent { conn } => self.closed_conns.push(conn),
                    Effect::ToFramework { stream, event } => {
                        self.sent.entry(stream).or_default().push(*event)
                    }
                    Effect::CloseStream { stream } => self.closed_streams.push(stream),
                    Effect::Commit { token, ops } if self.hold => self.waiting.push((token, ops)),
                    Effect::Commit { token, ops } => {
                        self.apply(ops);
                        queue.push_back(Event::Committed { token, result: Ok(()) });
                    }
                    Effect::Publish(event) => self.published.push(*event),
                    Effect::Reply { reply, answer } => {
                        assert!(self.answers.insert(reply, answer).is_none(), "one answer a call")
                    }
                    Effect::Log { .. } => {}
                }
            }
        }
    }

    fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value, .. } => drop(self.store.insert(key, value)),
                Op::Delete { key } => drop(self.store.remove(&key)),
            }
        }
    }

    /// Lets what waits for the store happen, or fail.
    pub fn settle(&mut self, result: Result<(), String>) {
        for (token, ops) in std::mem::take(&mut self.waiting) {
            if result.is_ok() {
                self.apply(ops);
            }
            self.handle(Event::Committed { token, result: result.clone() });
        }
    }

    /// Moves the clock, stopping at every moment the master asked for.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now.mono + Millis(millis);
        loop {
            let next = self.master.next_tick().filter(|at| *at <= end).unwrap_or(end).max(self.now.mono);
            self.now = Now::new(next, self.now.wall + next.since(self.now.mono));
            self.handle(Event::Tick);
            self.pong();
            if next == end && self.master.next_tick().is_none_or(|at| at > end) {
                return;
            }
        }
    }

    fn pong(&mut self) {
        if self.mute {
            return;
        }
        let mut pings = Vec::new();
        for (conn, told) in &mut self.told {
            told.retain(|kind| match kind {
                Kind::Ping(ping) => {
                    pings.push((*conn, ping.seq));
                    false
                }
                _ => true,
            });
        }
        for (conn, seq) in pings {
            self.say(conn, agent_message::Kind::Pong(internal::Pong { seq }));
        }
    }

    // --- agents

    pub fn connect(&mut self, identity: &str) -> ConnId {
        self.connect_as(identity, "")
    }

    pub fn connect_as(&mut self, key: &str, node: &str) -> ConnId {
        let conn = ConnId(self.number());
        let identity = std::sync::Arc::new(AgentIdentity { key: key.into(), node: node.into() });
        let peer = Peer { identity, address: "127.0.0.1:9".into() };
        self.handle(Event::AgentConnected { conn, peer });
        conn
    }

    pub fn say(&mut self, conn: ConnId, kind: agent_message::Kind) {
        self.handle(Event::AgentMessage { conn, message: Box::new(AgentMessage { kind: Some(kind) }) });
    }

    pub fn register(&mut self, identity: &str, register: Register) -> ConnId {
        let conn = self.connect(identity);
        self.say(conn, agent_message::Kind::Register(register));
        conn
    }

    /// A new agent; its connection and id.
    pub fn agent(&mut self, host: &str) -> (ConnId, String) {
        let conn = self.register(
            host,
            Register { agent_info: agent_info(host), version: "1".into(), ..Default::default() },
        );
        let Some(Kind::Registered(registered)) = self.told(conn).into_iter().next() else {
            panic!("registered")
        };
        (conn, registered.agent_id.value)
    }

    /// Takes what was sent to an agent.
    pub fn told(&mut self, conn: ConnId) -> Vec<Kind> {
        self.told.remove(&conn).unwrap_or_default()
    }

    pub fn update(&mut self, conn: ConnId, framework: &str, task: &str, state: TaskState, uuid: u8) {
        let status = mesos::TaskStatus {
            task_id: task.into(),
            state: state as i32,
            uuid: Some(vec![uuid; 16].into()),
            timestamp: Some(1.0),
            ..Default::default()
        };
        let update = internal::StatusUpdate {
            framework_id: framework.into(),
            status,
            latest_state: Some(state as i32),
            executor_id: None,
        };
        self.say(conn, agent_message::Kind::StatusUpdate(update));
    }

    // --- frameworks

    pub fn subscribe(&mut self, info: mesos::FrameworkInfo, uid: &str) -> StreamId {
        self.subscribe_as(info, caller(uid))
    }

    pub fn subscribe_as(&mut self, info: mesos::FrameworkInfo, caller: Caller) -> StreamId {
        let stream = StreamId(self.number());
        let header = format!("header-{stream}");
        self.headers.insert(stream, header.clone());
        let call = Call {
            framework_id: info.id.clone(),
            r#type: Some(call::Type::Subscribe as i32),
            subscribe: Some(call::Subscribe { framework_info: info, ..Default::default() }),
            ..Default::default()
        };
        self.handle(Event::Subscribe { stream, stream_id: header.into(), call: Box::new(call), caller });
        stream
    }

    /// A new framework; its stream and id.
    pub fn framework(&mut self, name: &str) -> (StreamId, String) {
        let stream = self.subscribe(framework_info(name), "alice");
        let id = self.subscribed(stream).expect("subscribed");
        (stream, id)
    }

    /// The id in the SUBSCRIBED event.
    pub fn subscribed(&mut self, stream: StreamId) -> Option<String> {
        self.events(stream, event::Type::Subscribed)
            .into_iter()
            .next()?
            .subscribed
            .map(|s| s.framework_id.value)
    }

    /// Takes the events of one type.
    pub fn events(&mut self, stream: StreamId, kind: event::Type) -> Vec<scheduler::Event> {
        let all = self.sent.entry(stream).or_default();
        let (taken, left) =
            std::mem::take(all).into_iter().partition(|event| event.r#type == Some(kind as i32));
        *all = left;
        taken
    }

    pub fn updates(&mut self, stream: StreamId) -> Vec<mesos::TaskStatus> {
        self.events(stream, event::Type::Update)
            .into_iter()
            .filter_map(|e| e.update)
            .map(|u| u.status)
            .collect()
    }

    pub fn offers(&mut self, stream: StreamId) -> Vec<mesos::Offer> {
        self.pass(10);
        self.events(stream, event::Type::Offers)
            .into_iter()
            .filter_map(|e| e.offers)
            .flat_map(|o| o.offers)
            .collect()
    }

    pub fn call_as(
        &mut self,
        stream: StreamId,
        uid: &str,
        framework: &str,
        kind: call::Type,
        fill: impl FnOnce(&mut Call),
    ) -> Option<Answer> {
        let reply = ReplyId(self.number());
        let mut call =
            Call { framework_id: Some(framework.into()), r#type: Some(kind as i32), ..Default::default() };
        fill(&mut call);
        let stream_id = self.headers.get(&stream).map(|header| header.as_str().into());
        self.handle(Event::Call { reply, stream_id, call: Box::new(call), caller: caller(uid) });
        self.answers.get(&reply).cloned()
    }

    pub fn call(
        &mut self,
        stream: StreamId,
        framework: &str,
        kind: call::Type,
        fill: impl FnOnce(&mut Call),
    ) -> Answer {
        self.call_as(stream, "alice", framework, kind, fill).expect("an answer")
    }

    pub fn accept(
        &mut self,
        stream: StreamId,
        framework: &str,
        offers: &[&mesos::Offer],
        tasks: Vec<mesos::TaskInfo>,
    ) {
        let operation = mesos::offer::Operation {
            r#type: Some(mesos::offer::operation::Type::Launch as i32),
            launch: Some(mesos::offer::operation::Launch { task_infos: tasks }),
            ..Default::default()
        };
        let accept = call::Accept {
            offer_ids: offers.iter().map(|offer| offer.id.clone()).collect(),
            operations: vec![operation],
            filters: Some(mesos::Filters { refuse_seconds: Some(0.0) }),
        };
        let answer = self.call(stream, framework, call::Type::Accept, |c| c.accept = Some(accept));
        assert_eq!(answer, Answer::Accepted);
    }

    /// A running task of one cpu; agents' connection, framework's stream.
    pub fn running(&mut self, name: &str, conn: ConnId, stream: StreamId, framework: &str) {
        let offers = self.offers(stream);
        let offer = offers.first().expect("an offer");
        let agent = offer.agent_id.value.clone();
        self.accept(stream, framework, &[offer], vec![task(name, &agent, "cpus:1;mem:64")]);
        self.update(conn, framework, name, TaskState::TaskRunning, 1);
        let updates = self.updates(stream);
        assert_eq!(updates.last().map(|s| s.state), Some(TaskState::TaskRunning as i32));
    }

    pub fn acknowledge(&mut self, stream: StreamId, framework: &str, agent: &str, task: &str, uuid: u8) {
        let acknowledge =
            call::Acknowledge { agent_id: agent.into(), task_id: task.into(), uuid: vec![uuid; 16].into() };
        assert_eq!(
            self.call(stream, framework, call::Type::Acknowledge, |c| c.acknowledge = Some(acknowledge)),
            Answer::Accepted
        );
    }

    pub fn operate(&mut self, call: master::Call) -> Option<Answer> {
        let reply = ReplyId(self.number());
        self.handle(Event::Operator { reply, call: Box::new(call), caller: caller("op") });
        self.answers.get(&reply).cloned()
    }

    /// What is free on an agent, by the ledger.
    pub fn free(&self, agent: &str) -> String {
        self.master.allocator().agent_report(agent).map(|report| report.free.to_string()).unwrap_or_default()
    }
}

pub fn task(id: &str, agent: &str, needs: &str) -> mesos::TaskInfo {
    mesos::TaskInfo {
        name: id.into(),
        task_id: id.into(),
        agent_id: agent.into(),
        resources: resources(needs),
        command: Some(mesos::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    }
}

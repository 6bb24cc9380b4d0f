//! The one task that owns the state machine: it drains what has queued up, carries the effects out, and goes on.
//!
//! It never waits for anybody: what goes out is queued for the tasks that write, and who does not read is disconnected.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plenum_allocator::Explanation;
use plenum_api::resources::Resources;
use plenum_api::{internal, master, scheduler};
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::service::Shutdown;
use plenum_store::Validity;
use tokio::sync::{mpsc, oneshot};

use super::commits::Commits;
use super::queue::{Queue, Waiting, queue};
use crate::core::{Answer, Caller, ConnId, Effect, Event, Master, Peer, ReplyId, State, StreamId, Token};

/// Inputs that may wait for the owner; who sends more waits.
const INBOX: usize = 16_384;
/// Inputs taken at once.
const BATCH: usize = 2_048;
/// Operator streams at once; as in Mesos, the oldest goes when one more comes.
const WATCHERS: usize = 1_000;

/// What reaches the owner.
pub(crate) enum Input {
    AgentOpened(ConnId, Peer, Queue<Vec<internal::MasterMessage>>),
    AgentFrame(ConnId, Vec<internal::AgentMessage>),
    AgentClosed(ConnId),
    Subscribe {
        stream: StreamId,
        header: Arc<str>,
        queue: Queue<Box<scheduler::Event>>,
        call: Box<scheduler::Call>,
        caller: Caller,
    },
    StreamClosed(StreamId),
    Call(Option<Arc<str>>, Box<scheduler::Call>, Caller, oneshot::Sender<Answer>),
    Operator(Box<master::Call>, Caller, oneshot::Sender<Answer>),
    Watch(u64, Queue<Arc<master::Event>>, oneshot::Sender<Arc<State>>),
    WatchClosed(u64),
    Read(oneshot::Sender<Arc<State>>),
    Explain(String, String, Resources, oneshot::Sender<Result<Vec<Explanation>, String>>),
    Committed(Vec<(Token, Result<(), String>)>),
}

/// How the rest of the shell reaches the owner.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inbox: mpsc::Sender<Input>,
    numbers: Arc<AtomicU64>,
    /// The term of the leadership.
    pub term: u64,
    /// Whether it holds.
    pub validity: Validity,
}

/// The owner has ended: this master no longer leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended;

impl Handle {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a connection.
    pub fn conn(&self) -> ConnId {
        ConnId(self.number())
    }

    /// Queues an input, waiting while the owner is behind.
    pub async fn send(&self, input: Input) -> Result<(), Ended> {
        self.inbox.send(input).await.map_err(|_| Ended)
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Ended> {
        let (sender, receiver) = oneshot::channel();
        self.send(input(sender)).await?;
        let answer = receiver.await.map_err(|_| Ended)?;
        // What a deposed leader says is not said.
        if self.validity.holds() { Ok(answer) } else { Err(Ended) }
    }

    /// The state now.
    pub async fn state(&self) -> Result<Arc<State>, Ended> {
        self.ask(Input::Read).await
    }

    /// Makes a scheduler call.
    pub async fn call(
        &self,
        stream: Option<Arc<str>>,
        call: scheduler::Call,
        caller: Caller,
    ) -> Result<Answer, Ended> {
        self.ask(|answer| Input::Call(stream, Box::new(call), caller, answer)).await
    }

    /// Makes a call of the operator API that changes something.
    pub async fn operate(&self, call: master::Call, caller: Caller) -> Result<Answer, Ended> {
        self.ask(|answer| Input::Operator(Box::new(call), caller, answer)).await
    }

    /// Why a framework does or does not get a shape of resources.
    pub async fn explain(
        &self,
        framework: String,
        role: String,
        shape: Resources,
    ) -> Result<Result<Vec<Explanation>, String>, Ended> {
        self.ask(|answer| Input::Explain(framework, role, shape, answer)).await
    }

    /// Subscribes a framework. Dropping the guard tells the owner that the stream is gone.
    pub async fn subscribe(
        &self,
        header: Arc<str>,
        call: scheduler::Call,
        caller: Caller,
    ) -> Result<(Waiting<Box<scheduler::Event>>, Guard), Ended> {
        let stream = StreamId(self.number());
        let (sender, waiting) = queue(self.validity.clone());
        self.send(Input::Subscribe { stream, header, queue: sender, call: Box::new(call), caller }).await?;
        Ok((waiting, Guard { inbox: self.inbox.clone(), closed: Some(Input::StreamClosed(stream)) }))
    }

    /// Subscribes an operator: the state, and every event after it.
    pub async fn watch(&self) -> Result<(Arc<State>, Waiting<Arc<master::Event>>, Guard), Ended> {
        let number = self.number();
        let (sender, waiting) = queue(self.validity.clone());
        let state = self.ask(|answer| Input::Watch(number, sender, answer)).await?;
        Ok((state, waiting, Guard { inbox: self.inbox.clone(), closed: Some(Input::WatchClosed(number)) }))
    }
}

/// Says that something is closed when it is dropped.
pub(crate) struct Guard {
    inbox: mpsc::Sender<Input>,
    closed: Option<Input>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(input) = self.closed.take() else { return };
        if let Err(mpsc::error::TrySendError::Full(input)) = self.inbox.try_send(input)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let inbox = self.inbox.clone();
            runtime.spawn(async move { inbox.send(input).await });
        }
    }
}

struct Owner {
    master: Master,
    validity: Validity,
    commits: Commits,
    agents: HashMap<ConnId, Queue<Vec<internal::MasterMessage>>>,
    streams: HashMap<StreamId, Queue<Box<scheduler::Event>>>,
    watchers: BTreeMap<u64, Queue<Arc<master::Event>>>,
    replies: HashMap<ReplyId, oneshot::Sender<Answer>>,
    next_reply: u64,
    /// Messages to agents of this batch, in the order agents were first written to.
    outgoing: Vec<(ConnId, Vec<internal::MasterMessage>)>,
    places: HashMap<ConnId, usize>,
    closing: Vec<ConnId>,
    /// Events that follow from what was done: streams that could not keep up.
    own: VecDeque<Event>,
}

/// Starts the owner.
pub(crate) fn spawn(
    master: Master,
    commits: impl FnOnce(mpsc::Sender<Input>) -> Commits,
    validity: Validity,
    shutdown: Shutdown,
) -> Handle {
    let (inbox, receiver) = mpsc::channel(INBOX);
    let term = master.term();
    let commits = commits(inbox.clone());
    let owner = Owner {
        master,
        validity: validity.clone(),
        commits,
        agents: HashMap::new(),
        streams: HashMap::new(),
        watchers: BTreeMap::new(),
        replies: HashMap::new(),
        next_reply: 0,
        outgoing: Vec::new(),
        places: HashMap::new(),
        closing: Vec::new(),
        own: VecDeque::new(),
    };
    tokio::spawn(owner.run(receiver, shutdown));
    Handle { inbox, numbers: Arc::new(AtomicU64::new(1)), term, validity }
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>, shutdown: Shutdown) {
        let mut batch = Vec::with_capacity(BATCH);
        while !shutdown.is_triggered() {
            let wait = self.wait();
            tokio::select! {
                count = inbox.recv_many(&mut batch, BATCH) => if count == 0 { break },
                () = tokio::time::sleep(wait) => {}
                () = shutdown.wait() => break,
            }
            // Whatever was decided by a process that was stopped meanwhile must not get out.
            if !self.validity.holds() {
                break;
            }
            for input in batch.drain(..) {
                self.take(input);
            }
            self.handle(Event::Tick);
            while let Some(event) = self.own.pop_front() {
                self.handle(event);
            }
            self.flush();
            // Others on this thread get their turn even when inputs never end.
            tokio::task::yield_now().await;
        }
    }

    /// How long nothing is due. At most a second, so that a clock that jumps does no harm.
    fn wait(&self) -> Duration {
        let longest = Duration::from_secs(1);
        let Some(at) = self.master.next_tick() else { return longest };
        Duration::from(at.since(OsClock.now().mono)).min(longest)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::AgentOpened(conn, peer, queue) => {
                self.agents.insert(conn, queue);
                self.handle(Event::AgentConnected { conn, peer });
            }
            Input::AgentFrame(conn, messages) => {
                for message in messages {
                    self.handle(Event::AgentMessage { conn, message: Box::new(message) });
                }
            }
            Input::AgentClosed(conn) => {
                self.agents.remove(&conn);
                self.handle(Event::AgentDisconnected { conn });
            }
            Input::Subscribe { stream, header, queue, call, caller } => {
                self.streams.insert(stream, queue);
                self.handle(Event::Subscribe { stream, stream_id: header, call, caller });
            }
            Input::StreamClosed(stream) => {
                self.streams.remove(&stream);
                self.handle(Event::StreamClosed { stream });
            }
            Input::Call(stream_id, call, caller, answer) => {
                let reply = self.reply(answer);
                self.handle(Event::Call { reply, stream_id, call, caller });
            }
            Input::Operator(call, caller, answer) => {
                let reply = self.reply(answer);
                self.handle(Event::Operator { reply, call, caller });
            }
            Input::Watch(number, queue, answer) => self.watch(number, queue, answer),
            Input::WatchClosed(number) => {
                self.watchers.remove(&number);
                self.master.set_watched(!self.watchers.is_empty());
            }
            // Whoever asked may have gone; nobody minds.
            Input::Read(answer) => drop(answer.send(self.master.state())),
            Input::Explain(framework, role, shape, answer) => {
                let explained = self.master.allocator().explain(&framework, &role, &shape, OsClock.now());
                let _ = answer.send(explained.map_err(|e| e.to_string()));
            }
            Input::Committed(results) => {
                for (token, result) in results {
                    self.handle(Event::Committed { token, result });
                }
            }
        }
    }

    fn reply(&mut self, answer: oneshot::Sender<Answer>) -> ReplyId {
        self.next_reply += 1;
        let reply = ReplyId(self.next_reply);
        self.replies.insert(reply, answer);
        reply
    }

    fn watch(&mut self, number: u64, queue: Queue<Arc<master::Event>>, answer: oneshot::Sender<Arc<State>>) {
        if self.watchers.len() >= WATCHERS {
            self.watchers.pop_first();
        }
        if answer.send(self.master.state()).is_ok() {
            self.watchers.insert(number, queue);
            self.master.set_watched(true);
        }
    }

    fn handle(&mut self, event: Event) {
        let effects = self.master.handle(event, OsClock.now(), &mut OsIds);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ToAgent { conn, message } => {
                let place = *self.places.entry(conn).or_insert_with(|| {
                    self.outgoing.push((conn, Vec::new()));
                    self.outgoing.len() - 1
                });
                if let Some((_, messages)) = self.outgoing.get_mut(place) {
                    messages.push(*message);
                }
            }
            Effect::CloseAgent { conn } => self.closing.push(conn),
            Effect::ToFramework { stream, event } => {
                if self.streams.get(&stream).is_some_and(|queue| !queue.push(event)) {
                    tracing::warn!(%stream, "a framework does not read its events and is disconnected");
                    self.streams.remove(&stream);
                    self.own.push_back(Event::StreamClosed { stream });
                }
            }
            Effect::CloseStream { stream } => drop(self.streams.remove(&stream)),
            Effect::Commit { token, ops } => self.commits.push(token, ops),
            Effect::Publish(event) => {
                let event = Arc::from(event);
                self.watchers.retain(|_, queue| queue.push(Arc::clone(&event)));
            }
            Effect::Reply { reply, answer } => {
                if let Some(waiting) = self.replies.remove(&reply) {
                    let _ = waiting.send(answer);
                }
            }
            Effect::Log { warn: true, message } => tracing::warn!("{message}"),
            Effect::Log { warn: false, message } => tracing::info!("{message}"),
        }
    }

    /// Hands over what the batch has brought: one frame for each agent.
    fn flush(&mut self) {
        self.places.clear();
        for (conn, messages) in self.outgoing.drain(..) {
            if self.agents.get(&conn).is_some_and(|queue| !queue.push(messages)) {
                self.agents.remove(&conn);
            }
        }
        for conn in self.closing.drain(..) {
            self.agents.remove(&conn);
        }
        self.commits.flush();
    }
}

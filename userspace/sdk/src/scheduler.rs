//! The scheduler driver: one task keeps the subscription, a handle makes calls, events come out of a channel.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::{
    AgentId, ExecutorId, Filters, FrameworkId, FrameworkInfo, KillPolicy, OfferId, TaskId, TaskInfo, offer,
};
pub use plenum_api::scheduler::{Call, Event, call, event};
use plenum_base::client::Client;
use plenum_base::leading::Leading;
use plenum_base::retry::Backoff;
use tokio::sync::{mpsc, watch};

use crate::masters::Masters;
use crate::stream::{Answer, Ask, CallError, Records, STREAM_ID, post};

/// Heartbeats that may be missed before the subscription is taken for dead.
const MISSED: u32 = 5;
/// The interval when the master names none.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Redirects that are followed one after the other.
const HOPS: usize = 5;

/// How the driver behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Masters: `http://host:port`, tried in turn; redirects lead to the leading one, if it is one of them.
    pub masters: Vec<String>,
    /// Follows who leads, in a fleet: its list takes the place of `masters`, and the driver goes to a new leader as soon as there is one.
    pub leading: Option<Leading>,
    /// What the framework is. With an `id` it takes its former place.
    pub framework: FrameworkInfo,
    /// Roles that want no offers from the beginning.
    pub suppressed_roles: Vec<String>,
    /// How messages are written.
    pub encoding: Encoding,
    /// Status updates are acknowledged when they are taken out of [`Events`]. Leave it off when something must be
    /// durable first.
    pub auto_acknowledge: bool,
    /// The first and the longest pause between attempts to subscribe.
    pub pause: (Duration, Duration),
    /// The time a call may take.
    pub deadline: Duration,
}

impl Options {
    /// Protobuf, no automatic acknowledgement, pauses from 100 ms to 10 s.
    pub fn new<S: Into<String>>(masters: impl IntoIterator<Item = S>, framework: FrameworkInfo) -> Self {
        Self {
            masters: masters.into_iter().map(Into::into).collect(),
            leading: None,
            framework,
            suppressed_roles: Vec::new(),
            encoding: Encoding::Protobuf,
            auto_acknowledge: false,
            pause: (Duration::from_millis(100), Duration::from_secs(10)),
            deadline: Duration::from_secs(15),
        }
    }

    /// Follows who leads by `leading`.
    #[must_use]
    pub fn led_by(self, leading: Leading) -> Self {
        Self { leading: Some(leading), ..self }
    }
}

/// What the driver tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// A master took us in. Every earlier offer is void; reconcile.
    Subscribed {
        /// The framework's id.
        framework_id: FrameworkId,
        /// Where the master is.
        master: String,
    },
    /// An event other than SUBSCRIBED and HEARTBEAT.
    Event(Box<Event>),
    /// The subscription is lost. The driver goes on trying; calls fail until it is subscribed again.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The master will not have us any more. Nothing follows.
    Failed {
        /// What it said.
        reason: String,
    },
}

#[derive(Debug, Clone)]
struct Session {
    url: String,
    stream_id: Option<String>,
    framework_id: FrameworkId,
}

/// Makes calls. Clones share the subscription.
#[derive(Debug, Clone)]
pub struct Scheduler {
    client: Client,
    encoding: Encoding,
    deadline: Duration,
    session: watch::Receiver<Option<Arc<Session>>>,
    framework: watch::Sender<FrameworkInfo>,
}

/// What happens, in order.
#[derive(Debug)]
pub struct Events {
    from: mpsc::Receiver<Happening>,
    acknowledge: Option<Scheduler>,
}

impl Events {
    /// The next happening; `None` after [`Happening::Failed`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Happening> {
        let happening = self.from.recv().await?;
        if let (Some(scheduler), Happening::Event(event)) = (&self.acknowledge, &happening)
            && let Some(update) = &event.update
            && let (Some(uuid), Some(agent)) = (update.status.uuid.clone(), update.status.agent_id.clone())
        {
            let (scheduler, task) = (scheduler.clone(), update.status.task_id.clone());
            // The agent repeats what is not acknowledged, so a failure here costs only time.
            tokio::spawn(async move { scheduler.acknowledge(agent, task, uuid).await.ok() });
        }
        Some(happening)
    }
}

/// Starts the driver. It ends when both [`Events`] and every task of it are dropped, or with [`Happening::Failed`].
pub fn connect(client: Client, options: Options) -> (Scheduler, Events) {
    let (session_in, session) = watch::channel(None);
    let (framework, framework_out) = watch::channel(options.framework.clone());
    let (to, from) = mpsc::channel(1024);
    let (encoding, deadline) = (options.encoding, options.deadline);
    let scheduler = Scheduler { client: client.clone(), encoding, deadline, session, framework };
    let acknowledge = options.auto_acknowledge.then(|| scheduler.clone());
    let masters = Masters::new(options.masters.clone(), options.leading.clone(), "/api/v1/scheduler");
    let driver = Driver { client, options, masters, framework: framework_out, session: session_in, to };
    tokio::spawn(driver.run());
    (scheduler, Events { from, acknowledge })
}

struct Driver {
    client: Client,
    options: Options,
    masters: Masters,
    framework: watch::Receiver<FrameworkInfo>,
    session: watch::Sender<Option<Arc<Session>>>,
    to: mpsc::Sender<Happening>,
}

/// Done when another master leads.
type Moved = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a subscription ended.
enum End {
    Again(String),
    Never(String),
    /// Nobody listens any more.
    Deaf,
}

impl Driver {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.options.pause.0, self.options.pause.1);
        let mut id = self.options.framework.id.clone();
        loop {
            let mut lived = false;
            let to = self.to.clone();
            let end = tokio::select! {
                end = self.subscription(&mut id, &mut lived) => end,
                () = to.closed() => End::Deaf,
            };
            self.session.send_replace(None);
            match end {
                End::Deaf => return,
                End::Never(reason) => {
                    // Nobody listening is nobody to tell.
                    let _ = self.to.send(Happening::Failed { reason }).await;
                    return;
                }
                End::Again(reason) => {
                    tracing::debug!(%reason, "not subscribed");
                    if lived {
                        backoff.reset();
                        if self.to.send(Happening::Disconnected { reason }).await.is_err() {
                            return;
                        }
                    }
                }
            }
            self.masters.look();
            tokio::select! {
                () = self.masters.pause(backoff.delay()) => {}
                () = self.to.closed() => return,
            }
        }
    }

    /// One subscription from beginning to end.
    async fn subscription(&mut self, id: &mut Option<FrameworkId>, lived: &mut bool) -> End {
        let (url, reply, moved) = match self.subscribe(id.clone()).await {
            Ok(found) => found,
            Err(error) if error.is_transient() => return End::Again(error.to_string()),
            Err(error) => return End::Never(error.to_string()),
        };
        let stream_id = reply.headers.get(STREAM_ID).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut records = Records::new(&url, reply);
        let mut moved = moved;
        let mut idle = HEARTBEAT * MISSED;
        loop {
            let next = tokio::select! {
                next = records.next(idle) => next,
                () = moved.as_mut() => return End::Again(format!("{url} does not lead any more")),
            };
            let event: Event = match next {
                Ok(Some(event)) => event,
                Ok(None) => return End::Again(format!("{url} ended the subscription")),
                Err(error) => return End::Again(error.to_string()),
            };
            if let Some(subscribed) = event.subscribed {
                let seconds = subscribed.heartbeat_interval_seconds.filter(|s| s.is_finite() && *s > 0.0);
                idle = seconds.map_or(HEARTBEAT, |s| Duration::from_secs_f64(s.min(3600.0))) * MISSED;
                let framework_id = subscribed.framework_id;
                *id = Some(framework_id.clone());
                *lived = true;
                let session = Session { url: url.clone(), stream_id: stream_id.clone(), framework_id };
                let framework_id = session.framework_id.clone();
                self.session.send_replace(Some(Arc::new(session)));
                self.masters.lead(&url);
                let master = self.masters.base(&url);
                if self.to.send(Happening::Subscribed { framework_id, master }).await.is_err() {
                    return End::Deaf;
                }
            } else if let Some(error) = event.error {
                return End::Never(error.message);
            } else if event.r#type != Some(event::Type::Heartbeat.into())
                && self.to.send(Happening::Event(Box::new(event))).await.is_err()
            {
                return End::Deaf;
            }
        }
    }

    async fn subscribe(
        &mut self,
        id: Option<FrameworkId>,
    ) -> Result<(String, plenum_base::client::Reply, Moved), CallError> {
        let mut framework_info = self.framework.borrow().clone();
        framework_info.id.clone_from(&id);
        let suppressed_roles = self.options.suppressed_roles.clone();
        let subscribe = call::Subscribe { framework_info, suppressed_roles, ..Default::default() };
        let call = Call {
            framework_id: id,
            r#type: Some(call::Type::Subscribe.into()),
            subscribe: Some(subscribe),
            ..Default::default()
        };
        let (encoding, deadline) = (self.options.encoding, self.options.deadline);
        let body = codec::encode(encoding, &call);
        let mut url = self.masters.pick();
        for _ in 0..HOPS {
            let ask = Ask { url: &url, encoding, stream_id: None, body: body.clone(), deadline };
            let mut moved: Moved = Box::pin(self.masters.moved_from(&url));
            let answer = tokio::select! {
                answer = post(&self.client, ask) => answer?,
                // It may take the connection and say nothing, as a machine does that was stopped.
                () = moved.as_mut() => {
                    let reason = "another leads since it was asked".to_owned();
                    return Err(CallError::NotLeading { url, reason });
                }
            };
            match answer {
                Answer::Good(reply) => return Ok((url, reply, moved)),
                Answer::Elsewhere(there) => url = self.masters.follow(&url, &there)?,
            }
        }
        Err(CallError::NotLeading { url, reason: format!("more than {HOPS} redirects") })
    }
}

impl Scheduler {
    /// Makes any call but SUBSCRIBE. The framework's id is filled in.
    ///
    /// # Errors
    /// [`CallError`]. A call that was not taken may or may not have had an effect; reconcile.
    pub async fn call(&self, mut call: Call) -> Result<(), CallError> {
        let session = self.session.borrow().clone().ok_or(CallError::NotSubscribed)?;
        call.framework_id = Some(session.framework_id.clone());
        let body = codec::encode(self.encoding, &call);
        let stream_id = session.stream_id.as_deref();
        let ask =
            Ask { url: &session.url, encoding: self.encoding, stream_id, body, deadline: self.deadline };
        let mut sessions = self.session.clone();
        let lost = async {
            let another =
                |now: &Option<Arc<Session>>| !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &session));
            let _ = sessions.wait_for(another).await;
            // A call may end the subscription itself: its answer is on the way then.
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let answer = tokio::select! {
            answer = post(&self.client, ask) => answer?,
            () = lost => {
                let reason = "the subscription was lost before it answered".to_owned();
                return Err(CallError::NotLeading { url: session.url.clone(), reason });
            }
        };
        match answer {
            Answer::Good(_) => Ok(()),
            Answer::Elsewhere(there) => Err(CallError::NotLeading {
                url: session.url.clone(),
                reason: format!("it points to {there}"),
            }),
        }
    }

    /// The framework's id while subscribed.
    #[must_use]
    pub fn framework_id(&self) -> Option<FrameworkId> {
        self.session.borrow().as_ref().map(|s| s.framework_id.clone())
    }

    /// Whether there is a subscription now.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.session.borrow().is_some()
    }

    async fn typed(&self, kind: call::Type, fill: impl FnOnce(&mut Call)) -> Result<(), CallError> {
        let mut call = Call { r#type: Some(kind.into()), ..Default::default() };
        fill(&mut call);
        self.call(call).await
    }

    /// Accepts offers of one agent with operations; what is left is refused for `refuse_seconds`.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn accept(
        &self,
        offer_ids: Vec<OfferId>,
        operations: Vec<offer::Operation>,
        refuse_seconds: f64,
    ) -> Result<(), CallError> {
        let filters = Some(Filters { refuse_seconds: Some(refuse_seconds) });
        self.typed(call::Type::Accept, |c| c.accept = Some(call::Accept { offer_ids, operations, filters }))
            .await
    }

    /// Accepts an offer by launching tasks on it.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn launch(&self, offer_id: OfferId, task_infos: Vec<TaskInfo>) -> Result<(), CallError> {
        let operation = offer::Operation {
            r#type: Some(offer::operation::Type::Launch.into()),
            launch: Some(offer::operation::Launch { task_infos }),
            ..Default::default()
        };
        self.accept(vec![offer_id], vec![operation], 5.0).await
    }

    /// Gives offers back; the like are refused for `refuse_seconds`.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn decline(&self, offer_ids: Vec<OfferId>, refuse_seconds: f64) -> Result<(), CallError> {
        let filters = Some(Filters { refuse_seconds: Some(refuse_seconds) });
        self.typed(call::Type::Decline, |c| c.decline = Some(call::Decline { offer_ids, filters })).await
    }

    /// Ends a task.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn kill(
        &self,
        task_id: TaskId,
        agent_id: Option<AgentId>,
        kill_policy: Option<KillPolicy>,
    ) -> Result<(), CallError> {
        self.typed(call::Type::Kill, |c| c.kill = Some(call::Kill { task_id, agent_id, kill_policy })).await
    }

    /// Acknowledges a status update.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn acknowledge(
        &self,
        agent_id: AgentId,
        task_id: TaskId,
        uuid: Bytes,
    ) -> Result<(), CallError> {
        let acknowledge = Some(call::Acknowledge { agent_id, task_id, uuid });
        self.typed(call::Type::Acknowledge, |c| c.acknowledge = acknowledge).await
    }

    /// Asks for the state of tasks; of all, if none are named.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn reconcile(&self, tasks: Vec<(TaskId, Option<AgentId>)>) -> Result<(), CallError> {
        let tasks = tasks.into_iter().map(|(task_id, agent_id)| call::reconcile::Task { task_id, agent_id });
        let reconcile = Some(call::Reconcile { tasks: tasks.collect() });
        self.typed(call::Type::Reconcile, |c| c.reconcile = reconcile).await
    }

    /// Asks for offers and forgets refusals; for all roles, if none are named.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn revive(&self, roles: Vec<String>) -> Result<(), CallError> {
        self.typed(call::Type::Revive, |c| c.revive = Some(call::Revive { roles })).await
    }

    /// Asks for no more offers; for all roles, if none are named.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn suppress(&self, roles: Vec<String>) -> Result<(), CallError> {
        self.typed(call::Type::Suppress, |c| c.suppress = Some(call::Suppress { roles })).await
    }

    /// Ends the framework and every task of it.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn teardown(&self) -> Result<(), CallError> {
        self.typed(call::Type::Teardown, |_| {}).await
    }

    /// Sends bytes to an executor; best effort.
    ///
    /// # Errors
    /// As for [`Scheduler::call`].
    pub async fn message(
        &self,
        agent_id: AgentId,
        executor_id: ExecutorId,
        data: Bytes,
    ) -> Result<(), CallError> {
        let message = Some(call::Message { agent_id, executor_id, data });
        self.typed(call::Type::Message, |c| c.message = message).await
    }

    /// Changes what the framework is, now if subscribed and at each later subscription.
    ///
    /// # Errors
    /// As for [`Scheduler::call`], but for [`CallError::NotSubscribed`]: then it counts from the next subscription on.
    pub async fn update_framework(&self, framework: FrameworkInfo) -> Result<(), CallError> {
        self.framework.send_replace(framework.clone());
        let Some(id) = self.framework_id() else { return Ok(()) };
        let framework_info = FrameworkInfo { id: Some(id), ..framework };
        let update = Some(call::UpdateFramework { framework_info, ..Default::default() });
        self.typed(call::Type::UpdateFramework, |c| c.update_framework = update).await
    }
}

//! A stand-in for a master: real TLS and real frames, and it does what the measurement says. It acknowledges every update by itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use plenum_api::codec;
use plenum_api::internal::{
    self, AgentFrame, MasterFrame, MasterMessage, agent_message::Kind as Said, master_message::Kind as Order,
};
use plenum_api::mesos::{DurationInfo, FrameworkInfo, KillPolicy, TaskInfo, TaskState, TaskStatus};
use plenum_base::frames::{FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::tls::{ClientAuth, Identity};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The id that its agent gets.
pub const AGENT: &str = "S1";
/// The id of its only framework.
pub const FRAMEWORK: &str = "F1";

/// How often it shows that it lives.
const PING: Duration = Duration::from_secs(5);

/// What is of interest in what the agent says.
#[derive(Debug)]
pub enum Heard {
    /// It has registered, for the first time or again.
    Registered,
    /// Where a task is now.
    Status {
        /// Its id.
        task: String,
        /// Its state.
        state: TaskState,
        /// In words.
        message: String,
        /// When this was read.
        at: SystemTime,
    },
}

type Orders = Arc<Mutex<Option<mpsc::UnboundedSender<MasterFrame>>>>;

/// The door and what came in.
pub struct Master {
    /// Where agents dial.
    pub address: SocketAddr,
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Heard while something else was waited for.
    kept: VecDeque<Heard>,
    orders: Orders,
}

impl Master {
    /// Opens the door.
    ///
    /// # Errors
    /// When the address is taken or the certificate is none.
    pub async fn start(identity: &Identity, at: &str) -> Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| at.to_owned())?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[])?);
        let (tell, heard) = mpsc::unbounded_channel();
        let orders = Orders::default();
        let current = Arc::clone(&orders);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _slower_without = stream.set_nodelay(true);
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (send, queue) = mpsc::unbounded_channel();
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(send.clone());
                let (reader, writer) = tokio::io::split(stream);
                tokio::spawn(speak(writer, queue));
                tokio::spawn(ping(send.clone()));
                tokio::spawn(listen(reader, send, tell.clone()));
            }
        });
        Ok(Self { address, heard, kept: VecDeque::new(), orders })
    }

    /// The next thing of interest; `None` when nothing is said for `patience`.
    pub async fn hear(&mut self, patience: Duration) -> Option<Heard> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        self.hear_new(patience).await
    }

    async fn hear_new(&mut self, patience: Duration) -> Option<Heard> {
        tokio::time::timeout(patience, self.heard.recv()).await.ok().flatten()
    }

    /// What is there already.
    pub fn heard(&mut self) -> Option<Heard> {
        self.kept.pop_front().or_else(|| self.heard.try_recv().ok())
    }

    /// Waits for the agent to register. What else it says meanwhile is kept.
    ///
    /// # Errors
    /// When nothing is said for `patience`.
    pub async fn registered(&mut self, patience: Duration) -> Result<()> {
        loop {
            match self.hear_new(patience).await.context("the agent does not register")? {
                Heard::Registered => return Ok(()),
                other => self.kept.push_back(other),
            }
        }
    }

    /// Orders tasks to be launched. What is said to an agent that is away is lost, as with a real master's frames.
    pub fn run(&self, tasks: Vec<TaskInfo>) {
        let launch_id = tasks.first().map(|task| task.task_id.value.clone()).unwrap_or_default();
        self.order(Order::RunTasks(internal::RunTasks {
            framework_info: FrameworkInfo {
                user: "root".to_owned(),
                name: "bench".to_owned(),
                id: Some(FRAMEWORK.into()),
                ..Default::default()
            },
            tasks,
            launch_id: launch_id.into_bytes().into(),
            ..Default::default()
        }));
    }

    /// Orders a task to be ended.
    pub fn kill(&self, task: &str, grace: Duration) {
        let nanoseconds = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        self.order(Order::KillTask(internal::KillTask {
            framework_id: FRAMEWORK.into(),
            task_id: task.into(),
            kill_policy: Some(KillPolicy { grace_period: Some(DurationInfo { nanoseconds }) }),
        }));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &*self.orders.lock().unwrap_or_else(PoisonError::into_inner) {
            say(orders, order);
        }
    }
}

fn say(orders: &mpsc::UnboundedSender<MasterFrame>, order: Order) {
    let _agent_gone =
        orders.send(MasterFrame { term: 1, messages: vec![MasterMessage { kind: Some(order) }] });
}

async fn speak(writer: WriteHalf<TlsStream<TcpStream>>, mut queue: mpsc::UnboundedReceiver<MasterFrame>) {
    let mut writer = FrameWriter::new(writer, MAX_FRAME);
    while let Some(frame) = queue.recv().await {
        let mut bytes = Vec::new();
        codec::encode_protobuf_into(&frame, &mut bytes);
        if writer.send(&bytes).await.is_err() {
            return;
        }
    }
}

async fn ping(orders: mpsc::UnboundedSender<MasterFrame>) {
    let mut seq = 0;
    while !orders.is_closed() {
        seq += 1;
        say(&orders, Order::Ping(internal::Ping { seq, connected: Some(true) }));
        tokio::time::sleep(PING).await;
    }
}

async fn listen(
    reader: ReadHalf<TlsStream<TcpStream>>,
    orders: mpsc::UnboundedSender<MasterFrame>,
    tell: mpsc::UnboundedSender<Heard>,
) {
    let mut reader = FrameReader::new(reader, MAX_FRAME);
    while let Ok(Some(bytes)) = reader.next().await {
        let Ok(frame) = codec::decode_protobuf::<AgentFrame>(&bytes) else { return };
        for said in frame.messages.into_iter().filter_map(|message| message.kind) {
            answer(said, &orders, &tell);
        }
    }
}

fn answer(said: Said, orders: &mpsc::UnboundedSender<MasterFrame>, tell: &mpsc::UnboundedSender<Heard>) {
    let agent_id = || AGENT.into();
    match said {
        Said::Hello(_) => {
            let cluster_id = Some("bench".to_owned());
            say(
                orders,
                Order::Hello(internal::Hello {
                    version_min: 1,
                    version_max: 1,
                    cluster_id,
                    ..Default::default()
                }),
            );
        }
        Said::Register(register) => {
            say(
                orders,
                if register.agent_id.is_none() {
                    Order::Registered(internal::Registered { agent_id: agent_id(), ..Default::default() })
                } else {
                    Order::Reregistered(internal::Reregistered { agent_id: agent_id(), ..Default::default() })
                },
            );
            let _nobody_waits = tell.send(Heard::Registered);
        }
        Said::StatusUpdate(update) => {
            acknowledge(&update.status, orders);
            let TaskStatus { task_id, message, .. } = &update.status;
            let _nobody_waits = tell.send(Heard::Status {
                task: task_id.value.clone(),
                state: update.status.state(),
                message: message.clone().unwrap_or_default(),
                at: SystemTime::now(),
            });
        }
        _ => {}
    }
}

fn acknowledge(status: &TaskStatus, orders: &mpsc::UnboundedSender<MasterFrame>) {
    let Some(uuid) = status.uuid.clone() else { return };
    let task_id = status.task_id.clone();
    say(
        orders,
        Order::AcknowledgeStatus(internal::AcknowledgeStatus {
            framework_id: FRAMEWORK.into(),
            task_id,
            uuid,
        }),
    );
}

/// Whether a state is a task's last.
pub fn terminal(state: TaskState) -> bool {
    use TaskState::{
        TaskDropped, TaskError, TaskFailed, TaskFinished, TaskGone, TaskGoneByOperator, TaskKilled, TaskLost,
    };
    matches!(
        state,
        TaskDropped
            | TaskError
            | TaskFailed
            | TaskFinished
            | TaskGone
            | TaskGoneByOperator
            | TaskKilled
            | TaskLost
    )
}

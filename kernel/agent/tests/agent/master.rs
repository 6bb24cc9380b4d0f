//! A master that does what the test says: real TLS, real frames, no opinions.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plenum_api::codec;
use plenum_api::internal::{
    self, AgentFrame, MasterFrame, MasterMessage, Register, agent_message::Kind as Said,
    master_message::Kind as Order,
};
use plenum_api::mesos::{CommandInfo, FrameworkInfo, Resource, TaskInfo, TaskState, TaskStatus, value};
use plenum_base::frames::{FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::tls::{ClientAuth, Identity};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Master {
    pub address: SocketAddr,
    heard: mpsc::UnboundedReceiver<Said>,
    orders: Arc<Mutex<Option<mpsc::UnboundedSender<MasterFrame>>>>,
    pub term: AtomicU64,
}

impl Master {
    pub async fn start(identity: &Identity) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[]).unwrap());
        let (tell, heard) = mpsc::unbounded_channel();
        let orders: Arc<Mutex<Option<mpsc::UnboundedSender<MasterFrame>>>> = Arc::default();
        let current = orders.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (send, mut queue) = mpsc::unbounded_channel::<MasterFrame>();
                *current.lock().unwrap() = Some(send);
                let (reader, writer) = tokio::io::split(stream);
                let mut writer = FrameWriter::new(writer, MAX_FRAME);
                tokio::spawn(async move {
                    while let Some(frame) = queue.recv().await {
                        let mut bytes = Vec::new();
                        codec::encode_protobuf_into(&frame, &mut bytes);
                        if writer.send(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
                let tell = tell.clone();
                tokio::spawn(async move {
                    let mut reader = FrameReader::new(reader, MAX_FRAME);
                    while let Ok(Some(bytes)) = reader.next().await {
                        let frame: AgentFrame = codec::decode_protobuf(&bytes).unwrap();
                        for message in frame.messages {
                            let _ = tell.send(message.kind.unwrap());
                        }
                    }
                });
            }
        });
        Self { address, heard, orders, term: AtomicU64::new(1) }
    }

    pub fn order(&self, kind: Order) {
        let term = self.term.load(Ordering::Relaxed);
        let frame = MasterFrame { term, messages: vec![MasterMessage { kind: Some(kind) }] };
        self.orders.lock().unwrap().as_ref().unwrap().send(frame).unwrap();
    }

    pub async fn hear(&mut self) -> Said {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("the agent says nothing").unwrap()
    }

    /// Greets an agent and registers it; gives what it registered with.
    pub async fn register(&mut self) -> Register {
        loop {
            match self.hear().await {
                Said::Hello(hello) => {
                    assert!(hello.version_min <= 1);
                    let cluster_id = Some("c".to_owned());
                    let hello =
                        internal::Hello { version_min: 1, version_max: 1, cluster_id, ..Default::default() };
                    self.order(Order::Hello(hello));
                }
                Said::Register(register) => {
                    let agent_id = "S1".into();
                    if register.agent_id.is_none() {
                        self.order(Order::Registered(internal::Registered {
                            agent_id,
                            ..Default::default()
                        }));
                    } else {
                        let again = internal::Reregistered { agent_id, ..Default::default() };
                        self.order(Order::Reregistered(again));
                    }
                    return register;
                }
                // Left over from a connection before.
                _ => {}
            }
        }
    }

    /// The next status of a task; repeated ones (same id as `after`) are skipped.
    pub async fn status(&mut self, task: &str, after: Option<&TaskStatus>) -> TaskStatus {
        loop {
            if let Said::StatusUpdate(update) = self.hear().await
                && update.status.task_id.value == task
                && after.is_none_or(|after| after.uuid != update.status.uuid)
            {
                return update.status;
            }
        }
    }

    pub fn acknowledge(&self, status: &TaskStatus) {
        self.order(Order::AcknowledgeStatus(internal::AcknowledgeStatus {
            framework_id: "F1".into(),
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone().unwrap(),
        }));
    }

    /// Takes and acknowledges the next status.
    pub async fn expect(&mut self, task: &str, state: TaskState) -> TaskStatus {
        let status = self.status(task, None).await;
        assert_eq!(status.state(), state, "{status:?}");
        self.acknowledge(&status);
        status
    }

    pub fn run(&self, task: TaskInfo) {
        let launch_id = bytes::Bytes::copy_from_slice(task.task_id.value.as_bytes());
        self.order(Order::RunTasks(internal::RunTasks {
            framework_info: FrameworkInfo {
                user: "root".to_owned(),
                name: "test".to_owned(),
                id: Some("F1".into()),
                ..Default::default()
            },
            tasks: vec![task],
            launch_id,
            ..Default::default()
        }));
    }

    pub fn kill(&self, task: &str, grace: Duration) {
        let nanoseconds = i64::try_from(grace.as_nanos()).unwrap();
        let grace_period = Some(plenum_api::mesos::DurationInfo { nanoseconds });
        self.order(Order::KillTask(internal::KillTask {
            framework_id: "F1".into(),
            task_id: task.into(),
            kill_policy: Some(plenum_api::mesos::KillPolicy { grace_period }),
        }));
    }
}

pub fn task(id: &str, command: &str) -> TaskInfo {
    let scalar = |name: &str, value: f64| {
        let mut resource = Resource { name: name.to_owned(), ..Default::default() };
        resource.set_type(value::Type::Scalar);
        resource.scalar = Some(value::Scalar { value });
        resource
    };
    TaskInfo {
        name: id.to_owned(),
        task_id: id.into(),
        agent_id: "S1".into(),
        command: Some(CommandInfo { value: Some(command.to_owned()), ..Default::default() }),
        resources: vec![scalar("cpus", 0.2), scalar("mem", 64.0)],
        ..Default::default()
    }
}

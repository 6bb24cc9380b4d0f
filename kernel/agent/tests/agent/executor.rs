//! A custom executor, played by the test: it speaks the executor API with the token from its container's environment.

use std::time::Duration;

use plenum_api::codec::{self, Encoding};
use plenum_api::executor::{Call, Event, call, event::Type as Told};
use plenum_api::internal::{self, agent_message::Kind as Said, master_message::Kind as Order};
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{CommandInfo, ExecutorInfo, TaskState, TaskStatus};
use plenum_api::recordio::Decoder;
use plenum_base::client::{Client, Credentials, Stream, full};

use crate::master::task;
use crate::world::{World, is_root};

struct Played {
    url: String,
    token: String,
    encoding: Encoding,
    stream: Option<Stream>,
    decoder: Decoder,
}

impl Played {
    fn call(kind: call::Type) -> Call {
        let mut call = Call { executor_id: "E1".into(), framework_id: "F1".into(), ..Default::default() };
        call.set_type(kind);
        call
    }

    async fn post(&mut self, call: &Call) -> u16 {
        let media = self.encoding.media_type();
        let reply = Client::plain()
            .unwrap()
            .post(&self.url)
            .header(http::header::CONTENT_TYPE, media)
            .header(http::header::ACCEPT, media)
            .credentials(&Credentials::Bearer(self.token.clone()))
            .body(full(codec::encode(self.encoding, call)))
            .send()
            .await
            .unwrap();
        let status = reply.status.as_u16();
        if status == 200 {
            assert_eq!(reply.headers[http::header::CONTENT_TYPE], media);
            self.stream = Some(reply.stream());
            self.decoder = Decoder::new(1 << 20);
        }
        status
    }

    async fn subscribe(&mut self) -> u16 {
        let mut call = Self::call(call::Type::Subscribe);
        call.subscribe = Some(Default::default());
        self.post(&call).await
    }

    async fn event(&mut self) -> Event {
        loop {
            if let Some(record) = self.decoder.next_record().unwrap() {
                return codec::decode(self.encoding, &record).unwrap();
            }
            let stream = self.stream.as_mut().unwrap();
            let chunk = stream.next_within(Duration::from_secs(20)).await.unwrap().expect("the stream ended");
            self.decoder.feed(&chunk);
        }
    }

    async fn update(&mut self, task: &str, state: TaskState, uuid: u8) -> u16 {
        let mut status = TaskStatus {
            task_id: task.into(),
            uuid: Some(bytes::Bytes::copy_from_slice(&[uuid; 16])),
            ..Default::default()
        };
        status.set_state(state);
        let mut call = Self::call(call::Type::Update);
        call.update = Some(call::Update { status });
        self.post(&call).await
    }
}

async fn environment(world: &World) -> String {
    for _ in 0..200 {
        let view = world.get_json("/state").await;
        if let Some(directory) = view["frameworks"][0]["executors"][0]["directory"].as_str() {
            let (status, body) = world.get(&format!("/files/download?path={directory}/ready")).await;
            if status == 200 {
                return String::from_utf8(body).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the executor does not start: {}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_serves_its_framework() {
    if !is_root() {
        return;
    }
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let mut world = World::new().await;
        world.master.register().await;
        let mut info = task("t1", "");
        info.command = None;
        let command = "env > env; mv env ready; exec sleep 600";
        info.executor = Some(ExecutorInfo {
            executor_id: "E1".into(),
            command: Some(CommandInfo { value: Some(command.to_owned()), ..Default::default() }),
            ..Default::default()
        });
        world.master.run(info);
        let env = environment(&world).await;
        let get = |name: &str| {
            let line = env.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap_or_else(|| panic!("{name} is missing in {env}")).to_owned()
        };
        assert_eq!(get("MESOS_EXECUTOR_ID"), "E1");
        let url = format!("http://{}/api/v1/executor", get("MESOS_AGENT_ENDPOINT"));
        let token = get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN");
        let mut played =
            Played { url, token: "wrong".to_owned(), encoding, stream: None, decoder: Decoder::new(1) };
        assert_eq!(played.subscribe().await, 401);
        played.token = token;
        assert_eq!(played.post(&Played::call(call::Type::Heartbeat)).await, 403);
        assert_eq!(played.subscribe().await, 200);
        let subscribed = played.event().await.subscribed.unwrap();
        assert_eq!(subscribed.executor_info.executor_id.value, "E1");
        assert_eq!(subscribed.framework_info.id.unwrap().value, "F1");
        assert_eq!(subscribed.agent_info.id.unwrap().value, "S1");
        assert_eq!(played.event().await.launch.unwrap().task.task_id.value, "t1");
        assert_eq!(played.update("t1", TaskState::TaskRunning, 1).await, 202);
        world.master.expect("t1", TaskState::TaskRunning).await;
        assert_eq!(played.event().await.acknowledged.unwrap().uuid.as_ref(), [1; 16]);
        let data = bytes::Bytes::from_static(b"ping");
        let message = internal::FrameworkMessage {
            framework_id: "F1".into(),
            executor_id: "E1".into(),
            data: data.clone(),
        };
        world.master.order(Order::FrameworkMessage(message));
        assert_eq!(played.event().await.message.unwrap().data, data);
        let mut call = Played::call(call::Type::Message);
        call.message = Some(call::Message { data: data.clone() });
        assert_eq!(played.post(&call).await, 202);
        loop {
            if let Said::ExecutorMessage(message) = world.master.hear().await {
                assert_eq!(message.data, data);
                break;
            }
        }
        // The agent dies and comes back; the executor finds it again and its task goes on.
        world.crash();
        world.start();
        let register = world.master.register().await;
        assert_eq!(register.executors.len(), 1);
        world.up().await;
        assert_eq!(played.subscribe().await, 200);
        assert_eq!(played.event().await.r#type(), Told::Subscribed);
        world.master.kill("t1", Duration::from_secs(3));
        assert_eq!(played.event().await.kill.unwrap().task_id.value, "t1");
        assert_eq!(played.update("t1", TaskState::TaskKilled, 2).await, 202);
        // The acknowledgement of RUNNING may not have been on the disk: then it is said again, and only that.
        loop {
            let status = world.master.status("t1", None).await;
            world.master.acknowledge(&status);
            if status.state() == TaskState::TaskKilled {
                break;
            }
            assert_eq!(status.state(), TaskState::TaskRunning);
        }
        assert_eq!(played.event().await.r#type(), Told::Acknowledged);
        // Killed from outside.
        let mut second = task("t2", "");
        second.command = None;
        second.executor = Some(subscribed.executor_info);
        world.master.run(second);
        assert_eq!(played.event().await.r#type(), Told::Launch);
        let pid = world.get_json("/state").await["frameworks"][0]["executors"][0]["pid"].as_i64().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let failed = world.master.status("t2", None).await;
        assert_eq!((failed.state(), failed.reason()), (TaskState::TaskFailed, Reason::ExecutorTerminated));
    }
}

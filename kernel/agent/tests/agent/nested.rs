//! Commands inside running containers, by HTTP: sessions, input, output, ends, and clients that behave badly.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use plenum_api::agent::{ProcessIo, process_io};
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::TaskState;
use plenum_api::recordio::{self, Decoder};
use plenum_base::client::{Client, Reply, Stream, full};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::master::task;
use crate::world::{World, is_root};

const WAIT: Duration = Duration::from_secs(20);
const FAR: Duration = Duration::from_secs(600);

/// A world with one task that runs, and the task's container.
pub(crate) async fn with_task(command: &str) -> (World, String) {
    let mut world = World::new().await;
    world.master.register().await;
    world.master.run(task("t", command));
    let running = world.master.expect("t", TaskState::TaskRunning).await;
    let container = running.container_status.unwrap().container_id.unwrap().value;
    (world, container)
}

pub(crate) fn id(parent: &str, value: &str) -> Value {
    json!({"value": value, "parent": {"value": parent}})
}

pub(crate) async fn call(world: &World, call: &Value) -> (u16, String) {
    let media = http::HeaderValue::from_static("application/json");
    let request = Client::plain().unwrap().post(&world.url("/api/v1")).deadline(FAR);
    let reply = request.header(http::header::CONTENT_TYPE, media.to_str().unwrap());
    let reply = reply.body(full(call.to_string())).send().await.unwrap();
    let status = reply.status.as_u16();
    (status, String::from_utf8_lossy(&reply.bytes().await.unwrap()).into_owned())
}

async fn wait(world: &World, id: &Value) -> Value {
    let asked = json!({"type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {"container_id": id}});
    let (status, body) = tokio::time::timeout(WAIT, call(world, &asked)).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["wait_nested_container"].take()
}

pub(crate) fn shell(script: &str) -> Value {
    json!({"shell": true, "value": script})
}

async fn open_as(
    world: &World,
    id: &Value,
    command: &Value,
    container: Option<Value>,
    inner: Encoding,
) -> Reply {
    let mut launch = json!({"container_id": id, "command": command});
    if let Some(container) = container {
        launch["container"] = container;
    }
    let asked = json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": launch});
    Client::plain()
        .unwrap()
        .post(&world.url("/api/v1"))
        .deadline(FAR)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/recordio")
        .header(http::HeaderName::from_static("message-accept"), inner.media_type())
        .body(full(asked.to_string()))
        .send()
        .await
        .unwrap()
}

/// A session's output.
pub(crate) struct Session {
    stream: Stream,
    decoder: Decoder,
    encoding: Encoding,
}

impl Session {
    pub(crate) async fn open(world: &World, id: &Value, script: &str) -> Self {
        Self::from(open_as(world, id, &shell(script), None, Encoding::Json).await, Encoding::Json).await
    }

    pub(crate) async fn from(reply: Reply, encoding: Encoding) -> Self {
        let status = reply.status.as_u16();
        if status != 200 {
            panic!("{status}: {:?}", reply.bytes().await);
        }
        assert_eq!(reply.headers["content-type"], "application/recordio");
        assert_eq!(reply.headers["message-content-type"], encoding.media_type());
        Self { stream: reply.stream(), decoder: Decoder::default(), encoding }
    }

    /// The next piece: whether it is of standard error, and the bytes.
    pub(crate) async fn next(&mut self) -> Option<(bool, Bytes)> {
        loop {
            if let Some(record) = self.decoder.next_record().unwrap() {
                let said: ProcessIo = codec::decode(self.encoding, &record).unwrap();
                assert_eq!(said.r#type(), process_io::Type::Data);
                let data = said.data.unwrap();
                let error = data.r#type() == process_io::data::Type::Stderr;
                return Some((error, data.data.unwrap()));
            }
            match self.stream.next_within(WAIT).await.unwrap() {
                Some(piece) => self.decoder.feed(&piece),
                None => return None,
            }
        }
    }

    /// All that comes: standard output and standard error.
    pub(crate) async fn all(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some((error, bytes)) = self.next().await {
            if error { err.extend_from_slice(&bytes) } else { out.extend_from_slice(&bytes) }
        }
        (out, err)
    }
}

/// Somebody's end of an input: records to be sent, and what the agent says in the end.
pub(crate) struct Attached {
    records: Option<mpsc::Sender<Bytes>>,
    answer: tokio::task::JoinHandle<(u16, String)>,
}

impl Attached {
    pub(crate) async fn to(world: &World, id: &Value) -> Self {
        let (records, queue) = mpsc::channel::<Bytes>(4);
        let frames = tokio_stream(queue).map(|piece| Ok(http_body::Frame::data(piece)));
        let body = StreamBody::new(frames).boxed_unsync();
        let request = Client::plain().unwrap().post(&world.url("/api/v1")).deadline(FAR);
        let request = request
            .header(http::header::CONTENT_TYPE, "application/recordio")
            .header(http::HeaderName::from_static("message-content-type"), "application/json")
            .body(body);
        let answer = tokio::spawn(async move {
            let reply = request.send().await.unwrap();
            let status = reply.status.as_u16();
            (status, String::from_utf8_lossy(&reply.bytes().await.unwrap()).into_owned())
        });
        let this = Self { records: Some(records), answer };
        this.say(&json!({"type": "CONTAINER_ID", "container_id": id})).await;
        this
    }

    pub(crate) async fn raw(&self, bytes: impl Into<Bytes>) {
        // Who has answered already takes no more.
        let _ = self.records.as_ref().unwrap().send(bytes.into()).await;
    }

    pub(crate) async fn say(&self, input: &Value) {
        let call = json!({"type": "ATTACH_CONTAINER_INPUT", "attach_container_input": input}).to_string();
        self.raw(recordio::encode(call.as_bytes())).await;
    }

    pub(crate) async fn write(&self, bytes: &[u8]) {
        use base64::Engine;
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        let io = json!({"type": "DATA", "data": {"type": "STDIN", "data": data}});
        self.say(&json!({"type": "PROCESS_IO", "process_io": io})).await;
    }

    pub(crate) async fn resize(&self, rows: u32, columns: u32) {
        let window = json!({"window_size": {"rows": rows, "columns": columns}});
        let io = json!({"type": "CONTROL", "control": {"type": "TTY_INFO", "tty_info": window}});
        self.say(&json!({"type": "PROCESS_IO", "process_io": io})).await;
    }

    /// Ends the body and gives the answer.
    pub(crate) async fn end(mut self) -> (u16, String) {
        self.records.take();
        tokio::time::timeout(WAIT, self.answer).await.unwrap().unwrap()
    }
}

fn tokio_stream(queue: mpsc::Receiver<Bytes>) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    futures_util::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|one| (one, queue)) })
}

/// Pages of the agent process in memory, in MiB.
fn resident(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_says_all_and_its_end_is_kept() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("export X=1; sleep 600").await;
    for (name, encoding) in [("json", Encoding::Json), ("protobuf", Encoding::Protobuf)] {
        let one = id(&parent, name);
        let script = "echo out $MESOS_TASK_ID; echo err >&2; exit 3";
        let reply = open_as(&world, &one, &shell(script), None, encoding).await;
        let (out, err) = Session::from(reply, encoding).await.all().await;
        assert_eq!((out.as_slice(), err.as_slice()), (b"out t\n".as_slice(), b"err\n".as_slice()));
        for _ in 0..2 {
            assert_eq!(wait(&world, &one).await["exit_status"], 3 << 8);
        }
        let again = open_as(&world, &one, &shell("true"), None, encoding).await;
        assert_eq!(again.status.as_u16(), 202, "the id was used");
        let remove =
            json!({"type": "REMOVE_NESTED_CONTAINER", "remove_nested_container": {"container_id": one}});
        assert_eq!(call(&world, &remove).await.0, 200);
        let gone = json!({"type": "WAIT_CONTAINER", "wait_container": {"container_id": one}});
        let (status, words) = call(&world, &gone).await;
        assert_eq!((status, words), (404, format!("Container {parent}.{name} cannot be found")));
    }
    // Its program, its arguments.
    let argv = json!({"shell": false, "value": "/bin/echo", "arguments": ["echo", "a b", "$HOME"]});
    let reply = open_as(&world, &id(&parent, "argv"), &argv, None, Encoding::Json).await;
    assert_eq!(Session::from(reply, Encoding::Json).await.all().await.0, b"a b $HOME\n");
    let missing = json!({"shell": false, "value": "/no/such/program"});
    let reply = open_as(&world, &id(&parent, "no"), &missing, None, Encoding::Json).await;
    assert_eq!(reply.status.as_u16(), 400);
    assert!(String::from_utf8_lossy(&reply.bytes().await.unwrap()).contains("No such file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_flows_to_a_command_and_back_in_little_memory() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("sleep 600").await;
    let one = id(&parent, "cat");
    let mut session = Session::open(&world, &one, "cat; echo end >&2").await;
    // As real clients do: a first request that only says whose input it is, then the one that stays.
    assert_eq!(Attached::to(&world, &one).await.end().await.0, 200);
    let input = Attached::to(&world, &one).await;
    input.write(b"hello").await;
    assert_eq!(session.next().await.unwrap(), (false, Bytes::from_static(b"hello")));
    let second = Attached::to(&world, &one).await.end().await;
    assert_eq!(second, (409, "Multiple input connections are not allowed".to_owned()));
    input
        .say(&json!({"type": "PROCESS_IO", "process_io": {"type": "CONTROL", "control":
        {"type": "HEARTBEAT", "heartbeat": {"interval": {"nanoseconds": 30_000_000_000_u64}}}}}))
        .await;
    let before = resident(&world);
    let piece: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
    const PIECES: usize = 1024;
    let sent = piece.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..PIECES {
            input.write(&sent).await;
        }
        input.write(b"").await;
        input
    });
    let (out, err) = session.all().await;
    assert_eq!(out.len(), PIECES * piece.len());
    assert!(out.chunks(piece.len()).all(|chunk| chunk == piece), "it came back otherwise");
    assert_eq!(err, b"end\n");
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 32, "64 MiB through a session left {grown} MiB");
    assert_eq!(writer.await.unwrap().end().await.0, 200);
    assert_eq!(wait(&world, &one).await["exit_status"], 0);
    // To one that has ended there is nothing to say, and that is no error.
    let late = Attached::to(&world, &one).await;
    late.write(b"too late").await;
    assert_eq!(late.end().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_or_does_not_read_harms_nobody() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("sleep 600").await;
    let gone = id(&parent, "gone");
    let mut session = Session::open(&world, &gone, "echo $$; exec sleep 600").await;
    session.next().await.unwrap();
    drop(session);
    assert_eq!(wait(&world, &gone).await["exit_status"], 9, "its connection ended, and so it did");
    // Cut in the middle of a record.
    let cut = id(&parent, "cut");
    let mut session = Session::open(&world, &cut, "cat; echo still here; sleep 600").await;
    let input = Attached::to(&world, &cut).await;
    input.raw("400\n{\"type\":").await;
    let (status, words) = input.end().await;
    assert_eq!((status, words.as_str()), (400, "the stream ended within a record"));
    let input = Attached::to(&world, &cut).await;
    input.write(b"a new connection").await;
    assert_eq!(session.next().await.unwrap().1, "a new connection");
    drop(session);
    let before = resident(&world);
    let slow = id(&parent, "slow");
    let _unread = open_as(&world, &slow, &shell("exec cat /dev/zero"), None, Encoding::Json).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 24, "what nobody reads takes {grown} MiB");
    assert_eq!(world.get("/health").await.0, 200);
    let kill = json!({"type": "KILL_NESTED_CONTAINER", "kill_nested_container": {"container_id": slow}});
    assert_eq!(call(&world, &kill).await.0, 200);
    assert_eq!(wait(&world, &slow).await["exit_status"], 9);
    let (status, words) = call(&world, &kill).await;
    assert_eq!(status, 404, "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_hears_its_size() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("sleep 600").await;
    let one = id(&parent, "tty");
    let tty = json!({"type": "MESOS", "tty_info": {"window_size": {"rows": 24, "columns": 80}}});
    let script = "stty -echo; stty size; read go; stty size; test -t 0 && test -t 1 && exit 5";
    let reply = open_as(&world, &one, &shell(script), Some(tty), Encoding::Json).await;
    let mut session = Session::from(reply, Encoding::Json).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"24 80\r\n") {
        seen.extend_from_slice(&session.next().await.expect("the first size").1);
    }
    let input = Attached::to(&world, &one).await;
    input.resize(40, 132).await;
    input.write(b"go\n").await;
    assert_eq!(String::from_utf8(session.all().await.0).unwrap(), "40 132\r\n");
    assert_eq!(wait(&world, &one).await["exit_status"], 5 << 8);
    assert_eq!(input.end().await.0, 200);
    // Without a terminal there is no size.
    let plain = id(&parent, "plain");
    let _session = Session::open(&world, &plain, "sleep 600").await;
    let input = Attached::to(&world, &plain).await;
    input.resize(1, 2).await;
    let (status, words) = input.end().await;
    assert!(status == 400 && words.starts_with("Unable to set the window size"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_a_session_writes_into_the_sandbox_and_is_listed() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("echo $PWD > where; sleep 600").await;
    let one = id(&parent, "aside");
    let script = "trap 'echo bye; exit 7' TERM; echo hello; echo oops >&2; while :; do sleep 0.05; done";
    let launch = json!({"type": "LAUNCH_NESTED_CONTAINER",
        "launch_nested_container": {"container_id": one, "command": shell(script)}});
    assert_eq!(call(&world, &launch).await, (200, String::new()));
    assert_eq!(call(&world, &launch).await.0, 202);
    let listen = json!({"type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": {"container_id": one}});
    let reply = Client::plain()
        .unwrap()
        .post(&world.url("/api/v1"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/recordio")
        .body(full(listen.to_string()))
        .send()
        .await
        .unwrap();
    let mut listener = Session::from(reply, Encoding::Json).await;
    let list = json!({"type": "GET_CONTAINERS", "get_containers": {"show_nested": true}});
    let (_, listed) = call(&world, &list).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let containers = listed["get_containers"]["containers"].as_array().unwrap();
    assert!(containers.iter().any(|container| container["container_id"] == one), "{listed}");
    assert_eq!(world.get_json("/containers").await.as_array().unwrap().len(), 1);
    let nested = world.get_json("/containers?show_nested=true").await;
    assert_eq!(nested[1]["container_id"], format!("{parent}.aside"));
    let running = json!({"type": "REMOVE_CONTAINER", "remove_container": {"container_id": one}});
    assert_eq!(call(&world, &running).await, (500, "Nested container has not terminated yet".to_owned()));
    // The trap stands once something was printed, which is in the file.
    let state = world.get_json("/state").await;
    let directory = state["frameworks"][0]["executors"][0]["directory"].as_str().unwrap().to_owned();
    let file = |name: &str| std::fs::read_to_string(format!("{directory}/containers/aside/{name}")).unwrap();
    for _ in 0..200 {
        if file("stderr") == "oops\n" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kill = json!({"type": "KILL_CONTAINER", "kill_container": {"container_id": one, "signal": 15}});
    assert_eq!(call(&world, &kill).await.0, 200);
    assert_eq!(wait(&world, &one).await["exit_status"], 7 << 8);
    assert!(listener.all().await.0.ends_with(b"bye\n"));
    assert_eq!(file("stdout"), "hello\nbye\n");
    assert_eq!(call(&world, &running).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_commands_end_with_their_container_and_with_the_agent() {
    if !is_root() {
        return;
    }
    let (mut world, parent) = with_task("sleep 600").await;
    let one = id(&parent, "one");
    let mut session = Session::open(&world, &one, "echo up; sleep 600").await;
    session.next().await.unwrap();
    let grandchild = json!({"value": "below", "parent": one});
    let mut below = Session::open(&world, &grandchild, "echo below; exit 2").await;
    assert_eq!(below.all().await.0, b"below\n");
    assert_eq!(wait(&world, &grandchild).await["exit_status"], 2 << 8);
    world.master.kill("t", Duration::from_millis(100));
    assert_eq!(session.next().await, None);
    assert_eq!(wait(&world, &one).await["exit_status"], 9);
    world.master.expect("t", TaskState::TaskKilled).await;
    let (status, words) = call(
        &world,
        &json!({"type": "LAUNCH_NESTED_CONTAINER", "launch_nested_container":
        {"container_id": id(&parent, "late"), "command": shell("true")}}),
    )
    .await;
    assert_eq!((status, words), (400, format!("Parent container {parent} does not exist")));
    // A restart of the agent.
    world.master.run(task("u", "sleep 600"));
    let running = world.master.expect("u", TaskState::TaskRunning).await;
    let parent = running.container_status.unwrap().container_id.unwrap().value;
    let one = id(&parent, "one");
    let marker = world.folder.path().join("marker");
    let script = format!("touch {0}; while sleep 0.05; do touch {0}; done", marker.display());
    let launch = json!({"type": "LAUNCH_NESTED_CONTAINER",
        "launch_nested_container": {"container_id": one, "command": shell(&script)}});
    assert_eq!(call(&world, &launch).await.0, 200);
    world.crash();
    world.start();
    world.up().await;
    let asked = json!({"type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {"container_id": one}});
    assert_eq!(call(&world, &asked).await.0, 404);
    let _ = std::fs::remove_file(&marker);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!marker.exists(), "it still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_make_no_sense_get_their_4xx() {
    if !is_root() {
        return;
    }
    let (world, parent) = with_task("sleep 600").await;
    let session = |id: Value, command: Value, container: Value| {
        let launch = json!({"container_id": id, "command": command, "container": container});
        json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": launch})
    };
    let mesos = json!({"type": "MESOS"});
    for (asked, want) in [
        (json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION"}), 400),
        (session(id("nobody", "a"), shell("true"), mesos.clone()), 400),
        (session(json!({"value": "a"}), shell("true"), mesos.clone()), 400),
        (session(id(&parent, "../../x"), shell("true"), mesos.clone()), 400),
        (session(id(&parent, "a"), json!({"shell": false}), mesos.clone()), 400),
        (session(id(&parent, "a"), shell("true"), json!({"type": "DOCKER"})), 400),
        (json!({"type": "ATTACH_CONTAINER_INPUT"}), 415),
        (
            json!({"type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": {"container_id": {"value": "x"}}}),
            404,
        ),
        (
            json!({"type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {"container_id": {"value": "x"}}}),
            400,
        ),
        (
            json!({"type": "KILL_CONTAINER", "kill_container": {"container_id": id(&parent, "x"), "signal": 99}}),
            400,
        ),
        (json!({"type": "KILL_CONTAINER", "kill_container": {"container_id": id(&parent, "x")}}), 404),
        (json!({"type": "LAUNCH_CONTAINER", "launch_container": {"container_id": {"value": "alone"}}}), 501),
    ] {
        let (status, words) = call(&world, &asked).await;
        assert_eq!(status, want, "{asked}: {words}");
    }
    let nobody = Attached::to(&world, &json!({"value": "nobody"})).await.end().await;
    assert_eq!(nobody.0, 404, "{}", nobody.1);
    let ended = Attached::to(&world, &id(&parent, "never")).await.end().await;
    assert_eq!(ended.0, 500, "{}", ended.1);
    // Rubbish where records should be.
    let one = id(&parent, "one");
    let _session = Session::open(&world, &one, "sleep 600").await;
    for rubbish in ["no number\n", "2\n[]", "99999999999999999999999\n", "5000000\n", "\u{0}\u{0}\u{0}\n"] {
        let input = Attached::to(&world, &one).await;
        input.raw(rubbish).await;
        assert_eq!(input.end().await.0, 400, "{rubbish:?}");
    }
    // More than one container may hold.
    let mut kept = Vec::new();
    loop {
        let name = format!("n{}", kept.len());
        let reply = open_as(&world, &id(&parent, &name), &shell("sleep 600"), None, Encoding::Json).await;
        if reply.status.as_u16() != 200 {
            assert_eq!(reply.status.as_u16(), 429);
            let words = reply.bytes().await.unwrap();
            assert!(String::from_utf8_lossy(&words).contains("32 commands run"), "{words:?}");
            break;
        }
        kept.push(reply);
        assert!(kept.len() < 100, "there is no end");
    }
    assert!(!world.log().contains("panicked"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_there_in_the_form_of_the_metrics_api() {
    if !is_root() {
        return;
    }
    let (world, container) = with_task("sleep 600").await;
    let base = "/system/v1/metrics/v0";
    assert_eq!(world.get_json(&format!("{base}/containers")).await, json!([container]));
    let told = world.get_json(&format!("{base}/containers/{container}")).await;
    let value = |told: &Value, name: &str| {
        let points = told["datapoints"].as_array().unwrap();
        points.iter().find(|point| point["name"] == name).map(|point| point["value"].as_f64().unwrap())
    };
    assert!(value(&told, "mem.total").unwrap() > 0.0, "{told}");
    assert_eq!(
        (&told["dimensions"]["task_id"], &told["dimensions"]["mesos_id"]),
        (&json!("t"), &json!("S1"))
    );
    assert_eq!(world.get(&format!("{base}/containers/{container}/app")).await, (204, Vec::new()));
    assert_eq!(world.get(&format!("{base}/containers/nobody")).await.0, 404);
    let node = world.get_json(&format!("{base}/node")).await;
    assert!(value(&node, "memory.total").unwrap() > value(&node, "memory.free").unwrap(), "{node}");
    assert_eq!(world.get(&format!("{base}/nothing")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_a_pods_containers_as_their_user() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let mut other = task("other", "sleep 600");
    other.command.as_mut().unwrap().user = Some("nobody".to_owned());
    world.master.order(crate::pods::group(vec![task("one", "echo mine > here; sleep 600"), other]));
    let mut containers = std::collections::BTreeMap::new();
    while containers.len() < 2 {
        let status = crate::pods::next(&mut world).await;
        if status.state() == TaskState::TaskRunning {
            let container = status.container_status.unwrap().container_id.unwrap();
            containers.insert(status.task_id.value, json!(container));
        }
    }
    let below = |task: &str, name: &str| json!({"value": name, "parent": containers[task]});
    let one = below("one", "s");
    let mut session =
        Session::open(&world, &one, "until cat here 2>/dev/null; do sleep 0.05; done; id -un").await;
    assert_eq!(session.all().await.0, b"mine\nroot\n");
    assert_eq!(wait(&world, &one).await["exit_status"], 0);
    let mut session = Session::open(&world, &below("other", "s"), "id -un").await;
    assert_eq!(session.all().await.0, b"nobody\n");
    for (user, status) in [("nobody", 200), ("root", 400)] {
        let command = json!({"shell": true, "value": "true", "user": user});
        let reply = open_as(&world, &below("other", user), &command, None, Encoding::Json).await;
        assert_eq!(reply.status.as_u16(), status, "{user}");
    }
    let pod = &containers["one"]["parent"];
    let own = json!({"value": "s", "parent": pod});
    let reply = open_as(&world, &own, &shell("true"), None, Encoding::Json).await;
    assert_eq!(reply.status.as_u16(), 400);
    let words = reply.bytes().await.unwrap();
    let words = String::from_utf8_lossy(&words);
    assert!(words.contains(containers["one"]["value"].as_str().unwrap()), "it names the containers: {words}");
    // A wait for a container of the pod itself, as a client does that was attached to it.
    let ended = tokio::join!(wait(&world, &containers["other"]), async {
        let asked = json!({"container_id": containers["other"], "signal": 15});
        let kill = json!({"type": "KILL_NESTED_CONTAINER", "kill_nested_container": asked});
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(call(&world, &kill).await.0, 200);
    });
    assert_eq!(ended.0["exit_status"], 15);
}

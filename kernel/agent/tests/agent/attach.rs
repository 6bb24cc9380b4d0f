//! A task's own terminal by HTTP: those who look, the one who types, and what becomes of both.

use plenum_api::codec::Encoding;
use plenum_api::mesos::{ContainerInfo, TaskState, TtyInfo, container_info, tty_info::WindowSize};
use plenum_base::client::{Client, full};
use serde_json::{Value, json};

use crate::master::task;
use crate::nested::{Attached, Session, call, id, with_task};
use crate::world::{World, is_root};

const SCRIPT: &str = "tty; stty size; trap 'echo hung up; exit 9' HUP; while read word; do echo got $word; stty size; done; exit 7";

/// A world with a task that has a terminal, and its container.
async fn with_terminal() -> (World, Value) {
    let mut world = World::new().await;
    world.master.register().await;
    let mut wanted = task("t", SCRIPT);
    let mut container = ContainerInfo::default();
    container.set_type(container_info::Type::Mesos);
    container.tty_info = Some(TtyInfo { window_size: Some(WindowSize { rows: 24, columns: 80 }) });
    wanted.container = Some(container);
    world.master.run(wanted);
    let running = world.master.expect("t", TaskState::TaskRunning).await;
    let container = running.container_status.unwrap().container_id.unwrap().value;
    (world, json!({"value": container}))
}

async fn listen(world: &World, id: &Value, encoding: Encoding) -> Session {
    let asked = json!({"type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": {"container_id": id}});
    let request = Client::plain().unwrap().post(&world.url("/api/v1"));
    let reply = request
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/recordio")
        .header(http::HeaderName::from_static("message-accept"), encoding.media_type())
        .body(full(asked.to_string()))
        .send()
        .await
        .unwrap();
    Session::from(reply, encoding).await
}

/// Reads until all of `text` has come.
async fn hear(session: &mut Session, text: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(text) {
        let Some((_, bytes)) = session.next().await else { panic!("{heard:?} has no {text:?}") };
        heard.push_str(&String::from_utf8_lossy(&bytes));
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_own_terminal_is_attached_to() {
    if !is_root() {
        return;
    }
    let (mut world, container) = with_terminal().await;
    let mut first = listen(&world, &container, Encoding::Json).await;
    let mut second = listen(&world, &container, Encoding::Protobuf).await;
    let input = Attached::to(&world, &container).await;
    input.write(b"one\n").await;
    for listener in [&mut first, &mut second] {
        let heard = hear(listener, "got one\r\n24 80").await;
        assert!(heard.contains("one\r\n"), "{heard:?}");
    }
    let taken = Attached::to(&world, &container).await.end().await;
    assert_eq!(taken, (409, "Multiple input connections are not allowed".to_owned()));
    input.resize(50, 132).await;
    input.write(b"two\n").await;
    hear(&mut second, "50 132").await;
    // Who stops typing ends nothing, and another one may.
    drop(first);
    assert_eq!(input.end().await.0, 200);

    // Nor does another agent.
    world.crash();
    world.start();
    world.master.register().await;
    world.master.expect("t", TaskState::TaskRunning).await;
    let mut third = listen(&world, &container, Encoding::Json).await;
    let input = Attached::to(&world, &container).await;
    input.write(b"three\n").await;
    hear(&mut third, "got three").await;
    // A command beside it has a terminal of its own.
    let beside = id(container["value"].as_str().unwrap(), "beside");
    let (said, _) = Session::open(&world, &beside, "tty; echo done").await.all().await;
    assert!(String::from_utf8_lossy(&said).contains("not a tty"), "{said:?}");

    // Control-D is the end of what it reads; its end is everybody's.
    input.write(b"\x04").await;
    let asked = json!({"type": "WAIT_CONTAINER", "wait_container": {"container_id": container}});
    let ((status, ended), _) = tokio::join!(call(&world, &asked), third.all());
    let ended: Value = serde_json::from_str(&ended).unwrap();
    assert_eq!((status, &ended["wait_container"]["exit_status"]), (200, &json!(7 << 8)), "{ended}");
    assert_eq!(input.end().await.0, 200);
    let failed = world.master.expect("t", TaskState::TaskFailed).await;
    assert!(failed.message.unwrap().contains('7'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_terminal_is_only_listened_to() {
    if !is_root() {
        return;
    }
    let (world, container) = with_task("while sleep 0.2; do echo tick; echo tock >&2; done").await;
    let container = json!({"value": container});
    let mut output = listen(&world, &container, Encoding::Json).await;
    let mut told = [false; 2];
    while told != [true; 2] {
        let (error, bytes) = output.next().await.unwrap();
        let want = if error { "tock\n" } else { "tick\n" };
        assert!(String::from_utf8_lossy(&bytes).contains(want));
        told[usize::from(error)] = true;
    }
    let refused = Attached::to(&world, &container).await.end().await;
    assert_eq!(refused, (500, "I/O switchboard server was disabled for this container".to_owned()));
    let asked = json!({"type": "ATTACH_CONTAINER_OUTPUT",
        "attach_container_output": {"container_id": {"value": "nobody"}}});
    assert_eq!(call(&world, &asked).await.0, 404);
}

//! Commands that are talked to.

use super::harness::{World, eventually, skip, within, world};
use super::image::{base_layer, image_spec};
use plenum_containers::{Command, ExitStatus, Input, Open, Output, Runtime, RuntimeError, Session, Size};

fn open(shell: &str, terminal: Option<Size>) -> Open {
    Open { command: Command::Shell(shell.into()), env: Default::default(), terminal }
}

async fn sleeper(world: &World) {
    let mut spec = world.spec("a", "sleep 1000");
    spec.user = Some("65534".into());
    std::os::unix::fs::chown(world.sandbox("a"), Some(65534), None).unwrap();
    world.runtime.launch(spec).await.unwrap();
}

/// Everything that it writes until the end.
async fn drain(session: &mut Session) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = within(10, session.output.recv()).await {
        match piece {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[tokio::test]
async fn pipes_carry_everything_both_ways() {
    if skip() {
        return;
    }
    let world = world();
    sleeper(&world).await;
    let mut session =
        world.runtime.open("a", open("cat; echo err >/dev/stderr; exit 3", None)).await.unwrap();
    // More than pipes and queue hold: what is not read holds the command up, and nothing is lost.
    let text = "0123456789abcdef".repeat(128 * 1024);
    let reader = async {
        let mut input = std::mem::replace(&mut session.input, Input::closed());
        let sent = text.clone();
        let writer = tokio::spawn(async move {
            input.write(sent.as_bytes()).await.unwrap();
            input.close().await.unwrap();
            input.write(b"more").await.unwrap_err();
        });
        let read = drain(&mut session).await;
        writer.await.unwrap();
        read
    };
    let (out, err) = reader.await;
    assert!(out == text, "{} of {} bytes", out.len(), text.len());
    assert_eq!(err, "err\n");
    assert_eq!(within(5, session.exit).await.unwrap().unwrap(), ExitStatus::Code(3));

    let missing = Open { command: Command::Argv(vec!["/no/it".into()]), ..open("", None) };
    let error = world.runtime.open("a", missing).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Step { step, errno: 2, .. } if step == "execve"), "{error}");
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_and_an_end() {
    if skip() {
        return;
    }
    let world = world();
    sleeper(&world).await;
    let mut spec = image_spec(&world, "image", vec![base_layer(&world)], "sleep 1000");
    spec.user = Some("65534:65534".into());
    world.runtime.launch(spec).await.unwrap();
    for id in ["a", "image"] {
        let shell = "test -t 0 && test -t 1 && test -t 2 && stty size; read go; stty size; \
                     echo via > /dev/tty; cat; exit 4";
        let size = Size { rows: 40, columns: 111 };
        let mut session = world.runtime.open(id, open(shell, Some(size))).await.unwrap();
        session.input.resize(Size { rows: 10, columns: 20 }).unwrap();
        session.input.write(b"go\n").await.unwrap();
        let mut seen = String::new();
        while !seen.contains("via") {
            match within(10, session.output.recv()).await.unwrap_or_else(|| panic!("{id}: {seen}")) {
                Output::Stdout(bytes) => seen.push_str(std::str::from_utf8(&bytes).unwrap()),
                Output::Stderr(_) => panic!("a terminal has one direction"),
            }
        }
        session.input.close().await.unwrap();
        drain(&mut session).await;
        assert!(seen.contains("10 20\r\n"), "{id}: {seen}");
        assert_eq!(within(5, session.exit).await.unwrap().unwrap(), ExitStatus::Code(4), "{id}");
        world.runtime.destroy(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_is_dropped_is_killed() {
    if skip() {
        return;
    }
    let world = world();
    sleeper(&world).await;
    let mark = format!("998.{}", std::process::id());
    let session = world.runtime.open("a", open(&format!("exec sleep {mark}"), None)).await.unwrap();
    let running = || {
        let line = format!("sleep\0{mark}\0");
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|dir| std::fs::read(dir.path().join("cmdline")).is_ok_and(|text| text == line.as_bytes()))
            .count()
    };
    eventually("it runs", || (running() == 1).then_some(())).await;
    drop(session);
    eventually("it is killed", || (running() == 0).then_some(())).await;
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn signals_reach_the_command_and_what_it_leaves_ends_with_it() {
    if skip() {
        return;
    }
    let world = world();
    sleeper(&world).await;
    let shell = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let mut session = world.runtime.open("a", open(shell, None)).await.unwrap();
    assert_eq!(within(5, session.output.recv()).await, Some(Output::Stdout("ready\n".into())));
    assert!(session.hold.signal(libc::SIGUSR1));
    let (out, _) = drain(&mut session).await;
    assert_eq!(out, "got\n");
    assert_eq!(within(5, session.exit).await.unwrap().unwrap(), ExitStatus::Code(5));
    // Something in the background that holds the pipes open does not hold the session up.
    let mut session = world.runtime.open("a", open("sleep 600 & echo left", None)).await.unwrap();
    assert_eq!(drain(&mut session).await.0, "left\n");
    assert_eq!(within(5, session.exit).await.unwrap().unwrap(), ExitStatus::Code(0));
    world.runtime.destroy("a").await.unwrap();
}

//! A task's own terminal, and those who listen to it.

use super::harness::{eventually, skip, within, world};
use super::image::{base_layer, image_spec};
use plenum_containers::{ExitStatus, LogBudget, NativeRuntime, Output, Runtime, Size};
use tokio::sync::mpsc::Receiver;

/// Reads until all of `text` has come.
async fn hear(output: &mut Receiver<Output>, text: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(text) {
        match within(10, output.recv()).await {
            Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                heard.push_str(&String::from_utf8_lossy(&bytes))
            }
            None => panic!("{heard:?} has no {text:?}"),
        }
    }
    heard
}

#[tokio::test]
async fn a_task_has_a_terminal_that_outlives_agents() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec =
        world.spec("a", "tty; stty size; while read word; do echo got $word; stty size; done; exit 7");
    spec.terminal = Some(Size { rows: 24, columns: 80 });
    spec.logs = Some(LogBudget { file_bytes: 4096, files: 2 });
    world.runtime.launch(spec).await.unwrap();
    eventually("its size", || world.stdout("a").contains("24 80").then_some(())).await;
    assert!(world.stdout("a").starts_with("/dev/pts/"), "{}", world.stdout("a"));

    let (mut first, mut second) =
        (world.runtime.listen("a").await.unwrap(), world.runtime.listen("a").await.unwrap());
    let mut input = world.runtime.terminal("a").await.unwrap().expect("a terminal");
    input.write(b"one\n").await.unwrap();
    for listener in [&mut first, &mut second] {
        assert!(hear(listener, "got one").await.contains("one\r\n"), "what is typed is shown");
    }
    input.resize(Size { rows: 50, columns: 132 }).unwrap();
    drop((first, input));

    // Another agent.
    let again = NativeRuntime::new(world.config.clone()).unwrap();
    again.recover().await.unwrap();
    let mut input = again.terminal("a").await.unwrap().expect("a terminal");
    input.write(b"two\n").await.unwrap();
    hear(&mut second, "50 132").await;
    // More than a file holds is followed over its successors.
    let mut third = again.listen("a").await.unwrap();
    let long = "x".repeat(1500);
    for n in 0..6 {
        input.write(format!("{n}{long}\n").as_bytes()).await.unwrap();
        hear(&mut third, &format!("got {n}{long}")).await;
    }
    input.close().await.unwrap();
    let exit = within(10, again.wait("a")).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Code(7));
    while within(10, third.recv()).await.is_some() {}
    again.destroy("a").await.unwrap();
}

#[tokio::test]
async fn files_are_listened_to_as_well() {
    if skip() {
        return;
    }
    let world = world();
    let spec = world.spec("a", "echo before; sleep 0.5; echo out; echo err >&2; sleep 0.2; echo end");
    world.runtime.launch(spec).await.unwrap();
    eventually("a word", || world.stdout("a").contains("before").then_some(())).await;
    let mut output = world.runtime.listen("a").await.unwrap();
    assert!(world.runtime.terminal("a").await.unwrap().is_none());
    let mut heard = Vec::new();
    while let Some(piece) = within(10, output.recv()).await {
        heard.push(piece);
    }
    let text = |kind: fn(&Output) -> Option<&[u8]>| {
        String::from_utf8(heard.iter().filter_map(kind).flatten().copied().collect::<Vec<u8>>()).unwrap()
    };
    assert_eq!(text(|o| if let Output::Stdout(b) = o { Some(b) } else { None }), "out\nend\n");
    assert_eq!(text(|o| if let Output::Stderr(b) = o { Some(b) } else { None }), "err\n");
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn the_terminal_of_an_image_is_its_own() {
    if skip() {
        return;
    }
    let world = world();
    let layer = base_layer(&world);
    let mut spec = image_spec(
        &world,
        "a",
        vec![layer],
        "tty; ls /dev/pts; test -t 0 && test -t 1 && test -t 2 && echo all",
    );
    spec.terminal = Some(Size { rows: 0, columns: 0 });
    world.runtime.launch(spec).await.unwrap();
    within(10, world.runtime.wait("a")).await.unwrap();
    assert_eq!(world.stdout("a"), "/dev/pts/0\r\n0  ptmx\r\nall\r\n");
    world.runtime.destroy("a").await.unwrap();
}

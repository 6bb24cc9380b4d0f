//! Commands inside containers, and connections to them.

use crate::world::{PATIENCE, eventually, world};
use plenum_containers::session::{Open, Output, Session, Size};
use plenum_containers::{Command, Enter, ExitStatus, Probe, Probed, Runtime, RuntimeError};
use plenum_docker::{DockerNetwork, PortMapping};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn enter(text: &str, seconds: u64) -> Enter {
    let env = BTreeMap::from([("B".to_owned(), "inside".to_owned())]);
    Enter { command: Command::Shell(text.into()), env, deadline: Duration::from_secs(seconds) }
}

fn open(argv: &[&str], terminal: Option<Size>) -> Open {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    Open { command: Command::Argv(argv), env: BTreeMap::new(), terminal }
}

/// All output, standard error in brackets, and how it ended.
async fn finish(mut session: Session) -> (String, ExitStatus) {
    let mut all = String::new();
    let read = async {
        while let Some(piece) = session.output.recv().await {
            match piece {
                Output::Stdout(bytes) => all.push_str(&String::from_utf8_lossy(&bytes)),
                Output::Stderr(bytes) => all.push_str(&format!("[{}]", String::from_utf8_lossy(&bytes))),
            }
        }
        session.exit.await.unwrap().unwrap()
    };
    let status = tokio::time::timeout(PATIENCE, read).await.expect("the session does not end");
    (all, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_waited_for() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let mut spec = world.spec("a", "sleep 1000");
    spec.env.insert("A".into(), "task".into());
    runtime.start(spec).await.unwrap();
    for (text, code, output) in [
        ("echo $A $B; exit 3", 3, "task inside\n"),
        ("true", 0, ""),
        ("head -c 200000 /dev/zero | tr '\\0' x", 0, &*"x".repeat(64 * 1024)),
    ] {
        let entered = runtime.enter("a", enter(text, 30)).await.unwrap();
        assert_eq!((entered.status, entered.timed_out), (ExitStatus::Code(code), false), "{text}");
        assert!(entered.output == output.as_bytes(), "{text}");
    }
    let absent = Enter { command: Command::Argv(vec!["/absent".into()]), ..enter("", 30) };
    let entered = runtime.enter("a", absent).await.unwrap();
    assert!(matches!(entered.status, ExitStatus::Code(126 | 127)), "{entered:?}");
    // What does not end is killed, with what it started.
    let began = Instant::now();
    let entered = runtime.enter("a", enter("echo up; sleep 977 & sleep 978", 2)).await.unwrap();
    assert!(entered.timed_out && entered.output == b"up\n" && began.elapsed() < Duration::from_secs(30));
    eventually("the command's end", async || {
        let list = runtime.enter("a", enter("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", 30)).await.unwrap();
        let list = String::from_utf8_lossy(&list.output).into_owned();
        (!list.contains("sleep 97")).then_some(())
    })
    .await;
    runtime.kill("a", 9, Duration::ZERO).await.unwrap();
    crate::world::end(&runtime, "a").await;
    assert!(matches!(runtime.enter("a", enter("true", 5)).await, Err(RuntimeError::Ended(_))));
    runtime.destroy("a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_talked_to() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    runtime.start(world.spec("a", "sleep 1000")).await.unwrap();
    // By pipes: the end of input ends it.
    let mut session =
        runtime.open("a", open(&["/bin/sh", "-c", "cat; echo err >&2; exit 3"], None)).await.unwrap();
    session.input.write(b"hello\n").await.unwrap();
    session.input.close().await.unwrap();
    assert_eq!(finish(session).await, ("hello\n[err\n]".into(), ExitStatus::Code(3)));
    // Much of it, both ways.
    let mut session = runtime.open("a", open(&["/bin/cat"], None)).await.unwrap();
    let mut input = std::mem::replace(&mut session.input, plenum_containers::Input::closed());
    let feeding = tokio::spawn(async move {
        for _ in 0..64 {
            input.write(&[b'x'; 32 * 1024]).await.unwrap();
        }
        input.close().await.unwrap();
    });
    let (all, status) = finish(session).await;
    feeding.await.unwrap();
    assert_eq!((all.len(), status), (2 << 20, ExitStatus::Code(0)));
    // By a terminal, whose size changes.
    let size = Size { rows: 11, columns: 22 };
    let text = "read a; stty size; read a; stty size; exit 5";
    let mut session = runtime.open("a", open(&["/bin/sh", "-c", text], Some(size))).await.unwrap();
    session.input.write(b"\n").await.unwrap();
    let mut seen = String::new();
    let read = async |session: &mut Session, seen: &mut String, want: &str| {
        while !seen.contains(want) {
            let piece = tokio::time::timeout(PATIENCE, session.output.recv()).await.expect(want);
            if let Some(Output::Stdout(bytes)) = piece {
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    };
    read(&mut session, &mut seen, "11 22").await;
    session.input.resize(Size { rows: 33, columns: 44 }).unwrap();
    // The size travels by another way than the line.
    tokio::time::sleep(Duration::from_millis(500)).await;
    session.input.write(b"\n").await.unwrap();
    read(&mut session, &mut seen, "33 44").await;
    assert_eq!(finish(session).await.1, ExitStatus::Code(5));
    // Every byte passes, also those that look like the engine's own framing.
    let text =
        "stty raw; printf '\\001\\000\\000\\000\\000\\000\\000\\377\\002abc'; sleep 0.3; printf '\\000end'";
    let session = runtime.open("a", open(&["/bin/sh", "-c", text], Some(size))).await.unwrap();
    let (all, status) = finish(session).await;
    assert_eq!((all.as_str(), status), ("\u{1}\0\0\0\0\0\0\u{fffd}\u{2}abc\0end", ExitStatus::Code(0)));
    // Signals, and the end of a session that is dropped.
    let session = runtime.open("a", open(&["/bin/sleep", "976"], None)).await.unwrap();
    eventually("a signal's effect", async || {
        (!session.hold.signal(15) || session.output.is_closed()).then_some(())
    })
    .await;
    let session = runtime.open("a", open(&["/bin/sleep", "975"], None)).await.unwrap();
    drop(session);
    eventually("the end of the dropped session", async || {
        let list = runtime.enter("a", enter("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", 30)).await.unwrap();
        let list = String::from_utf8_lossy(&list.output).into_owned();
        (!list.contains("sleep 975") && !list.contains("sleep 976")).then_some(())
    })
    .await;
    runtime.destroy("a").await.unwrap();
}

/// Listens until `want` has come.
async fn hear(output: &mut tokio::sync::mpsc::Receiver<Output>, want: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(want) {
        let piece = tokio::time::timeout(PATIENCE, output.recv()).await.expect(want);
        let Some(Output::Stdout(bytes) | Output::Stderr(bytes)) = piece else {
            panic!("{heard:?} has no {want:?}")
        };
        heard.push_str(&String::from_utf8_lossy(&bytes));
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_own_terminal_and_output() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let mut spec = world.spec("a", "while read word; do echo got $word; stty size; done; exit 7");
    spec.tty = true;
    runtime.start(spec).await.unwrap();
    let mut first = runtime.listen("a").await.unwrap();
    let mut second = runtime.listen("a").await.unwrap();
    let mut input = runtime.terminal("a").await.unwrap().expect("a terminal");
    input.write(b"one\n").await.unwrap();
    for listener in [&mut first, &mut second] {
        assert!(hear(listener, "got one").await.contains("one\r\n"), "what is typed is shown");
    }
    input.resize(Size { rows: 50, columns: 132 }).unwrap();
    // The size travels by another way than the line.
    tokio::time::sleep(Duration::from_millis(500)).await;
    input.write(b"two\n").await.unwrap();
    hear(&mut second, "50 132").await;
    // Who leaves ends nothing; another one goes on.
    drop((input, first));
    let mut input = runtime.terminal("a").await.unwrap().expect("a terminal");
    input.write(b"three\n").await.unwrap();
    hear(&mut second, "got three").await;
    input.close().await.unwrap();
    crate::world::end(&runtime, "a").await;
    while tokio::time::timeout(PATIENCE, second.recv()).await.expect("its end").is_some() {}
    runtime.destroy("a").await.unwrap();

    // Without a terminal there is nothing to type at, and both outputs are told apart.
    let words = "sleep 2; printf 'no line end'; echo err >&2; sleep 1000";
    runtime.start(world.spec("b", words)).await.unwrap();
    assert!(runtime.terminal("b").await.unwrap().is_none());
    let mut output = runtime.listen("b").await.unwrap();
    let mut pieces = Vec::new();
    while pieces.len() < 2 {
        pieces.push(tokio::time::timeout(PATIENCE, output.recv()).await.expect("a piece").expect("a piece"));
    }
    pieces.sort_by_key(|piece| matches!(piece, Output::Stderr(_)));
    let wanted = [Output::Stdout("no line end".into()), Output::Stderr("err\n".into())];
    assert_eq!(pieces, wanted);
    runtime.destroy("b").await.unwrap();
    assert!(matches!(runtime.listen("b").await, Err(RuntimeError::NotFound(_) | RuntimeError::Ended(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_port_mappings_and_probes() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let docker = world.client().await;
    let request = bollard::models::NetworkCreateRequest { name: "mine".into(), ..Default::default() };
    docker.create_network(request).await.unwrap();
    let serve = "mkdir /w; echo hello > /w/index.html; echo up; exec httpd -f -p 8080 -h /w";
    let networks = [
        ("bridge", DockerNetwork::Bridge, 18080),
        ("user", DockerNetwork::User("mine".into()), 18081),
        ("host", DockerNetwork::Host, 0),
        ("none", DockerNetwork::None, 0),
    ];
    for (id, network, host) in networks {
        let mut spec = world.spec(id, serve);
        spec.network = network;
        if host > 0 {
            spec.ports = vec![PortMapping { host, container: 8080, protocol: "tcp".into() }];
            spec.hostname = Some(format!("name-{id}"));
        }
        runtime.start(spec).await.unwrap();
        let to = "127.0.0.1:8080".parse().unwrap();
        let http = Probe::Http { to, path: "/index.html".into(), host: None, tls: false };
        eventually(id, async || {
            let seen = runtime.probe(id, http.clone(), Duration::from_secs(5)).await.unwrap();
            (seen == Probed::Status(200)).then_some(())
        })
        .await;
        let refused = Probe::Tcp { to: "127.0.0.1:9".parse().unwrap() };
        let seen = runtime.probe(id, refused, Duration::from_secs(5)).await.unwrap();
        assert!(matches!(seen, Probed::Failed(_)), "{seen:?}");
        if host > 0 {
            let name = runtime.enter(id, enter("cat /etc/hostname", 30)).await.unwrap();
            assert_eq!(name.output, format!("name-{id}\n").as_bytes());
            // From the machine, which here is the container on its network.
            let text = format!("echo | nc 127.0.0.1 {host} > /dev/null && echo open");
            let host_side = world.spec(&format!("ask-{id}"), &text);
            let name = host_side.id.clone();
            runtime.start(host_side).await.unwrap();
            crate::world::end(&runtime, &name).await;
            assert_eq!(world.read(&name, "stdout"), "open\n", "port {host} of the machine");
            runtime.destroy(&name).await.unwrap();
        }
        runtime.destroy(id).await.unwrap();
    }
    assert!(world.names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_isolation() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    std::fs::create_dir(world.at("host:path")).unwrap();
    std::fs::write(world.at("host:path/file"), "from the host\n").unwrap();
    let text =
        "cat /h/file; echo x > /h/new || echo read-only; echo y > /v/kept; id -u; cat /proc/self/status";
    let mut spec = world.spec("a", text);
    let volume = |source, target: &str, read_only| plenum_docker::DockerVolume {
        source,
        target: target.into(),
        read_only,
        propagation: None,
    };
    let named = |name: &str| plenum_docker::VolumeSource::Named {
        name: name.into(),
        driver: None,
        options: BTreeMap::new(),
    };
    let host = plenum_docker::VolumeSource::Path(world.at("host:path").into());
    spec.volumes = vec![volume(host, "/h", true), volume(named("plenum-kept"), "/v", false)];
    spec.capabilities = Some(vec!["NET_RAW".into()]);
    spec.parameters.push(("tmpfs".into(), "/v2:size=1m".into()));
    spec.parameters.push(("security-opt".into(), "no-new-privileges".into()));
    runtime.start(spec).await.unwrap();
    crate::world::end(&runtime, "a").await;
    let said = world.read("a", "stdout");
    assert!(said.starts_with("from the host\nread-only\n0\n"), "{said} {}", world.read("a", "stderr"));
    assert!(said.contains("NoNewPrivs:\t1") && said.contains("CapBnd:\t0000000000002000"), "{said}");
    runtime.destroy("a").await.unwrap();
    // A named volume outlives its container.
    let mut spec = world.spec("b", "cat /v/kept");
    spec.volumes = vec![volume(named("plenum-kept"), "/v", true)];
    runtime.start(spec).await.unwrap();
    crate::world::end(&runtime, "b").await;
    assert_eq!(world.read("b", "stdout"), "y\n");
    runtime.destroy("b").await.unwrap();
}

//! Containers that join what exists: a network by its file, process ids and IPC of another.

use super::harness::{World, eventually, skip, within, world};
use plenum_containers::{Command, ExitStatus, Network, Probe, Probed, Runtime, Share};
use std::path::PathBuf;
use std::time::Duration;

/// A network namespace held by a container that does nothing, as a file that can be joined.
async fn network(world: &World) -> (PathBuf, String) {
    let mut holder = world.spec("holder", "sleep 1000");
    holder.network = Network::Loopback;
    let launched = world.runtime.launch(holder).await.unwrap();
    let file = PathBuf::from(format!("/proc/{}/ns/net", launched.init_pid));
    let name = std::fs::read_link(&file).unwrap().to_str().unwrap().to_owned();
    (file, name)
}

#[tokio::test]
async fn a_network_is_joined() {
    if skip() {
        return;
    }
    let world = world();
    let (file, name) = network(&world).await;
    let listen = "readlink /proc/self/ns/net; echo up > ready; exec python3 -c \"import socket,time; \
                  s=socket.create_server(('127.0.0.1',8099)); open('open','w').write('1\\n'); time.sleep(100)\"";
    let mut spec = world.spec("a", listen);
    spec.network = Network::Join(file.clone());
    world.runtime.launch(spec).await.unwrap();
    world.file("a", "open").await;
    assert_eq!(world.stdout("a").trim(), name);
    let probe = || Probe::Tcp { to: "127.0.0.1:8099".parse().unwrap() };
    let probed = world.runtime.probe("a", probe(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(probed, Probed::Connected);
    let probed = world.runtime.probe("holder", probe(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(probed, Probed::Connected);
    let mut gone = world.spec("gone", "true");
    gone.network = Network::Join("/no/such/namespace".into());
    let error = world.runtime.launch(gone).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/namespace"), "{error}");
    for id in ["a", "holder"] {
        world.runtime.destroy(id).await.unwrap();
    }
}

fn with(id: &str) -> Share {
    Share { with: id.to_owned(), pids: true, ipc: true }
}

#[tokio::test]
async fn a_holder_keeps_what_others_share() {
    if skip() {
        return;
    }
    let world = world();
    let mut holder = world.spec("holder", "");
    holder.command = Command::Hold;
    let held = world.runtime.launch(holder).await.unwrap();
    let link = |ns: &str| std::fs::read_link(format!("/proc/{}/ns/{ns}", held.init_pid)).unwrap();
    let names = "readlink /proc/self/ns/pid /proc/self/ns/ipc; echo up > ready; sleep 1000";
    for (id, pids, ipc) in [("pids", true, false), ("ipc", false, true), ("both", true, true)] {
        let mut spec = world.spec(id, names);
        spec.share = Some(Share { with: "holder".into(), pids, ipc });
        world.runtime.launch(spec).await.unwrap();
        world.file(id, "ready").await;
        let said = world.stdout(id);
        let said: Vec<&str> = said.lines().collect();
        let same = |ns: &str, said: &str| link(ns).to_str().unwrap() == said;
        assert_eq!((same("pid", said[0]), same("ipc", said[1])), (pids, ipc), "{id}");
    }
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", held.pid)).unwrap();
    assert_eq!(comm, "plenum-hold\n");
    // It is ended like any other, and with it those that have its process ids.
    world.runtime.kill("holder", libc::SIGTERM, Duration::from_secs(5)).await.unwrap();
    let exit = within(10, world.runtime.wait("holder")).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(15));
    for id in ["pids", "both"] {
        within(10, world.runtime.wait(id)).await.unwrap();
    }
    for id in ["pids", "ipc", "both", "holder"] {
        world.runtime.destroy(id).await.unwrap();
    }
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn process_ids_are_shared() {
    if skip() {
        return;
    }
    let world = world();
    let first = world.runtime.launch(world.spec("first", "sleep 1000")).await.unwrap();
    let shell = "readlink /proc/self/ns/pid /proc/self/ns/ipc; cat /proc/1/comm; (sleep 999 & sleep 999 &); \
                 echo up > ready; sleep 1000";
    let mut second = world.spec("second", shell);
    second.share = Some(with("first"));
    let launched = world.runtime.launch(second).await.unwrap();
    world.file("second", "ready").await;
    let link = |ns: &str| {
        std::fs::read_link(format!("/proc/{}/ns/{ns}", first.init_pid)).unwrap().display().to_string()
    };
    assert_eq!(world.stdout("second"), format!("{}\n{}\nplenum-init\n", link("pid"), link("ipc")));
    // The second ends with all that it started; the first, whose ids they were, goes on.
    let inside = plenum_shim::proc::descendants(launched.init_pid);
    assert!(inside.len() >= 3, "{inside:?}");
    world.runtime.kill("second", libc::SIGKILL, Duration::ZERO).await.unwrap();
    let exit = within(10, world.runtime.wait("second")).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(9));
    eventually("nothing of it runs", || {
        inside.iter().all(|pid| plenum_shim::proc::stat(*pid).is_none()).then_some(())
    })
    .await;
    world.runtime.destroy("second").await.unwrap();
    assert!(plenum_shim::proc::stat(first.pid).is_some());

    // Without the first there is nothing to join.
    world.runtime.kill("first", libc::SIGKILL, Duration::ZERO).await.unwrap();
    within(10, world.runtime.wait("first")).await.unwrap();
    let mut late = world.spec("late", "true");
    late.share = Some(with("first"));
    assert_eq!(world.runtime.launch(late).await.unwrap_err().code(), "container.ended");
    world.runtime.destroy("first").await.unwrap();
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

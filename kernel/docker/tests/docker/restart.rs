//! Restarts of the agent: who is adopted, who is not.

use crate::world::{end, world};
use plenum_containers::{ExitReason, ExitStatus, RecoveredState, Runtime, RuntimeError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn running_containers_are_adopted_and_others_left_alone() {
    let Some(world) = world().await else { return };
    let (one, two) = (world.runtime().await, world.runtime_of(world.config("two")).await);
    let launched =
        one.start(world.spec("mine", "trap 'exit 4' TERM; while :; do sleep 0.1; done")).await.unwrap();
    two.start(world.spec("theirs", "sleep 1000")).await.unwrap();
    drop(one);
    let one = world.runtime().await;
    let found = one.recover().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].id.as_str(), &found[0].state), ("mine", &RecoveredState::Running));
    assert_eq!(found[0].launched.as_ref().unwrap().pid, launched.pid);
    assert!(one.recover().await.unwrap().is_empty(), "recovered twice");
    one.kill("mine", 15, Duration::from_secs(30)).await.unwrap();
    let exit = end(&one, "mine").await;
    let want = (ExitStatus::Code(4), ExitReason::Killed { escalated: false });
    assert_eq!((exit.status, exit.reason), want);
    one.destroy("mine").await.unwrap();
    two.destroy("theirs").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_records_the_labels_tell() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    runtime.start(world.spec("lost", "echo said; sleep 1000")).await.unwrap();
    drop(runtime);
    std::fs::remove_dir_all(world.at("run-one")).unwrap();
    // Somebody else's container of a name like ours stays as it is.
    let docker = world.client().await;
    let options = bollard::query_parameters::CreateContainerOptions {
        name: Some("mesos-alien".into()),
        ..Default::default()
    };
    let body = bollard::models::ContainerCreateBody {
        image: Some(crate::world::IMAGE.into()),
        cmd: Some(vec!["/bin/sh".into()]),
        ..Default::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    let runtime = world.runtime().await;
    let found = runtime.recover().await.unwrap();
    assert_eq!((found.len(), &found[0].state), (1, &RecoveredState::Running));
    let said = runtime.start(world.spec("alien", "true")).await.unwrap_err().to_string();
    assert!(said.contains("docker rm mesos-alien"), "{said}");
    assert!(matches!(runtime.destroy("alien").await, Err(RuntimeError::NotFound(_))));
    runtime.destroy("lost").await.unwrap();
    assert_eq!(world.read("lost", "stdout"), "said\n");
    assert_eq!(world.names().await, ["/mesos-alien"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_behind_the_agents_back_is_lost() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    runtime.start(world.spec("a", "sleep 1000")).await.unwrap();
    runtime.start(world.spec("b", "sleep 1000")).await.unwrap();
    let docker = world.client().await;
    let force = bollard::query_parameters::RemoveContainerOptions { force: true, ..Default::default() };
    docker.remove_container("mesos-a", Some(force.clone())).await.unwrap();
    // Whether its end is seen before it is gone is chance.
    let reason = end(&runtime, "a").await.reason;
    assert!(matches!(reason, ExitReason::Lost | ExitReason::Ended), "{reason:?}");
    drop(runtime);
    docker.remove_container("mesos-b", Some(force)).await.unwrap();
    let runtime = world.runtime().await;
    let states: Vec<_> = runtime.recover().await.unwrap().into_iter().map(|found| found.state).collect();
    assert_eq!(states, [RecoveredState::Lost, RecoveredState::Lost]);
    for id in ["a", "b"] {
        runtime.destroy(id).await.unwrap();
    }
}

/// An agent that is killed leaves one of these behind.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_launch_is_found_again() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    for id in ["started", "removing"] {
        runtime.start(world.spec(id, "echo up; sleep 1000")).await.unwrap();
    }
    drop(runtime);
    let record = |id: &str, more: &str| {
        let dir = world.at(&format!("run-one/{id}"));
        let sandbox = world.spec(id, "").sandbox;
        std::fs::create_dir_all(&dir).unwrap();
        let text =
            format!(r#"{{"id":"{id}","sandbox":{sandbox:?},"stdout":"stdout","stderr":"stderr"{more}}}"#);
        std::fs::write(format!("{dir}/record.json"), text).unwrap();
    };
    // Written down, and the engine never asked.
    record("intended", "");
    // Created and not started.
    record("created", "");
    let docker = world.client().await;
    let options = bollard::query_parameters::CreateContainerOptions {
        name: Some("mesos-created".into()),
        ..Default::default()
    };
    let body = plenum_docker::body::create(&world.spec("created", "true"), "one", 1 << 20).unwrap();
    docker.create_container(Some(options), body).await.unwrap();
    // Started, and its process not noted.
    record("started", r#","created":true"#);
    // To be removed, which did not happen.
    record("removing", r#","created":true,"doomed":true"#);
    // Not a record at all: cut off while it was written to a folder of an earlier form.
    std::fs::create_dir_all(world.at("run-one/broken")).unwrap();
    std::fs::write(world.at("run-one/broken/record.json"), "{").unwrap();

    let runtime = world.runtime().await;
    let found = runtime.recover().await.unwrap();
    let states: Vec<_> = found.iter().map(|found| (found.id.as_str(), found.state.clone())).collect();
    let (lost, running) = (RecoveredState::Lost, RecoveredState::Running);
    assert_eq!(states, [("created", lost.clone()), ("intended", lost), ("started", running)]);
    assert!(found[2].launched.as_ref().unwrap().pid > 1);
    for id in ["created", "intended", "started"] {
        runtime.destroy(id).await.unwrap();
    }
    assert!(world.names().await.is_empty());
    assert_eq!(world.read("started", "stdout"), "up\n");
}

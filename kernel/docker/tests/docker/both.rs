//! Two runtimes as one. The other one is a second agent's, which behaves like any runtime.

use crate::world::{end, world};
use plenum_containers::{Command, ContainerSpec, ExitStatus, Runtime, RuntimeError};
use plenum_docker::Both;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn each_call_finds_the_runtime_that_has_the_container() {
    let Some(world) = world().await else { return };
    let (docker, other) =
        (Arc::new(world.runtime().await), Arc::new(world.runtime_of(world.config("two")).await));
    let both = Both::new(other.clone(), docker.clone());
    docker.announce(world.spec("mine", "sleep 0.2; exit 1"));
    other.announce(world.spec("theirs", "sleep 1000"));
    let spec = |id: &str| ContainerSpec::new(id, "/tmp", Command::Shell("true".into()));
    both.launch(spec("mine")).await.unwrap();
    both.launch(spec("theirs")).await.unwrap();
    let said = both.launch(spec("nobodys")).await.unwrap_err().to_string();
    assert!(said.contains("not announced"), "{said}");
    assert!(docker.has("mine") && !docker.has("theirs"));
    assert_eq!(end(&both, "mine").await.status, ExitStatus::Code(1));
    assert!(both.usage("theirs").await.unwrap().memory_bytes.is_some());
    both.kill("theirs", 9, Duration::ZERO).await.unwrap();
    assert_eq!(end(&both, "theirs").await.status, ExitStatus::Code(137));
    for id in ["mine", "theirs"] {
        both.destroy(id).await.unwrap();
        assert!(matches!(both.wait(id).await, Err(RuntimeError::NotFound(_))));
    }
    assert!(world.names().await.is_empty());
    drop(both);
    // After a restart both are asked.
    for (runtime, id) in [(&docker, "a"), (&other, "b")] {
        runtime.start(world.spec(id, "sleep 1000")).await.unwrap();
    }
    drop((docker, other));
    let (docker, other) =
        (Arc::new(world.runtime().await), Arc::new(world.runtime_of(world.config("two")).await));
    let both = Both::new(other, docker);
    let found: Vec<_> = both.recover().await.unwrap().into_iter().map(|found| found.id).collect();
    assert_eq!(found, ["a", "b"]);
    for id in ["a", "b"] {
        both.destroy(id).await.unwrap();
    }
}

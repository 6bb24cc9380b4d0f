//! Images from a registry that wants credentials, in the engine's own network.

use crate::world::{World, end, eventually, world};
use futures_util::StreamExt;
use plenum_containers::{ExitStatus, Runtime};
use plenum_docker::ImageWish;
use std::fs;

/// `u` with the password `p?>?>w`, whose base64 has letters that the two alphabets write differently.
const LOGIN: &str = "u:$2b$05$GfuFZILTAyS8AyadAPqTQeXZRdZLzV/m7HPS9CAUQT5rA8Zm3kAcG\n";
const NAME: &str = "127.0.0.1:5001/team/app";

fn config(port: u16, auth: &str) -> String {
    let auth = if auth.is_empty() {
        String::new()
    } else {
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {auth}\n")
    };
    format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ROOT\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
}

/// Two registries over the same images: an open one to push to, a closed one to pull from.
fn start_registries(world: &mut World) -> bool {
    if !std::path::Path::new("/usr/bin/docker-registry").exists() {
        eprintln!("SKIPPED: docker-registry is not installed (Debian: docker-registry)");
        return false;
    }
    fs::write(world.at("htpasswd"), LOGIN).unwrap();
    for (name, port, auth) in [("open", 5000, String::new()), ("closed", 5001, world.at("htpasswd"))] {
        let file = world.at(&format!("{name}.yml"));
        fs::write(&file, config(port, &auth).replace("ROOT", &world.at("registry"))).unwrap();
        world.daemon("docker-registry", &["serve".into(), file]);
    }
    true
}

/// Puts an image with this text into the registry, and forgets it here.
async fn publish(world: &World, text: &str) {
    let docker = world.client().await;
    let open = "127.0.0.1:5000/team/app";
    world.import(&format!("{open}:v1"), &[("text", text)]).await;
    eventually("the push", async || {
        let options =
            bollard::query_parameters::PushImageOptions { tag: Some("v1".into()), ..Default::default() };
        let mut steps = std::pin::pin!(docker.push_image(open, Some(options), None));
        while let Some(step) = steps.next().await {
            step.ok().filter(|step| step.error_detail.is_none())?;
        }
        Some(())
    })
    .await;
    let options = bollard::query_parameters::RemoveImageOptions { force: true, ..Default::default() };
    docker.remove_image(&format!("{open}:v1"), Some(options), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_with_credentials_once_and_again_when_told() {
    let Some(mut world) = world().await else { return };
    if !start_registries(&mut world) {
        return;
    }
    publish(&world, "one\n").await;
    let mut config = world.config("one");
    config.images = Some(world.at("images.json").into());
    let runtime = world.runtime_of(config).await;
    let auth = |secret: &str| {
        use base64::Engine;
        let packed = base64::engine::general_purpose::STANDARD.encode(format!("u:{secret}"));
        Some(format!(r#"{{"auths":{{"127.0.0.1:5001":{{"auth":"{packed}"}}}}}}"#))
    };
    let good = auth("p?>?>w");
    let spec = |id: &str, force_pull: bool, credentials: Option<String>| {
        let mut spec = world.spec(id, "cat /text");
        spec.image = ImageWish { name: format!("{NAME}:v1"), force_pull, credentials };
        spec
    };
    for (id, credentials) in
        [("none", None), ("wrong", auth("wrong")), ("other", Some(r#"{"auths":{}}"#.into()))]
    {
        let said = runtime.start(spec(id, false, credentials)).await.unwrap_err().to_string();
        assert!(said.contains(NAME) && !said.contains("wrong"), "{said}");
    }
    let run = async |id: &str, force: bool, credentials: Option<String>, want: &str| {
        runtime.start(spec(id, force, credentials)).await.unwrap();
        assert_eq!(end(&runtime, id).await.status, ExitStatus::Code(0));
        assert_eq!(world.read(id, "stdout"), want, "{id}");
        assert_eq!(runtime.pulling(id), None);
        runtime.destroy(id).await.unwrap();
    };
    run("first", false, good.clone(), "one\n").await;
    publish(&world, "two\n").await;
    // What is there is not asked for again, with or without credentials, unless told.
    run("again", false, None, "one\n").await;
    run("forced", true, good.clone(), "two\n").await;
    // By digest.
    let docker = world.client().await;
    let found = docker.inspect_image(&format!("{NAME}:v1")).await.unwrap();
    let digest = found.repo_digests.unwrap().into_iter().find(|name| name.starts_with(NAME)).unwrap();
    let mut exact = spec("digest", true, good);
    exact.image.name = digest;
    runtime.start(exact).await.unwrap();
    end(&runtime, "digest").await;
    assert_eq!(world.read("digest", "stdout"), "two\n");
    let exists = async |name: &str| docker.inspect_image(name).await.is_ok();
    // What was pulled for tasks goes when nothing uses it, and nothing else does.
    let due = plenum_docker::Pressure { unused_for: std::time::Duration::ZERO, headroom: 0.0 };
    let removed = runtime.collect(due).await;
    assert!(removed.len() == 1 && removed[0].starts_with("sha256:"), "what lost its name: {removed:?}");
    assert!(exists(&format!("{NAME}:v1")).await, "a container has it, though it has ended");
    runtime.destroy("digest").await.unwrap();
    let later = plenum_docker::Pressure { unused_for: std::time::Duration::from_secs(3600), headroom: 1.0 };
    assert!(runtime.collect(later).await.is_empty(), "it was used just now, however full the disk is");
    assert_eq!(runtime.collect(due).await, [format!("{NAME}:v1")]);
    assert!(!exists(&format!("{NAME}:v1")).await && exists(crate::world::IMAGE).await);
    assert!(runtime.collect(due).await.is_empty());
    assert!(world.names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_stall_are_called_off_or_given_up() {
    let Some(world) = world().await else { return };
    // A registry that takes connections and never answers, where the engine can reach it.
    let network = fs::File::open(world.network()).unwrap();
    let silent = std::thread::spawn(move || {
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        std::net::TcpListener::bind("127.0.0.1:5002").unwrap()
    });
    let _silent = silent.join().unwrap();
    let mut config = world.config("one");
    config.pull_stall = std::time::Duration::from_secs(3);
    let runtime = std::sync::Arc::new(world.runtime_of(config).await);
    let mut spec = world.spec("stalls", "true");
    spec.image.name = "127.0.0.1:5002/never".into();
    let began = std::time::Instant::now();
    let said = runtime.start(spec.clone()).await.unwrap_err().to_string();
    assert!(said.contains("nothing came for 3 s"), "{said}");
    // Killed while it pulls.
    let launch = tokio::spawn({
        let (runtime, spec) = (runtime.clone(), spec.clone());
        async move { runtime.start(spec).await }
    });
    eventually("the launch", async || runtime.has("stalls").then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    runtime.kill("stalls", 15, std::time::Duration::from_secs(600)).await.unwrap();
    let said = launch.await.unwrap().unwrap_err().to_string();
    assert!(said.contains("called off"), "{said}");
    // Fetched before its launch, and given up.
    runtime.announce(spec);
    let fetch = tokio::time::timeout(std::time::Duration::from_millis(500), runtime.fetch("stalls"));
    assert!(fetch.await.is_err());
    assert_eq!(runtime.pulling("stalls"), None);
    let _gone = runtime.destroy("stalls").await;
    assert!(!runtime.has("stalls") && began.elapsed() < crate::world::PATIENCE);
    assert!(runtime.health().is_ready(), "a registry that stalls is no fault of the engine");
}

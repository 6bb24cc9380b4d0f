//! Tasks in user namespaces: an image from a registry of the test's own, a limit of two containers, a crash in between.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::{ContainerInfo, TaskInfo, TaskState, TaskStatus};
use plenum_images::Digest;
use serde_json::json;

use crate::master::task;
use crate::nested::{Session, id};
use crate::world::{World, is_root};

const FIRST: u32 = 0x6800_0000;
const EACH: u32 = 65_536;

/// What a shell needs but for `/usr`, and a file of user 1000.
fn layer(folder: &Path) -> Vec<u8> {
    let root = folder.join("layer");
    std::fs::create_dir_all(root.join("srv")).unwrap();
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    std::fs::write(root.join("srv/web"), "web\n").unwrap();
    chown(root.join("srv/web"), Some(1000), Some(1000)).unwrap();
    let mut tar = std::process::Command::new("tar");
    let output = tar.args(["-c", "--numeric-owner", "-C"]).arg(&root).arg(".").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A registry with one image; its name.
async fn registry(folder: &Path) -> String {
    let layer = layer(folder);
    let part = |kind: &str, bytes: &[u8]| {
        let media = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", &config), "layers": [part("layer.v1.tar", &layer)]});
    let manifest = manifest.to_string().into_bytes();
    let mut content = BTreeMap::new();
    content.insert(Digest::of(&manifest).to_string(), manifest.clone());
    content.insert("1".to_owned(), manifest);
    for bytes in [config, layer] {
        content.insert(Digest::of(&bytes).to_string(), bytes);
    }
    let content = Arc::new(content);
    let answer = move |request: Request| {
        let content = content.clone();
        async move { answer(&content, request.uri().path()) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    host
}

fn answer(content: &BTreeMap<String, Vec<u8>>, path: &str) -> Response {
    let name = path.rsplit('/').next().unwrap_or_default();
    let media = match path.contains("/manifests/") {
        true => "application/vnd.oci.image.manifest.v1+json",
        false => "application/octet-stream",
    };
    match content.get(name) {
        Some(bytes) => {
            let digest = Digest::of(bytes).to_string();
            ([("content-type", media), ("docker-content-digest", digest.as_str())], bytes.clone())
                .into_response()
        }
        None if path == "/v2/" => StatusCode::OK.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn with_image(id: &str, registry: &str, command: &str) -> TaskInfo {
    let container = json!({"type": "MESOS",
        "mesos": {"image": {"type": "DOCKER", "docker": {"name": format!("{registry}/test/image:1")}}},
        "volumes": [{"container_path": "/usr", "host_path": "/usr", "mode": "RO"},
            {"container_path": "data", "host_path": "data", "mode": "RW"}]});
    let container: ContainerInfo = codec::decode(Encoding::Json, container.to_string().as_bytes()).unwrap();
    TaskInfo { container: Some(container), ..task(id, command) }
}

/// Waits until a task has written a line in its sandbox's file `ready`.
async fn ready(world: &World, id: &str) -> std::path::PathBuf {
    let sandbox =
        world.folder.path().join("work/slaves/S1/frameworks/F1/executors").join(id).join("runs/latest");
    for _ in 0..400 {
        if std::fs::read_to_string(sandbox.join("ready")).is_ok_and(|text| text.ends_with('\n')) {
            return sandbox.canonicalize().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{id} is not ready: {:?}", std::fs::read_to_string(sandbox.join("stderr")));
}

/// The machine's users of the processes that sleep so long.
fn sleepers(seconds: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let ours = processes.filter(|path| {
        std::fs::read(path.join("cmdline")).is_ok_and(|line| line == format!("sleep\0{seconds}\0").as_bytes())
    });
    ours.map(|path| std::fs::metadata(path).unwrap().uid()).collect()
}

fn container(status: &TaskStatus) -> String {
    status.container_status.clone().unwrap().container_id.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_have_users_of_their_own_where_the_operator_says_so() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let mut world = World::with(true, |config| {
        config.images.insecure.insert(registry.clone());
        config.host_paths = vec!["/usr".into()];
        config.user_namespaces = plenum_agent::UsersConfig { enabled: true, first_id: FIRST, containers: 2 };
    })
    .await;
    world.master.register().await;
    // The seconds are this test's mark.
    let mark = |n: u32| format!("9{}{n}", std::process::id());
    let script = |n: u32| {
        format!(
            "id -u; stat -c %u:%g /srv/web data .; echo x > mine; echo x > data/given; chown 33 data/given; \
             tr -s ' ' < /proc/self/uid_map; echo up > ready; exec sleep {}",
            mark(n)
        )
    };
    let mut starts = Vec::new();
    let (mut parent, mut first) = (String::new(), None);
    for n in 0..2 {
        let name = format!("t{n}");
        world.master.run(with_image(&name, &registry, &script(n)));
        let running = world.master.expect(&name, TaskState::TaskRunning).await;
        parent = container(&running);
        first.get_or_insert(running);
        let sandbox = ready(&world, &name).await;
        let users = sleepers(&mark(n));
        let [start] = users[..] else { panic!("{users:?}") };
        assert!((start - FIRST).is_multiple_of(EACH) && (start - FIRST) / EACH < 2, "{start}");
        let want = format!("0\n1000:1000\n0:0\n0:0\n 0 {start} {EACH}\n");
        // Output passes the supervisor, which takes its time.
        let mut said = String::new();
        for _ in 0..100 {
            said = std::fs::read_to_string(sandbox.join("stdout")).unwrap();
            if said.len() >= want.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(said, want);
        for (file, owner) in [("mine", 0), ("data/given", 33), ("stdout", 0)] {
            assert_eq!(std::fs::metadata(sandbox.join(file)).unwrap().uid(), owner, "{file}");
        }
        starts.push(start);
        if n == 0 {
            // The next agent knows whose ids are taken.
            world.crash();
            world.start();
            world.master.register().await;
        }
    }
    assert_ne!(starts[0], starts[1]);

    let mut session =
        Session::open(&world, &id(&parent, "look"), "id -u; tr -s ' ' < /proc/self/uid_map").await;
    let (said, _) = session.all().await;
    assert_eq!(String::from_utf8(said).unwrap(), format!("0\n 0 {} {EACH}\n", starts[1]));

    world.master.run(with_image("late", &registry, "true"));
    let refused = world.master.expect("late", TaskState::TaskFailed).await;
    assert!(refused.message().contains("each of the 2 ranges of ids"), "{refused:?}");
    // Tasks on the machine's own files have none.
    world.master.run(task("plain", &format!("echo up > ready; exec sleep {}", mark(9))));
    world.master.expect("plain", TaskState::TaskRunning).await;
    ready(&world, "plain").await;
    assert_eq!(sleepers(&mark(9)), [0]);

    world.master.kill("t0", Duration::from_secs(1));
    // That it runs is said again first if the agent was killed before it had heard that we know.
    let mut killed = world.master.status("t0", None).await;
    world.master.acknowledge(&killed);
    if killed.uuid == first.and_then(|first| first.uuid) {
        killed = world.master.status("t0", Some(&killed)).await;
        world.master.acknowledge(&killed);
    }
    assert_eq!(killed.state(), TaskState::TaskKilled, "{killed:?}");
    // The range is free once nothing of the container is left, which is a moment after its end.
    for attempt in 0..50 {
        let name = format!("again{attempt}");
        world.master.run(with_image(&name, &registry, "id -u; exit 0"));
        let status = world.master.status(&name, None).await;
        world.master.acknowledge(&status);
        if status.state() == TaskState::TaskRunning {
            world.master.expect(&name, TaskState::TaskFinished).await;
            return;
        }
        assert!(status.message().contains("ranges"), "{status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no ids are given back: {}", world.log());
}

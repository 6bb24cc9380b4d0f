//! A volume of somebody's driver: mounted for a task, seen in it, given back when it ends, also past an agent that was killed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::{ContainerInfo, TaskInfo, TaskState};
use serde_json::{Value, json};

use crate::master::task;
use crate::world::{World, is_root};

/// A plugin whose volumes are in memory.
#[derive(Debug)]
struct Plugin {
    place: PathBuf,
    asked: Mutex<Vec<String>>,
}

impl Plugin {
    fn start(folder: &Path) -> Arc<Self> {
        std::fs::create_dir_all(folder.join("volume")).unwrap();
        let plugin = Arc::new(Self { place: folder.join("volume"), asked: Mutex::default() });
        let listener = tokio::net::UnixListener::bind(folder.join("memory.sock")).unwrap();
        let router = Router::new().fallback(serve).with_state(plugin.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        plugin
    }

    fn answer(&self, method: &str) -> Value {
        self.asked.lock().unwrap().push(method.to_owned());
        match method {
            "Get" => return json!({ "Volume": {}, "Err": "" }),
            "Mount" => {
                mount(Some("tmpfs"), &self.place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            }
            "Unmount" => umount2(&self.place, MntFlags::empty()).unwrap(),
            _ => return json!({ "Err": "what?" }),
        }
        json!({ "Mountpoint": self.place, "Err": "" })
    }

    fn mounted(&self) -> usize {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.contains(self.place.to_str().unwrap())).count()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        while umount2(&self.place, MntFlags::MNT_DETACH).is_ok() {}
    }
}

async fn serve(State(plugin): State<Arc<Plugin>>, uri: http::Uri) -> String {
    plugin.answer(uri.path().trim_start_matches("/VolumeDriver.")).to_string()
}

fn with_volume(id: &str, command: &str) -> TaskInfo {
    let volume = json!({"type": "MESOS", "volumes": [{"container_path": "data", "mode": "RW",
        "source": {"type": "DOCKER_VOLUME", "docker_volume": {"driver": "memory", "name": "v"}}}]});
    let container: ContainerInfo = codec::decode(Encoding::Json, volume.to_string().as_bytes()).unwrap();
    TaskInfo { container: Some(container), ..task(id, command) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drivers_volume_is_mounted_and_given_back_past_a_killed_agent() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(folder.path());
    let plugins = vec![folder.path().to_path_buf()];
    let change = move |config: &mut plenum_agent::Config| {
        (config.volume_drivers, config.volume_plugins) = (vec!["memory".to_owned()], plugins);
    };
    let mut world = World::with(true, change).await;
    world.master.register().await;
    world.master.run(with_volume("short", "echo kept > data/file && stat -f -c %T data"));
    world.master.expect("short", TaskState::TaskRunning).await;
    world.master.expect("short", TaskState::TaskFinished).await;
    until("it is given back", || plugin.mounted() == 0).await;
    assert_eq!(*plugin.asked.lock().unwrap(), ["Get", "Mount", "Unmount"]);

    world.master.run(with_volume("long", "echo up > data/up; exec sleep 600"));
    let running = world.master.expect("long", TaskState::TaskRunning).await;
    let file = folder.path().join("volume/up");
    until("it is written to", || file.exists()).await;
    world.crash();
    world.start();
    world.up().await;
    world.master.register().await;
    assert!(file.exists(), "what runs keeps its volume");
    world.crash();
    // It ends while nobody watches.
    let pid = running.container_status.unwrap().executor_pid.unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    world.start();
    world.up().await;
    world.master.register().await;
    loop {
        let status = world.master.status("long", None).await;
        world.master.acknowledge(&status);
        if status.state() == TaskState::TaskFailed {
            break;
        }
    }
    until("it is given back", || plugin.mounted() == 0).await;
    let left = std::fs::read_dir(world.folder.path().join("work/volume_drivers")).unwrap();
    assert_eq!(left.count(), 0);
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come to this: {what}");
}

//! Pods in real containers.

use plenum_api::internal::{self, agent_message::Kind as Said, master_message::Kind as Order};
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::linux_info::IpcMode;
use plenum_api::mesos::{
    ContainerInfo, ExecutorInfo, FrameworkInfo, LinuxInfo, TaskInfo, TaskState, TaskStatus, container_info,
};

use crate::master::task;
use crate::world::{World, is_root};

pub fn group(tasks: Vec<TaskInfo>) -> Order {
    group_with(tasks, None)
}

fn group_with(tasks: Vec<TaskInfo>, container: Option<ContainerInfo>) -> Order {
    let mut executor = ExecutorInfo { executor_id: "pod".into(), container, ..Default::default() };
    executor.set_type(ExecutorType::Default);
    Order::RunTasks(internal::RunTasks {
        framework_info: FrameworkInfo {
            user: "root".to_owned(),
            name: "test".to_owned(),
            id: Some("F1".into()),
            ..Default::default()
        },
        executor: Some(executor),
        tasks,
        is_group: Some(true),
        launch_id: bytes::Bytes::from_static(b"group"),
    })
}

/// The next status of whichever task, acknowledged.
pub async fn next(world: &mut World) -> TaskStatus {
    loop {
        if let Said::StatusUpdate(update) = world.master.hear().await {
            world.master.acknowledge(&update.status);
            return update.status;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_outlives_the_agent_and_falls_as_one() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let wait = "while [ ! -e go ]; do sleep 0.05; done; exit 3";
    world.master.order(group(vec![task("fails", wait), task("stays", "echo $PWD; exec sleep 600")]));
    let mut parents = std::collections::BTreeSet::new();
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let status = next(&mut world).await;
        heard.push((status.task_id.value.clone(), status.state()));
        let container = status.container_status.unwrap().container_id.unwrap();
        parents.insert(container.parent.expect("a pod's task is below the pod").value);
    }
    for id in ["fails", "stays"] {
        let states: Vec<TaskState> = heard.iter().filter(|one| one.0 == id).map(|one| one.1).collect();
        assert_eq!(states, [TaskState::TaskStarting, TaskState::TaskRunning], "{id}");
    }
    assert_eq!(parents.len(), 1, "one pod for both");
    let pod = parents.pop_first().unwrap();
    let state = world.get_json("/state").await;
    let executor = &state["frameworks"][0]["executors"][0];
    assert_eq!(
        (executor["type"].as_str(), executor["container"].as_str()),
        (Some("DEFAULT"), Some(pod.as_str()))
    );
    let directory = executor["directory"].as_str().unwrap().to_owned();
    let listed = world.get_json("/containers").await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "the pod stands for its tasks");
    assert!(listed[0]["statistics"]["processes"].as_u64().unwrap() >= 2, "{listed}");
    world.crash();
    world.start();
    world.up().await;
    world.master.register().await;
    std::fs::write(format!("{directory}/tasks/fails/go"), "").unwrap();
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < 2 {
        let status = next(&mut world).await;
        // What was acknowledged just before the crash may be said again.
        if status.state() != TaskState::TaskRunning {
            ends.insert(status.task_id.value.clone(), status);
        }
    }
    assert_eq!(ends["fails"].state(), TaskState::TaskFailed);
    assert_eq!(ends["fails"].message.as_deref(), Some("Command exited with status 3"));
    assert_eq!(ends["stays"].state(), TaskState::TaskKilled);
    let path = format!("{directory}/tasks/stays");
    let read = world.get_json(&format!("/files/read?path={path}/stdout&offset=0&length=999")).await;
    assert_eq!(read["data"], format!("{path}\n"));
}

fn linux(ipc: Option<IpcMode>, pids: bool, shm_size: Option<u32>) -> ContainerInfo {
    let mut info = ContainerInfo::default();
    info.set_type(container_info::Type::Mesos);
    let ipc_mode = ipc.map(|mode| mode as i32);
    info.linux_info =
        Some(LinuxInfo { share_pid_namespace: Some(pids), ipc_mode, shm_size, ..Default::default() });
    info
}

/// Waits for a file of a task's sandbox and reads it.
async fn said(directory: &str, task: &str, name: &str) -> String {
    let path = format!("{directory}/tasks/{task}/{name}");
    for _ in 0..400 {
        match std::fs::read_to_string(&path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => tokio::time::sleep(std::time::Duration::from_millis(25)).await,
        }
    }
    panic!("{path} is not there");
}

async fn running(world: &mut World, count: usize) {
    let mut up = std::collections::BTreeSet::new();
    while up.len() < count {
        let status = next(world).await;
        let early = matches!(status.state(), TaskState::TaskStarting | TaskState::TaskRunning);
        assert!(early, "{status:?}");
        if status.state() == TaskState::TaskRunning {
            up.insert(status.task_id.value.clone());
        }
    }
}

fn mounted_shm(world: &World) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{}/mounts", world.pid())).unwrap();
    table.lines().filter(|line| line.starts_with("shm ") && line.contains("/provisioner/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_tasks_share_processes_and_memory_where_they_ask() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let shares = linux(Some(IpcMode::ShareParent), true, None);
    let own = linux(Some(IpcMode::Private), false, Some(1));
    let of = |id: &str, command: &str, info: &ContainerInfo| TaskInfo {
        container: Some(info.clone()),
        ..task(id, command)
    };
    // One writes and waits for a signal of the other.
    let first = "echo kept > /dev/shm/note; trap 'echo called > heard; exit 0' USR1; echo $$ > /dev/shm/pid; while true; do sleep 0.1; done";
    let second = "while [ ! -s /dev/shm/pid ]; do sleep 0.1; done; cat /dev/shm/note > note; stat -fc %b /dev/shm > blocks; \
                  cat /proc/1/comm > one; while [ ! -e go ]; do sleep 0.1; done; kill -USR1 $(cat /dev/shm/pid); sleep 600";
    let apart = "ls /dev/shm | wc -l > files; ls -d /proc/[0-9]* | wc -l > processes; sleep 600";
    let pod = linux(Some(IpcMode::Private), false, Some(3));
    let tasks = vec![of("first", first, &shares), of("second", second, &shares), of("apart", apart, &own)];
    world.master.order(group_with(tasks, Some(pod)));
    running(&mut world, 3).await;
    let state = world.get_json("/state").await;
    let executor = &state["frameworks"][0]["executors"][0];
    let text = |name: &str| executor[name].as_str().unwrap().to_owned();
    let (directory, pod) = (text("directory"), text("container"));
    assert_eq!(said(&directory, "second", "note").await, "kept\n");
    assert_eq!(said(&directory, "second", "one").await, "plenum-init\n");
    assert_eq!(said(&directory, "second", "blocks").await.trim(), (3 * 256).to_string(), "3 MiB in pages");
    assert_eq!(said(&directory, "apart", "files").await.trim(), "0");
    let apart: u32 = said(&directory, "apart", "processes").await.trim().parse().unwrap();
    assert!(apart < 8, "{apart} processes are seen by one that shares none");
    assert_eq!(mounted_shm(&world), 1);

    // The pod's holder is found again by another agent.
    world.crash();
    world.start();
    world.up().await;
    world.master.register().await;
    running(&mut world, 3).await;
    std::fs::write(format!("{directory}/tasks/second/go"), "").unwrap();
    assert_eq!(said(&directory, "first", "heard").await, "called\n");
    let mut ends = std::collections::BTreeMap::new();
    while ends.is_empty() {
        let status = next(&mut world).await;
        if status.state() != TaskState::TaskRunning {
            ends.insert(status.task_id.value.clone(), status.state());
        }
    }
    assert_eq!(ends["first"], TaskState::TaskFinished);
    // Whoever holds the process ids is killed: both that are left are told, and nothing stays.
    let holders = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        (read("comm")? == "plenum-hold\n" && read("cgroup")?.contains(&pod)).then_some(pid)
    });
    let holders: Vec<i32> = holders.collect();
    assert_eq!(holders.len(), 1, "{holders:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(holders[0]), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    while ends.len() < 3 {
        let status = next(&mut world).await;
        if status.state() != TaskState::TaskRunning {
            ends.insert(status.task_id.value.clone(), status.state());
        }
    }
    assert!(ends["second"] != TaskState::TaskFinished, "{ends:?}");
    for _ in 0..200 {
        if mounted_shm(&world) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("the pod's shared memory is still mounted");
}

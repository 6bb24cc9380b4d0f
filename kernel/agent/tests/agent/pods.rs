//! Pods in real containers.

use plenum_api::internal::{self, agent_message::Kind as Said, master_message::Kind as Order};
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::{ExecutorInfo, FrameworkInfo, TaskInfo, TaskState, TaskStatus};

use crate::master::task;
use crate::world::{World, is_root};

pub fn group(tasks: Vec<TaskInfo>) -> Order {
    let mut executor = ExecutorInfo { executor_id: "pod".into(), ..Default::default() };
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

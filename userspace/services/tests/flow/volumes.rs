//! Apps with persistent volumes, by the operations that a master sees.

use plenum_api::mesos::offer::{Operation, operation::Type};
use plenum_api::mesos::{Resource, TaskInfo};
use serde_json::json;

use super::master::scalar;
use super::world::World;

fn kinds(operations: &[Operation]) -> Vec<Type> {
    operations.iter().map(Operation::r#type).collect()
}

/// What is kept of a reservation: whose it is.
fn instance(resource: &Resource) -> Option<&str> {
    let labels = resource.reservations.last()?.labels.as_ref()?;
    let label = |key: &str| labels.labels.iter().find(|l| l.key == key)?.value.as_deref();
    assert_eq!(label("marathon_framework_id"), Some("F"));
    label("marathon_task_id")
}

fn task(operations: &[Operation]) -> TaskInfo {
    let launch = operations.iter().find_map(|o| o.launch.as_ref()).expect("a launch");
    launch.task_infos[0].clone()
}

#[tokio::test]
async fn a_volume_is_made_used_again_and_destroyed() {
    let world = World::start().await;
    let body = json!({"id": "/shop/db", "cmd": "run", "role": "dev", "cpus": 1, "mem": 64, "disk": 8,
        "container": {"type": "MESOS", "volumes": [
            {"containerPath": "data", "mode": "RW", "persistent": {"size": 100}},
            {"containerPath": "logs", "mode": "RW", "persistent": {"size": 20}}]}});
    let (status, _, made) = world.send("POST", "/v2/apps", Some(&body)).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["upgradeStrategy"], json!({"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0}));
    let open = vec![scalar("cpus", 4.0), scalar("mem", 512.0), scalar("disk", 500.0)];
    world.master.offer_to("dev", open, true);
    let first = world.master.accepted(1).await;
    assert_eq!(kinds(&first), [Type::Reserve, Type::Create, Type::Launch]);
    let reserved = &first[0].reserve.as_ref().unwrap().resources;
    let named: Vec<&str> = reserved.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(named, ["cpus", "mem", "disk", "ports"]);
    let info = task(&first);
    let id = info.task_id.value.clone();
    let owner = id.strip_suffix("._app.1").unwrap();
    assert!(reserved.iter().all(|r| instance(r) == Some(owner) && r.reservations[0].role() == "dev"));
    assert_eq!(reserved[2].scalar.unwrap().value, 128.0, "volumes and sandbox");
    let volumes = &first[1].create.as_ref().unwrap().volumes;
    let ids: Vec<&str> =
        volumes.iter().map(|v| v.disk.as_ref().unwrap().persistence.as_ref().unwrap().id.as_str()).collect();
    assert!(ids[0].starts_with("shop_db#data#") && ids[1].starts_with("shop_db#logs#"), "{ids:?}");
    assert!(volumes.iter().all(|v| info.resources.contains(v)), "the task has what was made");
    let of = |name: &str| info.resources.iter().filter(|r| r.name == name).collect::<Vec<_>>();
    assert_eq!(of("disk").iter().map(|r| r.scalar.unwrap().value).collect::<Vec<_>>(), [8.0, 100.0, 20.0]);
    let container = info.container.clone().unwrap();
    assert!(container.volumes.is_empty(), "they are mounted for being among the resources");
    world.master.update(&info, "TASK_RUNNING", None);
    let shown = world.until("/v2/apps/shop/db", |app| app["app"]["tasksRunning"] == 1).await;
    let local = shown["app"]["tasks"][0]["localVolumes"].clone();
    assert_eq!((&local[0]["containerPath"], &local[0]["persistenceId"]), (&json!("data"), &json!(ids[0])));

    // It ends, and the scheduler with it. What is offered to others of its kind is not taken.
    world.master.update(&info, "TASK_FAILED", None);
    world.master.acknowledged(2).await;
    let world = world.crash().await;
    let other =
        json!({"id": "/other", "cmd": "run", "role": "dev", "cpus": 0.5, "mem": 32, "portDefinitions": []});
    assert_eq!(world.send("POST", "/v2/apps", Some(&other)).await.0, 201);
    world.master.offer_to("dev", info.resources.clone(), false);
    let again = world.master.accepted(2).await;
    assert_eq!(kinds(&again), [Type::Launch]);
    let info = task(&again);
    assert_eq!(info.task_id.value, format!("{owner}._app.2"));
    let sorted = |resources: &[Resource]| {
        let mut all: Vec<String> = resources.iter().map(|r| format!("{r:?}")).collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&info.resources), sorted(&task(&first).resources), "all that it had, as it was");
    world.master.update(&info, "TASK_RUNNING", None);
    let shown = world.until("/v2/apps/shop/db", |app| app["app"]["tasksRunning"] == 1).await;
    assert_eq!(shown["app"]["tasks"][0]["localVolumes"], local);

    // Killed while nothing wants it: it is kept and shown, until it is wiped.
    let path = "/v2/apps/shop/db?force=true";
    assert_eq!(world.send("PUT", path, Some(&json!({"instances": 0}))).await.0, 200);
    world.master.end_killed(1).await;
    let kept = world.until("/v2/apps/shop/db", |app| app["app"]["deployments"] == json!([])).await;
    assert_eq!((&kept["app"]["tasksRunning"], &kept["app"]["tasks"][0]["localVolumes"]), (&json!(0), &local));
    let wipe = json!({"ids": [info.task_id.value]});
    let (status, _, gone) = world.send("POST", "/v2/tasks/delete?wipe=true", Some(&wipe)).await;
    assert_eq!((status, &gone["tasks"][0]["localVolumes"]), (200, &local));
    assert_eq!(world.get("/v2/apps/shop/db/tasks").await, json!({"tasks": []}));
    assert_eq!(world.get("/v2/tasks/unknown").await["volumes"][0]["localVolumes"], local);
    world.master.offer_to("dev", info.resources.clone(), false);
    let freed = world.master.accepted(3).await;
    assert_eq!(kinds(&freed), [Type::Destroy, Type::Unreserve]);
    assert_eq!(freed[0].destroy.as_ref().unwrap().volumes.len(), 2);
    let unreserved = &freed[1].unreserve.as_ref().unwrap().resources;
    assert!(unreserved.iter().all(|r| instance(r) == Some(owner) && r.disk.is_none()), "{unreserved:?}");
    let disk: f64 = unreserved.iter().filter(|r| r.name == "disk").map(|r| r.scalar.unwrap().value).sum();
    assert_eq!(disk, 128.0);
    world.stop().await;
}

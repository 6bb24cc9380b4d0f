//! Flows of clients, each against a scheduler and a master of its own.

mod conditions;
mod etcd;
mod events;
mod fleet;
mod groups;
mod master;
mod reference;
mod refusals;
mod volumes;
mod world;

use serde_json::{Value, json};

use world::World;

/// The states and fields that the strict Python client knows; an unknown key is an error there.
const TASK_KEYS: [&str; 16] = [
    "id",
    "appId",
    "host",
    "ports",
    "servicePorts",
    "slaveId",
    "state",
    "stagedAt",
    "startedAt",
    "version",
    "ipAddresses",
    "healthCheckResults",
    "localVolumes",
    "region",
    "zone",
    "role",
];
const DEPLOYMENT_KEYS: [&str; 8] =
    ["id", "version", "affectedApps", "affectedPods", "currentActions", "currentStep", "steps", "totalSteps"];
const GROUP_KEYS: [&str; 6] = ["id", "apps", "groups", "pods", "dependencies", "version"];
const QUEUE_KEYS: [&str; 8] =
    ["app", "count", "delay", "since", "overdue", "processedOffersSummary", "lastUnusedOffers", "role"];
const INFO_KEYS: [&str; 10] = [
    "name",
    "version",
    "buildref",
    "elected",
    "leader",
    "frameworkId",
    "event_subscriber",
    "marathon_config",
    "zookeeper_config",
    "http_config",
];

fn only(value: &Value, keys: &[&str]) {
    for key in value.as_object().unwrap().keys() {
        assert!(keys.contains(&key.as_str()), "{key} is not known to clients");
    }
}

#[tokio::test]
async fn from_nothing_to_running_to_nothing() {
    let world = World::start().await;
    let mut events = world.events("event_type=status_update_event&event_type=deployment_success&event_type=health_status_changed_event").await;
    let body = json!({"id": "web", "cmd": "serve", "cpus": 0.1, "mem": 32, "instances": 2,
        "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/"}]});
    let (status, headers, made) = world.send("POST", "/v2/apps", Some(&body)).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (201, "/v2/apps/web"));
    assert_eq!(
        headers["marathon-deployment-id"].to_str().unwrap(),
        made["deployments"][0]["id"].as_str().unwrap()
    );
    world.master.offer(4.0, 1000.0);
    let tasks = world.master.launched(2).await;
    assert_eq!(tasks[0].name, "web");
    only(&world.get("/v2/info").await, &INFO_KEYS);
    for deployment in world.get("/v2/deployments").await.as_array().unwrap() {
        only(deployment, &DEPLOYMENT_KEYS);
    }
    for task in &tasks {
        world.master.update(task, "TASK_RUNNING", None);
        world.master.update(task, "TASK_RUNNING", Some(true));
    }
    events.until("deployment_success").await;
    let app = &world.get("/v2/apps//web?embed=app.counts").await["app"];
    assert_eq!((&app["tasksRunning"], &app["tasksHealthy"]), (&json!(2), &json!(2)));
    world.master.acknowledged(4).await;
    for task in world.get("/v2/tasks").await["tasks"].as_array().unwrap() {
        only(task, &TASK_KEYS);
        assert_eq!(task["healthCheckResults"][0]["alive"], true);
    }
    only(&world.get("/v2/groups").await, &GROUP_KEYS);

    // Scale up, with a boolean as Python writes it.
    let (status, _, _) = world.send("PUT", "/v2/apps//web?force=False", Some(&json!({"instances": 3}))).await;
    assert_eq!(status, 200);
    world.master.offer(4.0, 1000.0);
    let third = world.master.launched(3).await.remove(2);
    world.master.update(&third, "TASK_RUNNING", Some(true));
    events.until("deployment_success").await;

    // Restart: each is replaced.
    let (status, _, restarted) = world.send("POST", "/v2/apps/web/restart?force=False", None).await;
    assert_eq!((status, restarted["deploymentId"].is_string()), (200, true));
    let locked = world.send("PUT", "/v2/apps/web", Some(&json!({"instances": 1}))).await;
    assert_eq!((locked.0, &locked.2["deployments"][0]["id"]), (409, &restarted["deploymentId"]));
    world.master.offer(8.0, 4000.0);
    for task in world.master.launched(6).await.drain(3..) {
        world.master.update(&task, "TASK_RUNNING", Some(true));
    }
    world.master.end_killed(3).await;
    events.until("deployment_success").await;

    // Kill one and shrink with it.
    let tasks = world.get("/v2/apps/web/tasks").await;
    let task = tasks["tasks"][0]["id"].as_str().unwrap();
    let (status, _, body) =
        world.send("DELETE", &format!("/v2/apps//web/tasks/{task}?scale=True&wipe=False"), None).await;
    assert_eq!((status, body["deploymentId"].is_string()), (200, true));
    world.master.end_killed(4).await;
    events.until("deployment_success").await;
    assert_eq!(world.get("/v2/apps/web").await["app"]["instances"], 2);
    let versions = world.get("/v2/apps/web/versions").await;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 4);
    let first = versions["versions"][3].as_str().unwrap();
    assert_eq!(world.get(&format!("/v2/apps/web/versions/{first}")).await["instances"], 2);

    let (status, _, _) = world.send("DELETE", "/v2/apps/web", None).await;
    assert_eq!(status, 200);
    world.master.end_killed(6).await;
    events.until("deployment_success").await;
    assert_eq!(world.get("/v2/apps").await, json!({"apps": []}));
    assert_eq!(world.send("GET", "/v2/apps/web", None).await.2["message"], "App '/web' does not exist");
    world.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_is_killed_comes_back_to_what_it_had() {
    let world = World::start().await;
    let body =
        json!({"id": "/a/b", "cmd": "run", "cpus": 0.1, "mem": 32, "instances": 2, "portDefinitions": []});
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 201);
    world.master.offer(4.0, 1000.0);
    let tasks = world.master.launched(2).await;
    world.master.update(&tasks[0], "TASK_RUNNING", None);
    world.master.acknowledged(1).await;
    let world = world.crash().await;
    // Both launches are known, from the store, before anything is heard of them.
    let ids = |listed: Value| -> Vec<String> {
        listed["tasks"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut want: Vec<String> = tasks.iter().map(|t| t.task_id.value.clone()).collect();
    want.sort();
    assert_eq!(ids(world.get("/v2/tasks").await), want);
    world.master.reconciled().await;
    assert_eq!(world.master.framework_ids(), [None, Some("F".to_owned())]);
    world.master.offer(4.0, 1000.0);
    world.master.update(&tasks[0], "TASK_RUNNING", None);
    world.master.update(&tasks[1], "TASK_RUNNING", None);
    world
        .until("/v2/apps/a/b", |app| {
            app["app"]["tasksRunning"] == 2 && app["app"]["deployments"] == json!([])
        })
        .await;
    assert_eq!(world.master.launched(2).await.len(), 2, "nothing was launched twice");
    world.stop().await;
}

#[tokio::test]
async fn a_failed_task_is_replaced_within_three_seconds() {
    let world = World::start().await;
    let body = json!({"id": "x", "cmd": "run", "cpus": 0.1, "mem": 32});
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 201);
    world.master.offer(4.0, 1000.0);
    let task = world.master.launched(1).await.remove(0);
    world.master.update(&task, "TASK_RUNNING", None);
    world.until("/v2/apps/x", |app| app["app"]["tasksRunning"] == 1).await;
    let begin = std::time::Instant::now();
    world.master.update(&task, "TASK_FAILED", None);
    world.master.revived(2).await;
    world.master.offer(4.0, 1000.0);
    world.master.launched(2).await;
    assert!(begin.elapsed() < std::time::Duration::from_secs(3), "{:?}", begin.elapsed());
    let app = world.get("/v2/apps/x").await;
    assert_eq!(app["app"]["lastTaskFailure"]["state"], "TASK_FAILED");
    world.stop().await;
}

#[tokio::test]
async fn what_waits_says_why() {
    let world = World::start().await;
    let body = json!({"id": "/big", "cmd": "run", "cpus": 100, "mem": 32});
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 201);
    world.master.offer(4.0, 1000.0);
    let why = world.until("/v2/apps/big/why", |why| why["nodes"][0]["fits"] == false).await;
    let broken = &why["nodes"][0]["broken"][0];
    assert_eq!(
        (&broken["reason"], &broken["needed"], &broken["had"]),
        (&json!("InsufficientCpus"), &json!("100"), &json!("4"))
    );
    let queue = world.get("/v2/queue?embed=lastUnusedOffers").await;
    only(&queue["queue"][0], &QUEUE_KEYS);
    let summary = &queue["queue"][0]["processedOffersSummary"]["rejectSummaryLastOffers"];
    assert_eq!(summary[4], json!({"reason": "InsufficientCpus", "declined": 1, "processed": 1}));
    assert_eq!(world.send("DELETE", "/v2/queue//big/delay", None).await.0, 204);
    world.stop().await;
}

#[tokio::test]
async fn requests_of_all_kinds_get_the_answers_of_marathon() {
    let world = World::start().await;
    let app = |id: &str| json!({"id": id, "cmd": "run", "labels": {"L": "1"}});
    let group = json!({"id": "/shop", "apps": [{"id": "web", "cmd": "run", "dependencies": ["db"]}, {"id": "db", "cmd": "run"}]});
    for (method, path, body, status, want) in [
        ("GET", "/ping", None, 200, ("", json!(null))),
        ("GET", "/v2/apps/none/", None, 404, ("/message", json!("App '/none' does not exist"))),
        (
            "POST",
            "/v2/apps",
            Some(
                json!({"id": "/a", "cmd": "x", "upgradeStrategy": {"minimumHealthCapacity": 2, "maximumOverCapacity": 1}}),
            ),
            422,
            ("/details/0/path", json!("/upgradeStrategy/minimumHealthCapacity")),
        ),
        ("POST", "/v2/apps", Some(json!({"id": "/a", "cmd": 1})), 422, ("/details/0/path", json!("/cmd"))),
        ("PUT", "/v2/apps/a", Some(app("/a")), 201, ("", json!(null))),
        (
            "POST",
            "/v2/apps",
            Some(app("/a")),
            409,
            ("/message", json!("An app with id [/a] already exists.")),
        ),
        ("GET", "/v2/apps?label=L==1&id=a", None, 200, ("/apps/0/id", json!("/a"))),
        ("GET", "/v2/apps?label=L==2", None, 200, ("/apps", json!([]))),
        ("POST", "/v2/groups", Some(group), 201, ("", json!(null))),
        ("GET", "/v2/groups/shop", None, 200, ("/apps/1/id", json!("/shop/web"))),
        ("GET", "/v2/groups/none", None, 404, ("/message", json!("Group '/none' does not exist"))),
        ("GET", "/v2/apps/shop/*", None, 200, ("/*/0/id", json!("/shop/db"))),
        ("DELETE", "/v2/groups/shop?force=true", None, 200, ("", json!(null))),
        (
            "DELETE",
            "/v2/deployments/none",
            None,
            404,
            ("/message", json!("DeploymentPlan none does not exist")),
        ),
        ("POST", "/v2/tasks/delete?scale=False", Some(json!({"ids": []})), 200, ("/tasks", json!([]))),
        (
            "DELETE",
            "/v2/apps/a/tasks?scale=true&wipe=true",
            None,
            400,
            ("/message", json!("You cannot use scale and wipe at the same time.")),
        ),
        ("HEAD", "/v2/pods", None, 200, ("", json!(null))),
        ("GET", "/v2/pods/::status", None, 200, ("", json!([]))),
        ("GET", "/v2/leader", None, 200, ("/leader", json!("here:8080"))),
        ("GET", "/metrics", None, 200, ("/version", json!("4.0.0"))),
        ("GET", "/nowhere", None, 404, ("/message", json!("URI not found"))),
    ] {
        let (got, _, answer) = world.send(method, path, body.as_ref()).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        if want.1 != json!(null) {
            assert_eq!(answer.pointer(want.0), Some(&want.1), "{method} {path}: {answer}");
        }
    }
    let (status, _, answer) = world.raw("POST", "/v2/apps", b"{not json".to_vec()).await;
    assert_eq!((status, &answer["message"]), (400, &json!("Invalid JSON")));
    world.stop().await;
}

#[tokio::test]
async fn who_leads_gives_it_up() {
    let world = World::start().await;
    let (status, _, answer) = world.send("DELETE", "/v2/leader", None).await;
    assert_eq!((status, &answer["message"]), (200, &json!("Leadership abdicated")));
    assert!(world.ended().await.contains("Abdicated"));
}

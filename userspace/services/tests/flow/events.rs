//! `/v2/events` over real streams: what is told with which fields, going on where one was, and many who listen.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plenum_services::core::schema::Standing;
use plenum_services::reference::EVENTS;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Events, World};

/// Marathon's fields of each type, without `eventType` and `timestamp`. What stands behind a bar is an addition.
const FIELDS: &[(&str, &str)] = &[
    ("api_post_event", "appDefinition clientIp uri"),
    ("pod_created_event", "clientIp uri"),
    ("pod_updated_event", "clientIp uri"),
    ("pod_deleted_event", "clientIp uri"),
    ("scheduler_registered_event", "frameworkId master"),
    ("scheduler_reregistered_event", "master"),
    ("scheduler_disconnected_event", ""),
    ("event_stream_attached", "remoteAddress"),
    ("event_stream_detached", "remoteAddress"),
    ("add_health_check_event", "appId healthCheck version"),
    ("remove_health_check_event", "appId"),
    ("failed_health_check_event", "appId healthCheck taskId | instanceId"),
    ("health_status_changed_event", "alive appId instanceId version | taskId"),
    ("unhealthy_instance_kill_event", "appId host instanceId reason slaveId taskId version"),
    ("unhealthy_task_kill_event", "appId host instanceId reason slaveId taskId version"),
    ("group_change_success", "groupId version"),
    ("group_change_failed", "groupId reason version"),
    ("deployment_success", "id plan"),
    ("deployment_failed", "id plan reason"),
    ("deployment_info", "currentStep plan"),
    ("deployment_step_success", "currentStep plan"),
    ("deployment_step_failure", "currentStep plan"),
    ("app_terminated_event", "appId"),
    ("status_update_event", "appId host ipAddresses message ports slaveId taskId taskStatus version"),
    ("instance_changed_event", "agentId condition host instanceId runSpecId runSpecVersion"),
    ("unknown_instance_terminated_event", "condition instanceId runSpecId"),
    ("instance_health_changed_event", "healthy instanceId runSpecId runSpecVersion"),
    ("framework_message_event", "executorId message slaveId"),
];

/// Every type that is sent, as a query.
fn every_kind() -> String {
    let sent = EVENTS.iter().filter(|(_, standing)| !matches!(standing, Standing::Missing(_)));
    sent.map(|(kind, _)| format!("event_type={kind}")).collect::<Vec<_>>().join("&")
}

/// What was heard of each type, with its fields looked at.
async fn heard(events: &mut Events, until: &str) -> BTreeMap<String, Vec<Value>> {
    let (mut all, mut last) = (BTreeMap::<String, Vec<Value>>::new(), None);
    loop {
        let one = events.next().await.expect("events go on");
        eprintln!("{} {} {}", one.data["timestamp"], one.kind, one.id);
        let number: u64 = one.id.split_once('-').unwrap().1.parse().unwrap();
        assert!(last.is_none_or(|last| number == last + 1), "{number} follows {last:?}");
        last = Some(number);
        let fields = FIELDS.iter().find(|(kind, _)| *kind == one.kind).expect("a known type").1;
        let (marathons, ours) = fields.split_once('|').unwrap_or((fields, ""));
        let all_fields: BTreeSet<&str> = one.data.as_object().unwrap().keys().map(String::as_str).collect();
        let known = marathons.split_whitespace().chain(ours.split_whitespace());
        let known: BTreeSet<&str> = known.chain(["eventType", "timestamp"]).collect();
        assert_eq!(all_fields, known, "{}", one.kind);
        let end = one.kind == until;
        all.entry(one.kind).or_default().push(one.data);
        if end {
            return all;
        }
    }
}

async fn a_life_of_an_app(world: &World, events: &mut Events) {
    let body = json!({"id": "/shop/web", "cmd": "serve", "cpus": 0.1, "mem": 32, "role": "*",
        "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/"}]});
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 201);
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 409);
    world.master.offer(4.0, 1000.0);
    let task = world.master.launched(1).await.remove(0);
    world.master.update(&task, "TASK_RUNNING", None);
    world.master.update(&task, "TASK_RUNNING", Some(true));
    events.until("deployment_success").await;
    world.master.message(&task, b"hi\xff");
    // Its check fails, and the agent ends it for that.
    for (state, healthy) in [("RUNNING", false), ("RUNNING", false), ("KILLING", false), ("KILLED", false)] {
        world.master.update(&task, &format!("TASK_{state}"), Some(healthy));
    }
    world.master.offer(4.0, 1000.0);
    let second = world.master.launched(2).await.remove(1);
    world.master.update(&second, "TASK_RUNNING", Some(true));
    world.until("/v2/apps/shop/web", |app| app["app"]["tasksHealthy"] == 1).await;
    // Another version, replaced by force before it is there; then both go.
    assert_eq!(world.send("PUT", "/v2/apps/shop/web", Some(&json!({"cmd": "serve2"}))).await.0, 200);
    assert_eq!(world.send("PUT", "/v2/apps/shop/web", Some(&json!({"instances": 2}))).await.0, 409);
    assert_eq!(world.send("DELETE", "/v2/apps/shop/web?force=true", None).await.0, 200);
    world.master.end_killed(1).await;
    events.until("app_terminated_event").await;
}

#[tokio::test]
async fn every_type_is_told_with_marathons_fields() {
    let world = World::start().await;
    let mut all = world.events(&every_kind()).await;
    let mut plain = world.events("").await;
    let mut few = world
        .events("event_type=app_terminated_event&event_type=deployment_success&event_type=nonsense")
        .await;
    a_life_of_an_app(&world, &mut few).await;
    let pod = json!({"id": "/pod", "containers": [{"name": "c", "resources": {"cpus": 0.1, "mem": 32}, "exec": {"command": {"shell": "run"}}}]});
    assert_eq!(world.send("POST", "/v2/pods", Some(&pod)).await.0, 201);
    let more =
        json!({"id": "/pod", "scaling": {"kind": "fixed", "instances": 2}, "containers": pod["containers"]});
    assert_eq!(world.send("PUT", "/v2/pods/pod?force=true", Some(&more)).await.0, 200);
    assert_eq!(world.send("DELETE", "/v2/pods/pod?force=true", None).await.0, 202);
    let lost = plenum_api::mesos::TaskInfo {
        task_id: "a_b.instance-1._app.1".into(),
        agent_id: "A".into(),
        ..Default::default()
    };
    world.master.update(&lost, "TASK_FINISHED", None);
    drop(few);
    let mut before = heard(&mut all, "event_stream_detached").await;
    world.master.hang_up();
    before.extend(heard(&mut all, "scheduler_reregistered_event").await);
    // The first registration may have been before anybody could listen.
    let kinds = FIELDS.iter().map(|(kind, _)| *kind).filter(|kind| *kind != "scheduler_registered_event");
    let missing: Vec<&str> = kinds.filter(|kind| !before.contains_key(*kind)).collect();
    assert!(missing.is_empty(), "not told: {missing:?}");
    for (kind, standing) in EVENTS.iter().filter(|(kind, _)| *kind != "gap") {
        let known = FIELDS.iter().any(|(known, _)| known == kind);
        assert_eq!(known, !matches!(standing, Standing::Missing(_)), "{kind}");
    }
    for (kind, pointer, want) in [
        ("event_stream_attached", "/remoteAddress", json!("127.0.0.1")),
        ("api_post_event", "/appDefinition/id", json!("/shop/web")),
        ("api_post_event", "/uri", json!("/v2/apps")),
        ("add_health_check_event", "/healthCheck/protocol", json!("MESOS_HTTP")),
        ("group_change_success", "/groupId", json!("/shop")),
        ("group_change_failed", "/reason", json!("An app with id [/shop/web] already exists.")),
        ("framework_message_event", "/message", json!([104, 105, -1])),
        ("unhealthy_instance_kill_event", "/reason", json!("Health check timed out")),
        ("unknown_instance_terminated_event", "/runSpecId", json!("/a/b")),
        ("unknown_instance_terminated_event", "/instanceId", json!("a_b.instance-1")),
        ("deployment_step_failure", "/currentStep/actions/0/action", json!("RestartApplication")),
        ("instance_changed_event", "/condition", json!("Provisioned")),
    ] {
        assert_eq!(before[kind][0].pointer(pointer), Some(&want), "{kind} {pointer}: {:?}", before[kind]);
    }
    let count = |kind: &str| before[kind].len();
    assert_eq!((count("failed_health_check_event"), count("unhealthy_instance_kill_event")), (2, 1));
    let changes: Vec<&Value> = before["health_status_changed_event"].iter().map(|e| &e["alive"]).collect();
    assert_eq!(changes, [true, false, true]);
    // Two versions with a check each, and both are gone.
    assert_eq!((count("add_health_check_event"), count("remove_health_check_event")), (2, 2));
    // Whoever named nothing heard all but the older name.
    let mut others = BTreeSet::new();
    while !others.contains("scheduler_reregistered_event") {
        others.insert(plain.next().await.unwrap().kind);
    }
    assert!(
        !others.contains("unhealthy_task_kill_event") && others.contains("unhealthy_instance_kill_event")
    );
    world.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_also_past_a_scheduler_that_died() {
    let world = World::start().await;
    let mut events = world.events("").await;
    let first = events.next().await.unwrap();
    assert_eq!(first.kind, "event_stream_attached");
    drop(events);
    let body = |n: usize| json!({"id": format!("/a{n}"), "cmd": "run"});
    for n in 0..3 {
        assert_eq!(world.send("POST", "/v2/apps", Some(&body(n))).await.0, 201);
    }
    let mut events = world.events_after("", Some(&first.id)).await;
    let (leadership, number) = first.id.split_once('-').unwrap();
    let (mut number, mut posts) = (number.parse::<u64>().unwrap(), 0);
    while posts < 3 {
        let one = events.next().await.unwrap();
        number += 1;
        assert_eq!(one.id, format!("{leadership}-{number}"), "nothing is missed");
        posts += usize::from(one.kind == "api_post_event");
    }
    let last = format!("{leadership}-{number}");
    drop(events);
    // A head alone brings no listener.
    assert_eq!(world.send("HEAD", "/v2/events", None).await.0, 200);
    assert_eq!(world.send("POST", "/v2/events", None).await.0, 404);
    let world = world.crash().await;
    // A filter does not keep the gap back.
    let mut events = world.events_after("event_type=api_post_event", Some(&last)).await;
    let gap = events.next().await.unwrap();
    assert_eq!((gap.kind.as_str(), &gap.data["lastEventId"]), ("gap", &json!(last)));
    assert_ne!(gap.id.split_once('-').unwrap().0, leadership);
    assert_eq!(world.send("POST", "/v2/apps", Some(&body(4))).await.0, 201);
    let next = events.next().await.unwrap();
    assert_eq!((next.kind.as_str(), &next.data["appDefinition"]["id"]), ("api_post_event", &json!("/a4")));
    world.stop().await;
    assert!(events.next().await.is_none(), "who does not decide any more lets its listeners go");
}

const LISTENERS: usize = 1000;
const CHANGES: usize = 40;

/// The scheduler of a process of its own, so that its memory is its own; a test starts this very program for it.
#[tokio::test]
async fn helper_of_the_thousand_listeners() {
    if std::env::var_os("PLENUM_TEST_LISTENERS").is_none() {
        return;
    }
    let world = World::start().await;
    println!("\nlistening on {}", world.address);
    // Until the test closes its end.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await;
    std::process::exit(0);
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Memory that it holds, KiB.
    fn resident(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }
}

/// Reads a raw stream until so many events came, and says which.
async fn listen(address: &str, count: usize) -> (Vec<String>, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "GET /v2/events?event_type=group_change_success HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let mut ids = Vec::new();
    while ids.len() < count {
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_buf(&mut text)).await;
        assert!(read.unwrap().unwrap() > 0, "the stream goes on");
        let lines = String::from_utf8_lossy(&text).into_owned();
        ids = lines.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect();
    }
    (ids, stream)
}

async fn ask(address: &str, method: &str, path: &str, body: &Value) -> Value {
    let client = plenum_base::client::Client::plain().unwrap();
    let method = http::Method::from_bytes(method.as_bytes()).unwrap();
    let body = plenum_base::client::full(body.to_string().into_bytes());
    let reply = client.call(method, &format!("http://{address}{path}")).body(body).send().await.unwrap();
    serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_listeners_share_what_is_encoded_once() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "flow::events::helper_of_the_thousand_listeners", "--nocapture"])
        .env("PLENUM_TEST_LISTENERS", "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut process = Process(child.unwrap());
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let address = address.expect("an address");
    let metrics = async || ask(&address, "GET", "/metrics", &json!({})).await;
    let before = process.resident();
    let listening: Vec<_> = (0..LISTENERS)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { listen(&address, CHANGES).await })
        })
        .collect();
    let gauge = "service.mesosphere.marathon.http.event-streams.active";
    for _ in 0..2000 {
        if metrics().await["gauges"][gauge]["value"] == LISTENERS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let start = metrics().await;
    assert_eq!(start["gauges"][gauge]["value"], LISTENERS);
    for n in 0..CHANGES {
        ask(&address, "PUT", &format!("/v2/apps/a{n}"), &json!({"cmd": "run"})).await;
    }
    let (mut seen, mut open) = (BTreeSet::new(), Vec::new());
    for one in listening {
        let (ids, stream) = one.await.unwrap();
        seen.insert(ids);
        open.push(stream);
    }
    let end = metrics().await;
    let after = process.resident();
    drop(open);
    assert_eq!(seen.len(), 1, "all heard the same, under the same numbers");
    let encoded =
        |metrics: &Value| metrics["counters"]["plenum.services.events.encoded"]["count"].as_u64().unwrap();
    let ids: Vec<u64> =
        seen.pop_first().unwrap().iter().map(|id| id.split_once('-').unwrap().1.parse().unwrap()).collect();
    // Numbers count what was encoded: with each listener's own coming, and no more than a few events a change.
    assert!(
        ids.iter().is_sorted()
            && *ids.first().unwrap() > encoded(&start)
            && *ids.last().unwrap() <= encoded(&end)
    );
    assert!(encoded(&start) <= LISTENERS as u64 + 10, "{}", encoded(&start));
    assert!(encoded(&end) - encoded(&start) <= 8 * CHANGES as u64, "{}", encoded(&end) - encoded(&start));
    let ring = end["gauges"]["plenum.services.events.ring.bytes"]["value"].as_u64().unwrap() as usize / 1024;
    let each = after.saturating_sub(before + ring) / LISTENERS;
    println!("{LISTENERS} listeners: {each} KiB each, {} events encoded", encoded(&end));
    assert!(each <= 64, "{each} KiB a listener");
}

//! A framework, an agent, a task, from SUBSCRIBE to teardown, with a restart of the master in between.

use plenum_api::codec::{Encoding, Message, encode};
use plenum_api::internal::{Register, StatusUpdate, agent_message, master_message};
use plenum_api::master;
use plenum_api::mesos::{self, TaskState};
use plenum_api::resources::Resources;
use plenum_api::scheduler::{Call, Event, call, event};

use super::fixture::{Agent, At, Cluster, Http, hello};

pub struct Framework {
    pub stream: Http,
    encoding: Encoding,
    header: String,
    pub id: String,
}

fn info(id: Option<&str>) -> mesos::FrameworkInfo {
    mesos::FrameworkInfo {
        user: "root".into(),
        name: "f".into(),
        id: id.map(Into::into),
        failover_timeout: Some(600.0),
        ..Default::default()
    }
}

impl Framework {
    pub async fn subscribe(up: &At, encoding: Encoding, id: Option<&str>) -> Self {
        let call = Call {
            framework_id: id.map(Into::into),
            r#type: Some(call::Type::Subscribe as i32),
            subscribe: Some(call::Subscribe { framework_info: info(id), ..Default::default() }),
            ..Default::default()
        };
        let headers = [("Content-Type", encoding.media_type()), ("Accept", encoding.media_type())];
        let stream =
            Http::send(up.http, "POST", "/api/v1/scheduler", &headers, &encode(encoding, &call)).await;
        assert_eq!((stream.head.status, stream.chunked()), (200, true));
        assert_eq!(stream.head.header("content-type"), Some(encoding.media_type()));
        let header = stream.head.header("Mesos-Stream-Id").expect("a stream id").to_owned();
        let mut this = Self { stream, encoding, header, id: String::new() };
        let subscribed = this.next(event::Type::Subscribed).await.subscribed.expect("set");
        assert_eq!(subscribed.heartbeat_interval_seconds, Some(0.5));
        this.id = subscribed.framework_id.value;
        this
    }

    pub async fn next(&mut self, kind: event::Type) -> Event {
        loop {
            let event: Event = self.stream.record(self.encoding).await.expect("the stream goes on");
            if event.r#type == Some(kind as i32) {
                return event;
            }
            assert!(event.error.is_none(), "{event:?}");
        }
    }

    pub async fn call(&self, up: &At, kind: call::Type, fill: impl FnOnce(&mut Call)) -> u16 {
        let mut call = Call {
            framework_id: Some(self.id.as_str().into()),
            r#type: Some(kind as i32),
            ..Default::default()
        };
        fill(&mut call);
        let headers = [("Content-Type", self.encoding.media_type()), ("Mesos-Stream-Id", &*self.header)];
        let reply =
            Http::ask(up.http, "POST", "/api/v1/scheduler", &headers, &encode(self.encoding, &call)).await;
        assert!(reply.status != 202 || reply.body.is_empty());
        reply.status
    }
}

pub fn register(id: Option<&str>, tasks: Vec<mesos::Task>) -> agent_message::Kind {
    let resources =
        Resources::parse("cpus:4;mem:4096;ports:[31000-32000]", "*").expect("resources").to_mesos();
    let agent_info =
        mesos::AgentInfo { hostname: "node".into(), port: Some(5051), resources, ..Default::default() };
    agent_message::Kind::Register(Register {
        agent_info,
        agent_id: id.map(Into::into),
        version: "1".into(),
        tasks,
        ..Default::default()
    })
}

pub fn update(framework: &str, task: &str, state: TaskState, uuid: u8) -> agent_message::Kind {
    let status = mesos::TaskStatus {
        task_id: task.into(),
        state: state as i32,
        uuid: Some(vec![uuid; 16].into()),
        timestamp: Some(1.0),
        ..Default::default()
    };
    agent_message::Kind::StatusUpdate(StatusUpdate {
        framework_id: framework.into(),
        status,
        latest_state: Some(state as i32),
        ..Default::default()
    })
}

pub async fn join(up: &At, cluster: &Cluster) -> (Agent, String, plenum_base::tls::Identity) {
    let identity = cluster.identity("agent", "node");
    let mut agent = Agent::dial(up, &identity, hello()).await;
    assert!(matches!(agent.hear().await, Some(master_message::Kind::Hello(_))));
    agent.say(vec![register(None, vec![])]).await;
    let Some(master_message::Kind::Registered(registered)) = agent.hear().await else { panic!("registered") };
    assert!(registered.master_info.is_some() && agent.term > 0);
    (agent, registered.agent_id.value, identity)
}

pub fn launch(agent: &str, offers: &[mesos::Offer]) -> call::Accept {
    let task = mesos::TaskInfo {
        name: "t".into(),
        task_id: "t".into(),
        agent_id: agent.into(),
        resources: Resources::parse("cpus:1;mem:64", "*").expect("resources").to_mesos(),
        command: Some(mesos::CommandInfo { value: Some("sleep 1".into()), ..Default::default() }),
        ..Default::default()
    };
    let operation = mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::Launch as i32),
        launch: Some(mesos::offer::operation::Launch { task_infos: vec![task] }),
        ..Default::default()
    };
    call::Accept {
        offer_ids: offers.iter().map(|o| o.id.clone()).collect(),
        operations: vec![operation],
        filters: None,
    }
}

/// Launches one task and sees it run.
pub async fn run(up: &At, agent: &mut Agent, agent_id: &str, framework: &mut Framework) -> mesos::Task {
    let offers = framework.next(event::Type::Offers).await.offers.expect("set").offers;
    assert_eq!(offers[0].agent_id.value, agent_id);
    assert_eq!(
        framework.call(up, call::Type::Accept, |c| c.accept = Some(launch(agent_id, &offers))).await,
        202
    );
    let Some(master_message::Kind::RunTasks(run)) = agent.hear().await else { panic!("a launch") };
    assert_eq!(run.framework_info.id.as_ref().map(|id| id.value.as_str()), Some(&*framework.id));
    agent.say(vec![update(&framework.id, "t", TaskState::TaskRunning, 1)]).await;
    let status = framework.next(event::Type::Update).await.update.expect("set").status;
    assert_eq!((status.state, status.uuid.as_deref()), (TaskState::TaskRunning as i32, Some(&[1; 16][..])));
    let acknowledge =
        call::Acknowledge { agent_id: agent_id.into(), task_id: "t".into(), uuid: vec![1; 16].into() };
    assert_eq!(framework.call(up, call::Type::Acknowledge, |c| c.acknowledge = Some(acknowledge)).await, 202);
    assert!(
        matches!(agent.hear().await, Some(master_message::Kind::AcknowledgeStatus(a)) if a.task_id.value == "t")
    );
    mesos::Task {
        name: "t".into(),
        task_id: "t".into(),
        framework_id: framework.id.as_str().into(),
        agent_id: agent_id.into(),
        state: TaskState::TaskRunning as i32,
        resources: run.tasks[0].resources.clone(),
        ..Default::default()
    }
}

async fn get<T: Message>(up: &At, encoding: Encoding, kind: master::call::Type) -> T {
    up.operate(encoding, &master::Call { r#type: Some(kind as i32), ..Default::default() }).await
}

async fn life(encoding: Encoding) {
    let cluster = Cluster::new(true);
    let up = cluster.up().await;
    let watch = master::Call { r#type: Some(master::call::Type::Subscribe as i32), ..Default::default() };
    let headers = [("Content-Type", encoding.media_type()), ("Accept", encoding.media_type())];
    let mut watch = Http::send(up.http, "POST", "/api/v1", &headers, &encode(encoding, &watch)).await;
    assert!(watch.chunked());
    let first: master::Event = watch.record(encoding).await.expect("subscribed");
    assert!(first.subscribed.is_some_and(|s| s.get_state.is_some()));

    let (mut agent, agent_id, identity) = join(&up, &cluster).await;
    let mut framework = Framework::subscribe(&up, encoding, None).await;
    let task = run(&up, &mut agent, &agent_id, &mut framework).await;
    legacy_sees_the_task(&up, &framework.id, &agent_id).await;
    let state: master::Response = get(&up, encoding, master::call::Type::GetState).await;
    let state = state.get_state.expect("set");
    assert_eq!(state.get_tasks.expect("set").tasks[0].task_id.value, "t");
    assert_eq!(state.get_agents.expect("set").agents[0].allocated_resources.len(), 2);
    let mut seen = Vec::new();
    while !seen.contains(&(master::event::Type::TaskUpdated as i32)) {
        seen.extend(watch.record::<master::Event>(encoding).await.expect("events").r#type);
    }
    seen.retain(|kind| *kind != master::event::Type::Heartbeat as i32);
    use master::event::Type;
    assert_eq!(
        seen,
        [Type::AgentAdded, Type::FrameworkAdded, Type::TaskAdded, Type::TaskUpdated].map(|t| t as i32)
    );

    // The master is gone and back; everybody comes again.
    let (before, id) = (agent.term, framework.id.clone());
    up.down().await;
    drop((agent, framework, watch));
    let up = cluster.up().await;
    let summary = up
        .get("/mesos-is-not-a-prefix/../state-summary".trim_start_matches("/mesos-is-not-a-prefix/.."))
        .await;
    assert_eq!(summary["frameworks"][0]["connected"], false);
    let mut framework = Framework::subscribe(&up, encoding, Some(&id)).await;
    assert_eq!(framework.id, id);
    let mut agent = Agent::dial(&up, &identity, hello()).await;
    agent.hear().await;
    agent.say(vec![register(Some(&agent_id), vec![task])]).await;
    assert!(matches!(agent.hear().await, Some(master_message::Kind::Reregistered(_))));
    assert!(agent.term > before, "a new leadership has a higher term");
    assert_eq!(
        framework.call(&up, call::Type::Reconcile, |c| c.reconcile = Some(call::Reconcile::default())).await,
        202
    );
    let status = framework.next(event::Type::Update).await.update.expect("set").status;
    assert_eq!(
        (status.task_id.value.as_str(), status.state, status.uuid),
        ("t", TaskState::TaskRunning as i32, None)
    );
    let kill = call::Kill { task_id: "t".into(), ..Default::default() };
    assert_eq!(framework.call(&up, call::Type::Kill, |c| c.kill = Some(kill)).await, 202);
    assert!(matches!(agent.hear().await, Some(master_message::Kind::KillTask(_))));
    agent.say(vec![update(&id, "t", TaskState::TaskKilled, 2)]).await;
    assert_eq!(
        framework.next(event::Type::Update).await.update.expect("set").status.state,
        TaskState::TaskKilled as i32
    );

    let body = format!("frameworkId={id}");
    let gone = Http::ask(
        up.http,
        "POST",
        "/master/teardown",
        &[("Content-Type", "application/x-www-form-urlencoded")],
        body.as_bytes(),
    )
    .await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    while framework.stream.record::<Event>(encoding).await.is_some() {}
    assert_eq!(up.get("/frameworks").await["completed_frameworks"][0]["id"], id);
    up.down().await;
}

async fn legacy_sees_the_task(up: &At, framework: &str, agent: &str) {
    for path in ["/state", "/master/state", "/master/state.json", "/state.json?_ts=1"] {
        let state = up.get(path).await;
        assert_eq!(state["frameworks"][0]["tasks"][0]["id"], "t", "{path}");
        assert_eq!(state["frameworks"][0]["tasks"][0]["state"], "TASK_RUNNING");
        assert_eq!(state["frameworks"][0]["tasks"][0]["slave_id"], agent);
        assert_eq!(state["frameworks"][0]["role"], "*");
        assert_eq!(state["slaves"][0]["used_resources"]["cpus"], 1);
        assert_eq!(state["slaves"][0]["resources"]["ports"], "[31000-32000]");
        assert_eq!((&state["cluster"], &state["activated_slaves"]), (&"plenum".into(), &1.into()));
        assert_eq!(state["flags"]["cluster"], "plenum");
    }
    let summary = up.get("/master/state-summary").await;
    assert_eq!(summary["slaves"][0]["TASK_RUNNING"], 1);
    assert_eq!(summary["slaves"][0]["framework_ids"][0], framework);
    assert_eq!(summary["frameworks"][0]["slave_ids"][0], agent);
    assert_eq!(up.get("/master/frameworks/").await["frameworks"][0]["id"], framework);
    assert_eq!(up.get("/tasks?order=asc&limit=-1").await["tasks"][0]["id"], "t");
    assert_eq!(up.get("/tasks?task_id=other").await["tasks"].as_array().map(Vec::len), Some(0));
    assert_eq!(up.get("/slaves?slave_id=none").await["slaves"].as_array().map(Vec::len), Some(0));
    assert_eq!(up.get("/slaves").await["slaves"][0]["used_resources_full"][0]["name"], "cpus");
    assert_eq!(up.get("/slaves").await["slaves"][0]["node_name"], "node", "by its certificate");
    assert_eq!(up.get("/roles").await["roles"][0]["frameworks"][0], framework);
    assert_eq!(up.get("/metrics/snapshot").await["master/tasks_running"], 1.0);
    assert_eq!(up.get("/version").await["version"], "1.11.0");
    assert_eq!(up.get("/flags").await["flags"]["cluster"], "plenum");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lives_through_a_restart_of_the_master_in_json() {
    life(Encoding::Json).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lives_through_a_restart_of_the_master_in_protobuf() {
    life(Encoding::Protobuf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_framework_waits_is_explained() {
    let cluster = Cluster::new(true);
    let up = cluster.up().await;
    let (_agent, agent_id, _) = join(&up, &cluster).await;
    let framework = Framework::subscribe(&up, Encoding::Json, None).await;
    let call = master::Call {
        r#type: Some(master::call::Type::GetAllocationExplanation as i32),
        get_allocation_explanation: Some(master::call::GetAllocationExplanation {
            framework_id: Some(framework.id.as_str().into()),
            role: None,
            shape: Resources::parse("cpus:64", "*").expect("resources").to_mesos(),
        }),
        ..Default::default()
    };
    let answer: master::Response = up.operate(Encoding::Json, &call).await;
    let agents = answer.get_allocation_explanation.expect("set").agents;
    assert_eq!(
        (agents.len(), agents[0].agent_id.value.as_str(), agents[0].hostname.as_deref()),
        (1, &*agent_id, Some("node"))
    );
    assert_eq!(agents[0].reasons[0].rule, "AGENT_TOO_SMALL");
    up.down().await;
}

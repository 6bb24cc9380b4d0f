//! Reservations and persistent volumes: by frameworks and operators, refused, failed, lost, found again.

use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::agent_info::{Capability, capability::Type as Ability};
use plenum_api::mesos::offer::Operation;
use plenum_api::mesos::{OperationState, Resource};
use serde_json::{Value, json};

use super::*;

fn read<M: codec::Message>(value: Value) -> M {
    codec::decode(Encoding::Json, value.to_string().as_bytes()).expect("a message")
}

fn reserved(name: &str, amount: u32) -> Value {
    json!({"name": name, "type": "SCALAR", "scalar": {"value": amount},
           "reservations": [{"type": "DYNAMIC", "role": "dev", "principal": "p"}]})
}

fn volume(id: &str, amount: u32) -> Value {
    let mut volume = reserved("disk", amount);
    volume["disk"] = json!({"persistence": {"id": id, "principal": "p"},
                            "volume": {"mode": "RW", "container_path": "data"}});
    volume
}

/// An operation that asks for feedback under its type's name.
pub fn operation(kind: &str, what: Vec<Value>) -> Operation {
    let list = if matches!(kind, "CREATE" | "DESTROY") { "volumes" } else { "resources" };
    let mut value = json!({"type": kind, "id": {"value": kind}});
    value[kind.to_ascii_lowercase()] = json!({ list: what });
    read(value)
}

/// What an agent with a disk registers with.
pub fn disk_agent(host: &str) -> Register {
    let ability = |kind: Ability| Capability { r#type: Some(kind as i32) };
    Register {
        agent_info: mesos::AgentInfo { resources: resources("cpus:4;mem:4096;disk:100"), ..agent_info(host) },
        version: "1".into(),
        capabilities: vec![ability(Ability::AgentOperationFeedback), ability(Ability::ResizeVolume)],
        ..Default::default()
    }
}

struct Stage {
    rig: Rig,
    conn: ConnId,
    agent: String,
    stream: StreamId,
    framework: String,
}

impl Stage {
    fn new() -> Self {
        let mut rig = Rig::new();
        let conn = rig.register("a", disk_agent("h"));
        let Some(Kind::Registered(registered)) = rig.told(conn).pop() else { panic!("registered") };
        let info = mesos::FrameworkInfo { principal: Some("p".into()), ..framework_info("f") };
        let stream = rig.subscribe(info, "p");
        let framework = rig.subscribed(stream).expect("subscribed");
        Self { rig, conn, agent: registered.agent_id.value, stream, framework }
    }

    fn offer(&mut self) -> mesos::Offer {
        self.rig.offers(self.stream).pop().expect("an offer")
    }

    /// Accepts the next offer with these operations; says what the agent is told.
    fn accept(&mut self, operations: Vec<Operation>) -> Vec<Kind> {
        let offer = self.offer();
        let filters = Some(mesos::Filters { refuse_seconds: Some(0.0) });
        let accept = call::Accept { offer_ids: vec![offer.id], operations, filters };
        let framework = self.framework.clone();
        let answer =
            self.rig.call_as(self.stream, "p", &framework, call::Type::Accept, |c| c.accept = Some(accept));
        assert_eq!(answer, Some(Answer::Accepted));
        self.rig.told(self.conn)
    }

    /// Accepts everything that is offered.
    fn accept_all(&mut self, operations: Vec<Operation>) -> Vec<Kind> {
        let state = self.rig.master.state();
        let value = |offer: &std::sync::Arc<crate::core::Offer>| offer.id_under(&state.master.id);
        let offer_ids = state.offers.iter().map(|offer| mesos::OfferId { value: value(offer) }).collect();
        let accept = call::Accept { offer_ids, operations, filters: None };
        let framework = self.framework.clone();
        self.rig.call_as(self.stream, "p", &framework, call::Type::Accept, |c| c.accept = Some(accept));
        self.rig.told(self.conn)
    }

    fn launch(&self, id: &str, what: Vec<Value>) -> Operation {
        let mut info = task(id, &self.agent, "mem:10");
        info.resources.extend(what.into_iter().map(read::<Resource>));
        let launch = mesos::offer::operation::Launch { task_infos: vec![info] };
        let mut operation = Operation { launch: Some(launch), ..Default::default() };
        operation.set_type(mesos::offer::operation::Type::Launch);
        operation
    }

    fn statuses(&mut self) -> Vec<mesos::OperationStatus> {
        let events = self.rig.events(self.stream, event::Type::UpdateOperationStatus);
        events.into_iter().filter_map(|event| event.update_operation_status).map(|u| u.status).collect()
    }

    fn total(&mut self) -> String {
        let agent = self.agent.clone();
        let state = self.rig.master.state();
        let found = state.agents.iter().find(|known| *known.id == *agent).expect("known").total.to_string();
        assert_eq!(self.rig.master.ledger.disagreements, 0);
        found
    }

    /// The agent says how an operation went.
    fn result(&mut self, operation: &internal::ApplyOperation, state: OperationState, uuid: u8) {
        let status = mesos::OperationStatus {
            operation_id: operation.operation.info.id.clone(),
            state: state as i32,
            uuid: Some(mesos::Uuid { value: vec![uuid; 16].into() }),
            ..Default::default()
        };
        let update = internal::OperationUpdate {
            framework_id: operation.framework_id.clone(),
            status,
            latest_status: None,
            operation_uuid: operation.operation.uuid.clone(),
        };
        self.rig.say(self.conn, agent_message::Kind::OperationUpdate(update));
    }

    fn operations(&mut self) -> usize {
        self.rig.master.state().agents.iter().flat_map(|agent| agent.operations()).count()
    }
}

fn orders(told: &[Kind]) -> Vec<internal::ApplyOperation> {
    let order = |kind: &Kind| match kind {
        Kind::ApplyOperation(order) => Some(order.clone()),
        _ => None,
    };
    told.iter().filter_map(order).collect()
}

#[test]
fn a_framework_reserves_creates_launches_and_undoes_it() {
    let mut stage = Stage::new();
    let launch = stage.launch("t", vec![volume("v", 10), reserved("cpus", 1)]);
    let told = stage.accept(vec![
        operation("RESERVE", vec![reserved("cpus", 1), reserved("disk", 30)]),
        operation("CREATE", vec![volume("v", 10)]),
        launch,
    ]);
    let orders = orders(&told);
    assert_eq!(orders.len(), 2);
    assert!(matches!(told.last(), Some(Kind::RunTasks(_))), "after what it needs");
    let with = "cpus:3; mem:4096; cpus(dynamic dev):1; disk:70; disk(dynamic dev):20; disk(dynamic dev)(volume v):10";
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.split("; ").map(str::to_owned).collect();
        parts.sort();
        parts
    };
    assert_eq!(sorted(&stage.total()), sorted(with));
    assert_eq!(stage.operations(), 2);
    for (order, uuid) in orders.iter().zip([1, 2]) {
        stage.result(order, OperationState::OperationFinished, uuid);
    }
    let statuses = stage.statuses();
    assert_eq!(
        statuses.iter().map(|s| s.state()).collect::<Vec<_>>(),
        [OperationState::OperationFinished; 2]
    );
    assert_eq!(statuses[0].agent_id.as_ref().unwrap().value, stage.agent);
    // Reconciled while nobody has taken note, acknowledged, then unknown.
    let framework = stage.framework.clone();
    let ask = |stage: &mut Stage| {
        let reconcile = call::ReconcileOperations {
            operations: vec![call::reconcile_operations::Operation {
                operation_id: "RESERVE".into(),
                ..Default::default()
            }],
        };
        stage.rig.call_as(stage.stream, "p", &framework, call::Type::ReconcileOperations, |c| {
            c.reconcile_operations = Some(reconcile)
        });
        stage.statuses().pop().expect("an answer").state()
    };
    assert_eq!(ask(&mut stage), OperationState::OperationFinished);
    for (status, order) in statuses.into_iter().zip(&orders) {
        let acknowledge = call::AcknowledgeOperationStatus {
            agent_id: status.agent_id,
            uuid: status.uuid.expect("a uuid").value,
            operation_id: status.operation_id.expect("an id"),
            ..Default::default()
        };
        stage.rig.call_as(stage.stream, "p", &framework, call::Type::AcknowledgeOperationStatus, |c| {
            c.acknowledge_operation_status = Some(acknowledge)
        });
        let Some(Kind::AcknowledgeOperation(passed)) = stage.rig.told(stage.conn).pop() else {
            panic!("passed on")
        };
        assert_eq!(passed.operation_uuid, order.operation.uuid);
    }
    assert_eq!((stage.operations(), ask(&mut stage)), (0, OperationState::OperationUnknown));
    // While the task has it, the volume is not offered; then it is.
    let offered =
        |offer: &mesos::Offer| Resources::from_mesos(&offer.resources).unwrap().persistent_volumes().len();
    assert_eq!(offered(&stage.offer()), 0);
    let conn = stage.conn;
    stage.rig.update(conn, &framework, "t", TaskState::TaskFinished, 9);
    stage.rig.pass(6_000);
    let offer = stage.rig.offers(stage.stream).pop();
    assert!(offer.is_none_or(|offer| offered(&offer) == 1));
    let all = vec![volume("v", 10)];
    let told = {
        let stream = stage.stream;
        let open = stage
            .rig
            .master
            .state()
            .offers
            .iter()
            .map(|o| o.id_under(stage.rig.master.id()))
            .collect::<Vec<_>>();
        let operations = vec![
            operation("DESTROY", all),
            operation("UNRESERVE", vec![reserved("cpus", 1), reserved("disk", 30)]),
        ];
        let accept = call::Accept {
            offer_ids: open.into_iter().map(|value| mesos::OfferId { value }).collect(),
            operations,
            filters: None,
        };
        stage.rig.call_as(stream, "p", &framework, call::Type::Accept, |c| c.accept = Some(accept));
        stage.rig.told(conn)
    };
    assert_eq!(self::orders(&told).len(), 2);
    assert_eq!(sorted(&stage.total()), sorted("cpus:4; mem:4096; disk:100"));
}

#[test]
fn what_mesos_refuses_is_refused() {
    let with = |mut value: Value, path: &[&str], new: Value| {
        let (last, above) = path.split_last().expect("a path");
        let mut at = &mut value;
        for step in above {
            at = &mut at[*step];
        }
        match new {
            Value::Null => drop(at.as_object_mut().expect("an object").remove(*last)),
            new => at[*last] = new,
        }
        value
    };
    let mut unreserved = volume("u", 1);
    unreserved.as_object_mut().expect("an object").remove("reservations");
    let other_role = json!([{"type": "DYNAMIC", "role": "other", "principal": "p"}]);
    let other_principal = json!([{"type": "DYNAMIC", "role": "dev", "principal": "q"}]);
    let fixed = json!([{"type": "STATIC", "role": "dev"}]);
    for (kind, what, words) in [
        ("RESERVE", vec![], "names no resources"),
        ("RESERVE", vec![reserved("disk", 101)], "not part of"),
        (
            "RESERVE",
            vec![with(reserved("disk", 1), &["reservations"], other_role)],
            "to be reserved for role 'other'",
        ),
        ("RESERVE", vec![with(reserved("disk", 1), &["reservations"], other_principal)], "another principal"),
        ("RESERVE", vec![with(reserved("disk", 1), &["reservations"], fixed)], "not dynamically reserved"),
        ("UNRESERVE", vec![reserved("disk", 41)], "not part of"),
        ("UNRESERVE", vec![volume("v", 10)], "destroy it first"),
        ("CREATE", vec![volume("v", 10)], "not unique"),
        ("CREATE", vec![volume("w", 5), volume("w", 5)], "not unique"),
        ("CREATE", vec![volume("a/b", 5)], "invalid characters"),
        ("CREATE", vec![volume("..", 5)], "must not be"),
        ("CREATE", vec![unreserved], "unreserved"),
        ("CREATE", vec![reserved("disk", 1)], "DiskInfo"),
        ("CREATE", vec![with(volume("w", 1), &["disk", "volume"], Value::Null)], "Expecting 'volume'"),
        ("CREATE", vec![with(volume("w", 1), &["disk", "volume", "mode"], json!("RO"))], "Read-only"),
        ("CREATE", vec![with(volume("w", 1), &["disk", "volume", "host_path"], json!("/x"))], "host_path"),
        (
            "CREATE",
            vec![with(volume("w", 1), &["disk", "persistence", "principal"], json!("q"))],
            "does not match",
        ),
        ("CREATE", vec![with(volume("w", 1), &["shared"], json!({}))], "SHARED_RESOURCES"),
        (
            "CREATE",
            vec![with(volume("w", 1), &["allocation_info"], json!({"role": "x"}))],
            "allocated to role",
        ),
        ("CREATE", vec![volume("w", 31)], "not part of"),
        ("DESTROY", vec![volume("w", 1)], "not found"),
    ] {
        let mut stage = Stage::new();
        stage.accept(vec![
            operation("RESERVE", vec![reserved("disk", 40)]),
            operation("CREATE", vec![volume("v", 10)]),
        ]);
        let before = stage.total();
        let told = stage.accept(vec![operation(kind, what)]);
        assert!(orders(&told).is_empty(), "{kind}: {words}");
        let status = stage.statuses().pop().expect("an answer");
        assert_eq!(status.state(), OperationState::OperationError);
        assert!(status.message().contains(words), "{kind}: {:?} should say {words:?}", status.message());
        assert_eq!(stage.total(), before);
    }
    // An agent that writes nothing down gets nothing to do.
    let mut rig = Rig::new();
    let (conn, _) = rig.agent("h");
    let (stream, framework) = rig.framework("f");
    let offer = rig.offers(stream).pop().expect("an offer");
    let operations = vec![operation(
        "RESERVE",
        vec![json!({"name": "cpus", "type": "SCALAR", "scalar": {"value": 1},
        "reservations": [{"type": "DYNAMIC", "role": "dev"}]})],
    )];
    let accept = call::Accept { offer_ids: vec![offer.id], operations, filters: None };
    rig.call(stream, &framework, call::Type::Accept, |c| c.accept = Some(accept));
    assert!(orders(&rig.told(conn)).is_empty());
}

#[test]
fn an_agent_that_could_not_says_what_it_has() {
    let mut stage = Stage::new();
    let told = stage.accept(vec![operation("RESERVE", vec![reserved("disk", 40)])]);
    let order = orders(&told).remove(0);
    let total = internal::ResourcesChanged { total: resources("cpus:4;mem:4096;disk:100") };
    stage.rig.say(stage.conn, agent_message::Kind::ResourcesChanged(total));
    stage.result(&order, OperationState::OperationFailed, 1);
    assert_eq!(stage.statuses().pop().expect("an answer").state(), OperationState::OperationFailed);
    assert_eq!(stage.total(), "cpus:4; mem:4096; disk:100");
    assert_eq!(Resources::from_mesos(&stage.offer().resources).unwrap().disk().as_f64(), 100.0);
}

#[test]
fn an_order_that_was_lost_did_not_happen_and_a_new_master_learns_what_did() {
    let mut stage = Stage::new();
    stage.accept(vec![operation("RESERVE", vec![reserved("disk", 40)])]);
    let told = stage.accept(vec![operation("CREATE", vec![volume("v", 10)])]);
    let created = orders(&told).remove(0);
    // The first reached the agent, the second did not.
    let agent = stage.agent.clone();
    let conn = stage.conn;
    stage.rig.handle(Event::AgentDisconnected { conn });
    let first = stage
        .rig
        .master
        .state()
        .agents
        .iter()
        .next()
        .expect("it")
        .operations()
        .find(|known| known.uuid != created.operation.uuid)
        .expect("two")
        .clone();
    let with = |rig: &mut Rig, total: &str, operations| {
        let mut made: Vec<Resource> = resources(total);
        made.push(read(reserved("disk", 40)));
        let again = Register {
            agent_id: Some(agent.as_str().into()),
            checkpointed_resources: made,
            operations,
            ..disk_agent("h")
        };
        rig.register("a", again)
    };
    stage.conn = with(&mut stage.rig, "cpus:4;mem:4096;disk:60", vec![first]);
    let status = stage.statuses().pop().expect("an answer");
    assert_eq!(
        (status.state(), status.operation_id.expect("id").value),
        (OperationState::OperationDropped, "CREATE".into())
    );
    assert_eq!(stage.total(), "cpus:4; mem:4096; disk:60; disk(dynamic dev):40");
    assert_eq!(stage.operations(), 1);
    // Another master: what the agent brings is what there is, and it is offered.
    let mut rig = stage.rig.restarted();
    with(&mut rig, "cpus:4;mem:4096;disk:60", vec![]);
    let info = mesos::FrameworkInfo {
        id: Some(stage.framework.as_str().into()),
        principal: Some("p".into()),
        ..framework_info("f")
    };
    let stream = rig.subscribe(info, "p");
    let offer = rig.offers(stream).pop().expect("an offer");
    let offered = Resources::from_mesos(&offer.resources).unwrap().unallocate();
    assert_eq!(offered.to_string(), "cpus:4; mem:4096; disk:60; disk(dynamic dev):40");
    // This framework does not read stacks of reservations: it gets the older form.
    assert!(
        offer
            .resources
            .iter()
            .any(|one| one.role() == "dev" && one.reservation.is_some() && one.reservations.is_empty())
    );
}

#[test]
fn operators_change_what_nobody_uses() {
    let mut stage = Stage::new();
    let agent = stage.agent.clone();
    let mine = |mut value: Value| {
        for path in ["reservations", "disk"] {
            if path == "reservations" {
                value[path][0]["principal"] = json!("op");
            } else if value.get(path).is_some() {
                value[path]["persistence"]["principal"] = json!("op");
            }
        }
        value
    };
    let call = |kind: &str, list: &str, what: Vec<Value>| {
        let mut value = json!({ "type": kind });
        value[kind.to_ascii_lowercase()] = json!({"agent_id": {"value": agent}, list: what});
        read::<master::Call>(value)
    };
    stage.offer();
    let reserve = call("RESERVE_RESOURCES", "resources", vec![mine(reserved("disk", 40))]);
    assert_eq!(stage.rig.operate(reserve), Some(Answer::Accepted));
    assert_eq!(
        stage.rig.events(stage.stream, event::Type::Rescind).len(),
        1,
        "what was offered is taken back"
    );
    let order = orders(&stage.rig.told(stage.conn)).remove(0);
    assert_eq!(order.framework_id, None);
    assert_eq!(stage.total(), "cpus:4; mem:4096; disk:60; disk(dynamic dev):40");
    stage.result(&order, OperationState::OperationFinished, 1);
    assert!(
        matches!(stage.rig.told(stage.conn).pop(), Some(Kind::AcknowledgeOperation(_))),
        "nobody else takes note"
    );
    assert_eq!(stage.operations(), 0);
    let create = call("CREATE_VOLUMES", "volumes", vec![mine(volume("v", 10))]);
    assert_eq!(stage.rig.operate(create), Some(Answer::Accepted));
    // In use by a task: not destroyed.
    let launch = stage.launch("t", vec![mine(volume("v", 10))]);
    stage.accept(vec![launch]);
    let destroy = call("DESTROY_VOLUMES", "volumes", vec![mine(volume("v", 10))]);
    assert!(
        matches!(stage.rig.operate(destroy.clone()), Some(Answer::Refused(400, words)) if words.contains("in use"))
    );
    let (conn, framework) = (stage.conn, stage.framework.clone());
    stage.rig.update(conn, &framework, "t", TaskState::TaskFinished, 9);
    assert_eq!(stage.rig.operate(destroy), Some(Answer::Accepted));
    let mut nobodys = volume("v", 1);
    nobodys["disk"]["persistence"].as_object_mut().expect("an object").remove("principal");
    for (refused, status, words) in [
        (call("RESERVE_RESOURCES", "resources", vec![reserved("disk", 1)]), 400, "principal"),
        (call("RESERVE_RESOURCES", "resources", vec![mine(reserved("disk", 99))]), 409, "not part of"),
        (call("UNRESERVE_RESOURCES", "resources", vec![mine(reserved("disk", 41))]), 409, "not part of"),
        (call("CREATE_VOLUMES", "volumes", vec![volume("v", 1)]), 400, "does not match"),
        (call("CREATE_VOLUMES", "volumes", vec![nobodys]), 400, "no principal"),
        (read(json!({"type": "RESERVE_RESOURCES"})), 400, "reserve_resources"),
        (
            read(
                json!({"type": "DESTROY_VOLUMES", "destroy_volumes": {"agent_id": {"value": "?"}, "volumes": []}}),
            ),
            400,
            "No agent",
        ),
    ] {
        let answer = stage.rig.operate(refused);
        assert!(
            matches!(&answer, Some(Answer::Refused(code, text)) if *code == status && text.contains(words)),
            "{answer:?} should say {words:?}"
        );
    }
    let unreserve = call("UNRESERVE_RESOURCES", "resources", vec![mine(reserved("disk", 40))]);
    assert_eq!(stage.rig.operate(unreserve), Some(Answer::Accepted));
    assert_eq!(stage.total(), "cpus:4; mem:4096; disk:100");
    stage.rig.handle(Event::AgentDisconnected { conn });
    let late = call("RESERVE_RESOURCES", "resources", vec![mine(reserved("disk", 1))]);
    assert!(
        matches!(stage.rig.operate(late), Some(Answer::Refused(409, words)) if words.contains("not connected"))
    );
}

#[test]
fn what_an_agent_was_told_is_lost_with_it() {
    for (gone, expect) in
        [(false, OperationState::OperationUnreachable), (true, OperationState::OperationGoneByOperator)]
    {
        let mut stage = Stage::new();
        stage.accept(vec![operation("RESERVE", vec![reserved("disk", 40)])]);
        if gone {
            let agent = stage.agent.clone();
            let call = json!({"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": {"value": agent}}});
            assert_eq!(stage.rig.operate(read(call)), Some(Answer::Done));
        } else {
            stage.rig.mute = true;
            stage.rig.pass(600_000);
        }
        let states: Vec<OperationState> = stage.statuses().iter().map(|status| status.state()).collect();
        assert_eq!(states, [expect]);
    }
}

#[test]
fn tasks_share_a_volume_that_is_made_to_be_shared() {
    use plenum_api::mesos::framework_info::capability::Type;
    let mut stage = Stage::new();
    let mut info = mesos::FrameworkInfo { principal: Some("p".into()), ..framework_info("f") };
    info.id = Some(stage.framework.as_str().into());
    let more = [Type::SharedResources, Type::ReservationRefinement];
    let more = more.map(|kind| mesos::framework_info::Capability { r#type: Some(kind as i32) });
    info.capabilities.extend(more);
    stage.stream = stage.rig.subscribe(info, "p");
    let mut shared = volume("v", 10);
    shared["shared"] = json!({});
    let tasks: Vec<Operation> = ["a", "b"].map(|id| stage.launch(id, vec![shared.clone()])).into();
    let (framework, conn) = (stage.framework.clone(), stage.conn);
    let mut operations =
        vec![operation("RESERVE", vec![reserved("disk", 10)]), operation("CREATE", vec![shared.clone()])];
    operations.extend(tasks);
    let told = stage.accept(operations);
    let launched = told.iter().filter(|kind| matches!(kind, Kind::RunTasks(_))).count();
    assert_eq!((launched, stage.rig.updates(stage.stream)), (2, vec![]));
    // It is offered while it is used, and not destroyed until nobody uses it.
    for (end, expect) in [("a", OperationState::OperationError), ("b", OperationState::OperationPending)] {
        stage.rig.update(conn, &framework, end, TaskState::TaskFinished, 9);
        stage.rig.pass(6_000);
        stage.statuses();
        let offered = stage
            .rig
            .master
            .state()
            .offers
            .iter()
            .map(|o| o.resources.persistent_volumes().len())
            .sum::<usize>();
        assert_eq!(offered, 1);
        // Still in use by the other, the first time.
        if end == "a" {
            let told = stage.accept_all(vec![operation("DESTROY", vec![shared.clone()])]);
            assert!(orders(&told).is_empty());
            assert_eq!(stage.statuses().pop().expect("an answer").state(), expect);
        }
    }
    let told = stage.accept_all(vec![operation("DESTROY", vec![shared])]);
    assert_eq!(orders(&told).len(), 1);
    assert_eq!(stage.total(), "cpus:4; mem:4096; disk:90; disk(dynamic dev):10");
}

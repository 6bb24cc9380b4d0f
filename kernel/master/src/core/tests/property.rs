//! Whatever happens, in whatever order: no resource is in two hands, and each share comes back once.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Agent,
    Framework,
    Launch { framework: usize, tasks: usize, reuse: bool },
    Change { framework: usize, kind: usize, id: u32, keep: bool },
    Order { agent: usize, kind: usize, id: u32 },
    Fail(usize),
    Decline(usize),
    Update { task: usize, state: usize },
    Acknowledge(usize),
    Kill(usize),
    Disconnect(usize),
    Rejoin(usize),
    CloseStream(usize),
    Resubscribe(usize),
    Teardown(usize),
    Pass(u64),
    HoldStore(bool),
    FailStore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Agent),
        2 => Just(Step::Framework),
        6 => (0..4usize, 1..4usize, any::<bool>()).prop_map(|(framework, tasks, reuse)| Step::Launch { framework, tasks, reuse }),
        4 => (0..4usize, 0..4usize, 0..3u32, any::<bool>()).prop_map(|(framework, kind, id, keep)| Step::Change { framework, kind, id, keep }),
        2 => (0..4usize, 0..4usize, 0..3u32).prop_map(|(agent, kind, id)| Step::Order { agent, kind, id }),
        1 => (0..4usize).prop_map(Step::Fail),
        2 => (0..4usize).prop_map(Step::Decline),
        6 => (0..20usize, 0..4usize).prop_map(|(task, state)| Step::Update { task, state }),
        3 => (0..20usize).prop_map(Step::Acknowledge),
        1 => (0..20usize).prop_map(Step::Kill),
        1 => (0..4usize).prop_map(Step::Disconnect),
        2 => (0..4usize).prop_map(Step::Rejoin),
        1 => (0..4usize).prop_map(Step::CloseStream),
        2 => (0..4usize).prop_map(Step::Resubscribe),
        1 => (0..4usize).prop_map(Step::Teardown),
        3 => (1..90_000u64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::HoldStore),
        1 => Just(Step::FailStore),
    ]
}

#[derive(Default)]
struct World {
    agents: Vec<(ConnId, String)>,
    frameworks: Vec<(StreamId, String)>,
    tasks: Vec<(String, String, String)>,
    open: Vec<mesos::Offer>,
    names: usize,
}

fn pick<T: Clone>(list: &[T], at: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[at % list.len()].clone())
}

fn act(rig: &mut Rig, world: &mut World, step: Step) {
    match step {
        Step::Agent if world.agents.len() < 4 && !rig.hold => {
            let host = format!("h{}", world.agents.len());
            let conn = rig.register(&host, operations::disk_agent(&host));
            let Some(Kind::Registered(new)) = rig.told(conn).pop() else { panic!("registered") };
            world.agents.push((conn, new.agent_id.value));
        }
        Step::Framework if world.frameworks.len() < 4 && !rig.hold => {
            let framework = rig.framework("f");
            world.frameworks.push(framework);
        }
        Step::Launch { framework, tasks, reuse } => launch(rig, world, framework, tasks, reuse),
        Step::Change { framework, kind, id, keep } => {
            change(rig, world, framework, &change_of(kind, id), keep)
        }
        Step::Order { agent, kind, id } => order(rig, world, agent, &change_of(kind, id)),
        Step::Fail(agent) => fail(rig, world, agent),
        Step::Decline(framework) => {
            let Some((stream, id)) = pick(&world.frameworks, framework) else { return };
            let offer_ids = rig.offers(stream).iter().map(|o| o.id.clone()).collect();
            rig.call_as(stream, "alice", &id, call::Type::Decline, |c| {
                c.decline = Some(call::Decline { offer_ids, filters: None })
            });
        }
        Step::Update { task, state } => {
            let Some((framework, name, agent)) = pick(&world.tasks, task) else { return };
            let states =
                [TaskState::TaskRunning, TaskState::TaskFinished, TaskState::TaskFailed, TaskState::TaskLost];
            if let Some((conn, _)) = world.agents.iter().find(|(_, id)| *id == agent).cloned() {
                rig.update(conn, &framework, &name, states[state], u8::try_from(state).unwrap_or(0));
            }
        }
        Step::Acknowledge(task) => {
            let Some((framework, name, agent)) = pick(&world.tasks, task) else { return };
            let Some((stream, _)) = world.frameworks.iter().find(|(_, id)| *id == framework).cloned() else {
                return;
            };
            for uuid in 0..4 {
                let ack = call::Acknowledge {
                    agent_id: agent.as_str().into(),
                    task_id: name.as_str().into(),
                    uuid: vec![uuid; 16].into(),
                };
                rig.call_as(stream, "alice", &framework, call::Type::Acknowledge, |c| {
                    c.acknowledge = Some(ack)
                });
            }
        }
        Step::Kill(task) => {
            let Some((framework, name, _)) = pick(&world.tasks, task) else { return };
            let Some((stream, _)) = world.frameworks.iter().find(|(_, id)| *id == framework).cloned() else {
                return;
            };
            let kill = call::Kill { task_id: name.as_str().into(), ..Default::default() };
            rig.call_as(stream, "alice", &framework, call::Type::Kill, |c| c.kill = Some(kill));
        }
        Step::Disconnect(agent) => {
            if let Some((conn, _)) = pick(&world.agents, agent) {
                rig.handle(Event::AgentDisconnected { conn });
            }
        }
        Step::Rejoin(agent) => rejoin(rig, world, agent),
        Step::CloseStream(framework) => {
            if let Some((stream, _)) = pick(&world.frameworks, framework) {
                rig.handle(Event::StreamClosed { stream });
            }
        }
        Step::Resubscribe(framework) => {
            if world.frameworks.is_empty() {
                return;
            }
            let at = framework % world.frameworks.len();
            let id = world.frameworks[at].1.clone();
            let info = mesos::FrameworkInfo { id: Some(id.as_str().into()), ..framework_info("f") };
            world.frameworks[at].0 = rig.subscribe(info, "alice");
        }
        Step::Teardown(framework) => {
            if let Some((stream, id)) = pick(&world.frameworks, framework) {
                rig.call_as(stream, "alice", &id, call::Type::Teardown, |_| {});
            }
        }
        Step::Pass(millis) => rig.pass(millis),
        Step::HoldStore(hold) => {
            rig.hold = hold;
            if !hold {
                rig.settle(Ok(()));
            }
        }
        Step::FailStore => rig.settle(Err("down".into())),
        Step::Agent | Step::Framework => {}
    }
}

fn launch(rig: &mut Rig, world: &mut World, framework: usize, count: usize, reuse: bool) {
    let Some((stream, id)) = pick(&world.frameworks, framework) else { return };
    let fresh = rig.offers(stream);
    world.open.extend(fresh.iter().cloned());
    // Old offers, those of others and spent ones are tried, too.
    let chosen = if reuse { pick(&world.open, count * 7) } else { fresh.into_iter().next() };
    let Some(offer) = chosen else { return };
    let agent = offer.agent_id.value.clone();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            world.names += 1;
            let name = format!("t{}", world.names % 30);
            world.tasks.push((id.clone(), name.clone(), agent.clone()));
            task(&name, &agent, "cpus:1.5;mem:100")
        })
        .collect();
    let operation = mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::Launch as i32),
        launch: Some(mesos::offer::operation::Launch { task_infos: tasks }),
        ..Default::default()
    };
    let accept = call::Accept { offer_ids: vec![offer.id], operations: vec![operation], filters: None };
    rig.call_as(stream, "alice", &id, call::Type::Accept, |c| c.accept = Some(accept));
}

/// A reservation, a volume, or the end of one.
fn change_of(kind: usize, id: u32) -> mesos::offer::Operation {
    let stack = serde_json::json!([{"type": "DYNAMIC", "role": "dev", "principal": "op"}]);
    let disk = |amount: u32| serde_json::json!({"name": "disk", "type": "SCALAR", "scalar": {"value": amount}, "reservations": stack});
    let mut volume = disk(10);
    volume["disk"] = serde_json::json!({"persistence": {"id": format!("v{id}"), "principal": "op"},
                                        "volume": {"mode": "RW", "container_path": "data"}});
    match kind {
        0 => operations::operation("RESERVE", vec![disk(10 * (id + 1))]),
        1 => operations::operation("UNRESERVE", vec![disk(10)]),
        2 => operations::operation("CREATE", vec![volume]),
        _ => operations::operation("DESTROY", vec![volume]),
    }
}

fn change(rig: &mut Rig, world: &mut World, framework: usize, what: &mesos::offer::Operation, keep: bool) {
    let Some((stream, id)) = pick(&world.frameworks, framework) else { return };
    let Some(offer) = rig.offers(stream).into_iter().next() else { return };
    let mut operations = vec![what.clone()];
    if keep {
        // Everything that is left is used by a task.
        let left = Resources::from_mesos(&offer.resources).expect("an offer");
        let left = left.apply(&plenum_api::resources::allocated(what, "dev")).unwrap_or(left);
        world.names += 1;
        let name = format!("t{}", world.names % 30);
        let agent = offer.agent_id.value.clone();
        world.tasks.push((id.clone(), name.clone(), agent.clone()));
        let info = mesos::TaskInfo { resources: left.to_mesos(), ..task(&name, &agent, "cpus:1") };
        operations.push(mesos::offer::Operation {
            r#type: Some(mesos::offer::operation::Type::Launch as i32),
            launch: Some(mesos::offer::operation::Launch { task_infos: vec![info] }),
            ..Default::default()
        });
    }
    let accept = call::Accept { offer_ids: vec![offer.id], operations, filters: None };
    rig.call_as(stream, "alice", &id, call::Type::Accept, |c| c.accept = Some(accept));
}

fn order(rig: &mut Rig, world: &World, agent: usize, what: &mesos::offer::Operation) {
    use master::call::{CreateVolumes, DestroyVolumes, ReserveResources, Type, UnreserveResources};
    let Some((_, id)) = pick(&world.agents, agent) else { return };
    let agent_id = mesos::AgentId { value: id };
    let mut call = master::Call::default();
    if let Some(body) = what.reserve.clone() {
        call.set_type(Type::ReserveResources);
        call.reserve_resources =
            Some(ReserveResources { agent_id, resources: body.resources, source: vec![] });
    } else if let Some(body) = what.unreserve.clone() {
        call.set_type(Type::UnreserveResources);
        call.unreserve_resources = Some(UnreserveResources { agent_id, resources: body.resources });
    } else if let Some(body) = what.create.clone() {
        call.set_type(Type::CreateVolumes);
        call.create_volumes = Some(CreateVolumes { agent_id, volumes: body.volumes });
    } else if let Some(body) = what.destroy.clone() {
        call.set_type(Type::DestroyVolumes);
        call.destroy_volumes = Some(DestroyVolumes { agent_id, volumes: body.volumes });
    }
    rig.operate(call);
}

/// An agent answers everything it was told, and says what it has.
fn fail(rig: &mut Rig, world: &World, agent: usize) {
    let Some((conn, id)) = pick(&world.agents, agent) else { return };
    let state = rig.master.state();
    let Some(known) = state.agents.iter().find(|known| *known.id == *id).cloned() else { return };
    for operation in known.operations() {
        let mut status = operation.latest_status.clone();
        status.set_state(mesos::OperationState::OperationFinished);
        status.uuid = Some(operation.uuid.clone());
        let update = internal::OperationUpdate {
            framework_id: operation.framework_id.clone(),
            status,
            latest_status: None,
            operation_uuid: operation.uuid.clone(),
        };
        rig.say(conn, agent_message::Kind::OperationUpdate(update));
    }
    let total = internal::ResourcesChanged { total: known.total.to_mesos() };
    rig.say(conn, agent_message::Kind::ResourcesChanged(total));
}

fn rejoin(rig: &mut Rig, world: &mut World, agent: usize) {
    if world.agents.is_empty() {
        return;
    }
    let at = agent % world.agents.len();
    let id = world.agents[at].1.clone();
    // It names what the master believes there, except every third task.
    let state = rig.master.state();
    let mine = state.tasks.iter().filter(|task| *task.agent_id == *id).enumerate();
    let tasks = mine.filter(|(n, _)| n % 3 != 2).map(|(_, task)| task.describe()).collect();
    let known = state.agents.iter().find(|known| *known.id == *id);
    let register = Register {
        agent_id: Some(id.as_str().into()),
        tasks,
        checkpointed_resources: known.map(|known| known.total.to_mesos()).unwrap_or_default(),
        operations: known.iter().flat_map(|known| known.operations()).cloned().collect(),
        ..operations::disk_agent(&format!("h{at}"))
    };
    world.agents[at].0 = rig.register(&format!("h{at}"), register);
}

/// What must hold after every step.
fn check(rig: &mut Rig) {
    assert_eq!(rig.master.ledger.disagreements, 0, "the ledger refused nothing");
    let state = rig.master.state();
    let totals = state.totals();
    for agent in state.agents.iter() {
        let none = crate::core::Share::default();
        let share = totals.agents.get(&agent.id).unwrap_or(&none);
        let hands = (&share.used + &share.offered).unallocate();
        assert!(agent.total.contains(&hands), "agent {} has {}, in hands {hands}", agent.id, agent.total);
        let report = rig.master.allocator().agent_report(&agent.id).expect("the ledger knows each agent");
        let held = report.held.iter().fold(Resources::new(), |sum, h| &sum + &h.resources.unallocate());
        assert_eq!(held, hands, "the ledger and the records agree about {}", agent.id);
        assert_eq!(&(&report.free + &held), &*agent.total, "nothing is lost or made of {}", agent.id);
    }
    for task in state.tasks.iter() {
        assert!(!(task.held && crate::core::is_terminal(task.state)), "an ended task holds nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_resource_is_in_two_hands(steps in proptest::collection::vec(step(), 1..120)) {
        let mut rig = Rig::new();
        let mut world = World::default();
        for step in steps {
            act(&mut rig, &mut world, step);
            check(&mut rig);
        }
        // At rest, with everybody silent, nothing is offered.
        rig.mute = true;
        rig.hold = false;
        rig.settle(Ok(()));
        rig.settle(Ok(()));
        rig.pass(10_000_000);
        rig.settle(Ok(()));
        check(&mut rig);
        prop_assert!(rig.master.state().offers.is_empty());
    }
}

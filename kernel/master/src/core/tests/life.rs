//! Agents drained, deactivated, reactivated; what survives what.

use plenum_api::master::call::{DeactivateAgent, DrainAgent, MarkAgentGone, ReactivateAgent, Type};

use super::*;

fn drain(agent: &str, seconds: Option<i64>, mark_gone: bool) -> master::Call {
    let max_grace_period =
        seconds.map(|seconds| plenum_api::protobuf::Duration { seconds: Some(seconds), nanos: None });
    let drain = DrainAgent { agent_id: agent.into(), max_grace_period, mark_gone: Some(mark_gone) };
    master::Call { r#type: Some(Type::DrainAgent as i32), drain_agent: Some(drain), ..Default::default() }
}

fn deactivate(agent: &str) -> master::Call {
    master::Call {
        r#type: Some(Type::DeactivateAgent as i32),
        deactivate_agent: Some(DeactivateAgent { agent_id: agent.into() }),
        ..Default::default()
    }
}

fn reactivate(agent: &str) -> master::Call {
    master::Call {
        r#type: Some(Type::ReactivateAgent as i32),
        reactivate_agent: Some(ReactivateAgent { agent_id: agent.into(), cancel_drain: None }),
        ..Default::default()
    }
}

fn cancel(agent: &str) -> master::Call {
    let mut call = reactivate(agent);
    call.reactivate_agent = Some(ReactivateAgent { agent_id: agent.into(), cancel_drain: Some(true) });
    call
}

fn shown(rig: &mut Rig) -> Option<(bool, bool, Option<i32>)> {
    let state = rig.master.state();
    let agent = state.agents.iter().next()?.message(None);
    Some((agent.active, agent.deactivated(), agent.drain_info.map(|info| info.state)))
}

/// The newest answer to an operator; frameworks' calls are accepted.
fn decided(rig: &Rig) -> Option<&Answer> {
    rig.answers.values().rev().find(|answer| **answer != Answer::Accepted)
}

const DRAINING: Option<i32> = Some(mesos::DrainState::Draining as i32);
const DRAINED: Option<i32> = Some(mesos::DrainState::Drained as i32);

#[test]
fn a_drain_is_stored_first_then_ordered_and_ends_when_all_is_acknowledged() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    let offered = rig.offers(stream).len();
    rig.hold = true;
    rig.told(conn);
    assert_eq!(rig.operate(drain(&agent, Some(60), false)), None, "not before it is stored");
    assert!(rig.told(conn).is_empty());
    rig.settle(Err("full".into()));
    assert_eq!(shown(&mut rig), Some((true, false, None)));
    assert!(matches!(rig.answers.values().last(), Some(Answer::Refused(503, _))));
    let reply = rig.operate(drain(&agent, Some(60), false));
    assert_eq!(reply, None);
    rig.settle(Ok(()));
    assert_eq!(rig.answers.values().last(), Some(&Answer::Done));
    let Some(Kind::DrainAgent(order)) = rig.told(conn).into_iter().next() else { panic!("ordered") };
    assert_eq!(order.config.max_grace_period.map(|grace| grace.nanoseconds), Some(60_000_000_000));
    assert_eq!(shown(&mut rig), Some((false, true, DRAINING)));
    assert_eq!(rig.events(stream, event::Type::Rescind).len(), offered, "open offers are taken back");
    assert_eq!(rig.operate(reactivate(&agent)).map(|a| matches!(a, Answer::Refused(400, _))), Some(true));
    rig.hold = false;
    rig.update(conn, &framework, "t", TaskState::TaskKilled, 2);
    assert_eq!(shown(&mut rig), Some((false, true, DRAINING)), "the end is not acknowledged yet");
    rig.acknowledge(stream, &framework, &agent, "t", 2);
    assert_eq!(shown(&mut rig), Some((false, true, DRAINED)));
    assert!(rig.offers(stream).is_empty(), "drained agents are not offered");
    assert_eq!(rig.operate(reactivate(&agent)), Some(Answer::Done));
    assert!(rig.told(conn).iter().any(|kind| matches!(kind, Kind::ResumeAgent(_))));
    assert_eq!(shown(&mut rig), Some((true, false, None)));
    assert_eq!(rig.offers(stream).len(), 1);
    assert!(matches!(rig.operate(reactivate(&agent)), Some(Answer::Refused(400, _))));
}

#[test]
fn a_framework_that_is_away_does_not_hold_a_drain_up_beyond_its_deadline() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    rig.operate(drain(&agent, Some(5), false));
    rig.handle(Event::StreamClosed { stream });
    rig.update(conn, &framework, "t", TaskState::TaskKilled, 2);
    rig.pass(19_000);
    assert_eq!(shown(&mut rig), Some((false, true, DRAINING)));
    rig.pass(2_000);
    assert_eq!(shown(&mut rig), Some((false, true, DRAINED)));
}

#[test]
fn a_drain_survives_the_master_and_the_loss_of_the_agent() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let info = mesos::FrameworkInfo { failover_timeout: Some(36_000.0), ..framework_info("f") };
    let stream = rig.subscribe(info, "alice");
    let framework = rig.subscribed(stream).expect("subscribed");
    rig.running("t", conn, stream, &framework);
    rig.operate(drain(&agent, None, false));
    let tasks =
        |rig: &mut Rig| rig.master.state().tasks.iter().map(|task| task.describe()).collect::<Vec<_>>();
    let running = tasks(&mut rig);
    for lost in [false, true] {
        rig = rig.restarted();
        if lost {
            rig.pass(600_001);
            assert!(rig.store[&format!("agent/{agent}")].windows(11).any(|w| w == b"unreachable"));
        }
        let mut register =
            Register { agent_info: agent_info("a"), version: "1".into(), ..Default::default() };
        register.agent_id = Some(agent.as_str().into());
        register.tasks.clone_from(&running);
        let conn = rig.register("a", register);
        assert!(rig.told(conn).iter().any(|kind| matches!(kind, Kind::DrainAgent(_))), "it is told again");
        assert_eq!(shown(&mut rig), Some((false, true, DRAINING)));
        assert!(rig.free(&agent).contains("cpus"));
    }
    // An agent that believes in a drain that nobody wants (an old copy of the store) is put right.
    let mut rig = Rig::new();
    let register = Register {
        agent_info: agent_info("a"),
        version: "1".into(),
        draining: Some(mesos::DrainConfig::default()),
        ..Default::default()
    };
    let conn = rig.register("a", register);
    assert!(rig.told(conn).iter().any(|kind| matches!(kind, Kind::ResumeAgent(_))));
}

#[test]
fn a_drain_may_end_in_gone_and_an_empty_agent_is_drained_at_once() {
    let mut rig = Rig::new();
    let (_, one) = rig.agent("a");
    assert_eq!(rig.operate(drain(&one, None, false)), Some(Answer::Done));
    assert_eq!(shown(&mut rig), Some((false, true, DRAINED)));
    assert_eq!(rig.operate(drain(&one, None, true)), Some(Answer::Done), "a drain may be ordered anew");
    assert_eq!(rig.master.state().agents.len(), 0);
    assert!(rig.store[&format!("agent/{one}")].windows(4).any(|w| w == b"gone"));
    for call in [
        drain(&one, None, false),
        deactivate(&one),
        drain("nobody", None, false),
        drain(&one, Some(-1), false),
    ] {
        assert!(matches!(rig.operate(call), Some(Answer::Refused(400, _))));
    }
}

#[test]
fn a_deactivated_agent_keeps_its_tasks_and_is_not_offered() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    assert_eq!(rig.offers(stream).len(), 1);
    assert_eq!(rig.operate(deactivate(&agent)), Some(Answer::Done));
    assert!(!rig.told(conn).iter().any(|kind| matches!(kind, Kind::DrainAgent(_) | Kind::KillTask(_))));
    assert_eq!(shown(&mut rig), Some((false, true, None)));
    rig.pass(2_000);
    assert!(rig.offers(stream).is_empty());
    // Gone wins over what comes while it is stored.
    rig.hold = true;
    let gone = master::Call {
        r#type: Some(Type::MarkAgentGone as i32),
        mark_agent_gone: Some(MarkAgentGone { agent_id: agent.as_str().into() }),
        ..Default::default()
    };
    assert_eq!(rig.operate(gone), None);
    assert!(matches!(rig.operate(reactivate(&agent)), Some(Answer::Refused(409, _))));
    rig.settle(Ok(()));
    assert_eq!(rig.master.state().agents.len(), 0);
}

#[test]
fn a_drain_is_called_off_and_stays_so_over_a_failover() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let info = mesos::FrameworkInfo { failover_timeout: Some(36_000.0), ..framework_info("f") };
    let stream = rig.subscribe(info, "alice");
    let framework = rig.subscribed(stream).expect("subscribed");
    rig.running("t", conn, stream, &framework);
    rig.operate(drain(&agent, Some(60), true));
    rig.told(conn);
    assert!(matches!(rig.operate(reactivate(&agent)), Some(Answer::Refused(400, _))), "as Mesos answers");
    rig.hold = true;
    assert_eq!(rig.operate(cancel(&agent)), None, "not before it is stored");
    assert!(rig.told(conn).is_empty());
    // The last task ends while the store thinks; the drain is not over for that.
    rig.update(conn, &framework, "t", TaskState::TaskKilled, 2);
    rig.acknowledge(stream, &framework, &agent, "t", 2);
    rig.settle(Ok(()));
    assert_eq!(decided(&rig), Some(&Answer::Done));
    assert!(rig.told(conn).iter().any(|kind| matches!(kind, Kind::ResumeAgent(_))));
    assert_eq!(shown(&mut rig), Some((true, false, None)));
    rig.hold = false;
    rig.pass(120_000);
    assert_eq!(shown(&mut rig), Some((true, false, None)), "no deadline of the drain comes about");
    assert!(!rig.offers(stream).is_empty(), "it is offered again");
    // The agent had not heard of it when the master went: the next one tells it.
    let mut rig = rig.restarted();
    let mut register = Register { agent_info: agent_info("a"), version: "1".into(), ..Default::default() };
    register.agent_id = Some(agent.as_str().into());
    register.draining = Some(mesos::DrainConfig::default());
    let conn = rig.register("a", register);
    let told = rig.told(conn);
    assert!(told.iter().any(|kind| matches!(kind, Kind::ResumeAgent(_))), "{told:?}");
    assert!(!told.iter().any(|kind| matches!(kind, Kind::DrainAgent(_))), "{told:?}");
    assert_eq!(shown(&mut rig), Some((true, false, None)));
}

#[test]
fn calling_off_is_refused_where_nothing_is_to_be_called_off_or_stored() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    assert!(matches!(rig.operate(cancel(&agent)), Some(Answer::Refused(400, _))), "it serves");
    assert!(matches!(rig.operate(cancel("nobody")), Some(Answer::Refused(400, _))));
    rig.operate(drain(&agent, None, false));
    rig.hold = true;
    assert_eq!(rig.operate(cancel(&agent)), None);
    rig.update(conn, &framework, "t", TaskState::TaskKilled, 2);
    rig.acknowledge(stream, &framework, &agent, "t", 2);
    rig.settle(Err("full".into()));
    rig.hold = false;
    assert!(matches!(decided(&rig), Some(Answer::Refused(503, _))));
    rig.pass(60_000);
    assert_eq!(shown(&mut rig), Some((false, true, DRAINED)), "the drain went on, and ends");
    assert_eq!(rig.operate(cancel(&agent)), Some(Answer::Done), "an ended drain is reactivated as usual");
}

#[test]
fn nodes_are_known_by_name_whoever_leads_and_wherever_they_are() {
    let named = |rig: &mut Rig, node: &str, id: Option<&str>| {
        let conn = rig.connect_as("key", node);
        let agent_id = id.map(Into::into);
        let register = Register {
            agent_id,
            agent_info: agent_info("10.0.0.4"),
            version: "1".into(),
            ..Default::default()
        };
        rig.say(conn, agent_message::Kind::Register(register));
        let state = rig.master.state();
        let agent = state.agents.iter().next().expect("registered");
        (agent.id.to_string(), agent.message(None).node_name)
    };
    let mut rig = Rig::new();
    // Records of before do not have it: it is stored with the next registration.
    let (id, unknown) = named(&mut rig, "", None);
    assert_eq!(unknown, None);
    let mut rig = rig.restarted();
    assert_eq!(named(&mut rig, "h4", Some(&id)).1.as_deref(), Some("h4"));
    let mut rig = rig.restarted();
    let absent = |rig: &mut Rig| {
        rig.master.state().absent.values().next().and_then(|a| a.node_name().map(str::to_owned))
    };
    assert_eq!(absent(&mut rig).as_deref(), Some("h4"), "known before it is back");
    rig.pass(600_001);
    assert_eq!(absent(&mut rig).as_deref(), Some("h4"), "known while it is unreachable");
    assert_eq!(
        named(&mut rig, "h5", Some(&id)),
        (id.clone(), Some("h5".to_owned())),
        "the newest certificate says it"
    );
}

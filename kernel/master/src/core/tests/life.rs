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
        reactivate_agent: Some(ReactivateAgent { agent_id: agent.into() }),
        ..Default::default()
    }
}

fn shown(rig: &mut Rig) -> Option<(bool, bool, Option<i32>)> {
    let state = rig.master.state();
    let agent = state.agents.iter().next()?.message(None);
    Some((agent.active, agent.deactivated(), agent.drain_info.map(|info| info.state)))
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

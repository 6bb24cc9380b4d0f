//! Frameworks: subscribing, being replaced, staying away, being removed; who may call.

use super::*;

fn error(rig: &mut Rig, stream: StreamId) -> Option<String> {
    let message = rig.events(stream, event::Type::Error).pop()?.error.map(|e| e.message);
    assert!(rig.closed_streams.contains(&stream), "an error ends the stream");
    message
}

fn known(name: &str, id: &str) -> mesos::FrameworkInfo {
    mesos::FrameworkInfo { id: Some(id.into()), ..framework_info(name) }
}

#[test]
fn a_registration_is_stored_before_subscribed_is_sent() {
    let mut rig = Rig::new();
    rig.hold = true;
    let stream = rig.subscribe(framework_info("f"), "alice");
    assert!(rig.sent.is_empty() && rig.master.state().frameworks.is_empty());
    rig.settle(Ok(()));
    let id = rig.subscribed(stream).expect("subscribed");
    assert!(rig.store.contains_key(&format!("framework/{id}")));
    assert_eq!(rig.events(stream, event::Type::Heartbeat).len(), 1, "one at once");
    rig.pass(15_000);
    assert_eq!(rig.events(stream, event::Type::Heartbeat).len(), 1);
    let failed = rig.subscribe(framework_info("g"), "alice");
    rig.settle(Err("full".into()));
    assert!(error(&mut rig, failed).is_some());
    assert_eq!(rig.master.state().frameworks.len(), 1);
    assert_eq!(rig.master.state().frameworks[0].info.principal.as_deref(), Some("alice"));
}

#[test]
fn descriptions_that_make_no_sense_are_refused_on_the_stream() {
    type Spoil = fn(&mut mesos::FrameworkInfo);
    let cases: &[(&str, Spoil)] = &[
        ("role with roles", |i| i.role = Some("x".into())),
        ("duplicate", |i| i.roles.push("dev".into())),
        ("bad role", |i| i.roles = vec!["/x".into()]),
        ("roles without capability", |i| i.capabilities.clear()),
        ("negative timeout", |i| i.failover_timeout = Some(-1.0)),
        ("no number", |i| i.failover_timeout = Some(f64::NAN)),
        ("path in the id", |i| i.id = Some("../x".into())),
        ("another's name", |i| i.principal = Some("bob".into())),
    ];
    let mut rig = Rig::new();
    for (what, spoil) in cases {
        let mut info = framework_info("f");
        spoil(&mut info);
        let stream = rig.subscribe(info, "alice");
        assert!(error(&mut rig, stream).is_some(), "{what}");
    }
    assert!(rig.master.state().frameworks.is_empty() && rig.store.is_empty());
}

#[test]
fn a_new_stream_replaces_the_old_one() {
    let mut rig = Rig::new();
    rig.agent("a");
    let (old, id) = rig.framework("f");
    assert_eq!(rig.offers(old).len(), 1);
    let mut info = known("f", &id);
    info.webui_url = Some("http://x".into());
    info.user = "somebody else".into();
    rig.hold = true;
    let new = rig.subscribe(info, "alice");
    assert!(!rig.sent.contains_key(&new), "not before it is stored");
    rig.settle(Ok(()));
    assert_eq!(rig.subscribed(new).as_deref(), Some(&*id));
    assert_eq!(rig.events(old, event::Type::Error).len(), 1);
    assert_eq!(rig.offers(new).len(), 1, "offers are made anew");
    rig.handle(Event::StreamClosed { stream: old });
    let state = rig.master.state();
    assert!(state.frameworks[0].connected);
    assert_eq!(
        (state.frameworks[0].info.webui_url.as_deref(), state.frameworks[0].info.user.as_str()),
        (Some("http://x"), "root")
    );
    assert!(
        matches!(rig.call(old, &id, call::Type::Revive, |_| {}), Answer::Refused(400, _)),
        "the old stream's header"
    );
    assert_eq!(rig.call(new, &id, call::Type::Revive, |_| {}), Answer::Accepted);
    let thief = rig.subscribe(mesos::FrameworkInfo { principal: None, ..known("f", &id) }, "mallory");
    assert!(error(&mut rig, thief).is_some());
    assert_eq!(rig.call(new, &id, call::Type::Revive, |_| {}), Answer::Accepted, "the theft failed");
}

#[test]
fn calls_are_taken_from_the_subscribed_framework_only() {
    let mut rig = Rig::new();
    let (stream, id) = rig.framework("f");
    let nowhere = StreamId(999);
    assert!(
        matches!(rig.call(nowhere, &id, call::Type::Revive, |_| {}), Answer::Refused(400, _)),
        "no header"
    );
    assert!(matches!(rig.call(stream, "unknown", call::Type::Revive, |_| {}), Answer::Refused(400, _)));
    assert!(
        matches!(rig.call(stream, &id, call::Type::Kill, |_| {}), Answer::Refused(400, _)),
        "no kill in it"
    );
    assert!(matches!(rig.call(stream, &id, call::Type::Subscribe, |_| {}), Answer::Refused(400, _)));
    let short = call::Acknowledge { agent_id: "a".into(), task_id: "t".into(), uuid: vec![1].into() };
    assert!(matches!(
        rig.call(stream, &id, call::Type::Acknowledge, |c| c.acknowledge = Some(short)),
        Answer::Refused(400, _)
    ));
    assert!(matches!(
        rig.call_as(stream, "mallory", &id, call::Type::Revive, |_| {}),
        Some(Answer::Refused(400, _))
    ));
    rig.handle(Event::StreamClosed { stream });
    assert!(matches!(rig.call(stream, &id, call::Type::Revive, |_| {}), Answer::Refused(403, _)));
}

#[test]
fn staying_away_too_long_is_the_end() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, id) = rig.framework("f");
    rig.running("t", conn, stream, &id);
    rig.handle(Event::StreamClosed { stream });
    assert_eq!(rig.master.state().offers.len(), 0);
    rig.pass(59_000);
    let stream = rig.subscribe(known("f", &id), "alice");
    assert!(rig.subscribed(stream).is_some());
    rig.pass(61_000);
    assert!(rig.master.state().frameworks[0].connected, "the old timer is nothing");
    rig.handle(Event::StreamClosed { stream });
    rig.told(conn);
    rig.pass(61_000);
    assert!(rig.told(conn).iter().any(|k| matches!(k, Kind::ShutdownFramework(_))));
    let state = rig.master.state();
    assert_eq!((state.frameworks.len(), state.completed.len()), (0, 1));
    assert_eq!(state.completed[0].completed[0].state, TaskState::TaskKilled);
    assert!(rig.free(&agent).contains("cpus:3"), "the task has not ended yet: {}", rig.free(&agent));
    rig.update(conn, &id, "t", TaskState::TaskKilled, 2);
    assert!(rig.free(&agent).contains("cpus:4"));
    let stream = rig.subscribe(known("f", &id), "alice");
    assert_eq!(error(&mut rig, stream).as_deref(), Some("Framework has been removed"));
    let mut rig = rig.restarted();
    let stream = rig.subscribe(known("f", &id), "alice");
    assert_eq!(
        error(&mut rig, stream).as_deref(),
        Some("Framework has been removed"),
        "also after a restart"
    );
}

#[test]
fn teardown_is_answered_when_it_is_durable_and_tells_all_who_ask() {
    let mut rig = Rig::new();
    rig.agent("a");
    let (stream, id) = rig.framework("f");
    assert_eq!(rig.offers(stream).len(), 1);
    rig.hold = true;
    assert_eq!(rig.call_as(stream, "alice", &id, call::Type::Teardown, |_| {}), None);
    let teardown = master::Call {
        r#type: Some(master::call::Type::Teardown as i32),
        teardown: Some(master::call::Teardown { framework_id: id.as_str().into() }),
        ..Default::default()
    };
    assert_eq!(rig.operate(teardown.clone()), None);
    rig.settle(Err("slow".into()));
    assert_eq!(rig.answers.len(), 2);
    assert!(rig.answers.values().all(|answer| matches!(answer, Answer::Refused(503, _))));
    assert_eq!(rig.call(stream, &id, call::Type::Revive, |_| {}), Answer::Accepted, "it lives on");
    assert_eq!(rig.operate(teardown.clone()), None);
    rig.settle(Ok(()));
    assert!(rig.closed_streams.contains(&stream));
    assert!(matches!(rig.operate(teardown), Some(Answer::Refused(400, _))));
    assert_eq!(rig.master.state().offers.len(), 0);
}

#[test]
fn update_framework_changes_roles_and_takes_back_their_offers() {
    let mut rig = Rig::new();
    rig.agent("a");
    let (stream, id) = rig.framework("f");
    assert_eq!(rig.offers(stream).len(), 1);
    let update = |change: fn(&mut mesos::FrameworkInfo), id: &str| {
        let mut info = known("f", id);
        info.principal = Some("alice".into());
        change(&mut info);
        call::UpdateFramework { framework_info: info, ..Default::default() }
    };
    let new = update(|i| i.roles = vec!["ops".into()], &id);
    assert_eq!(
        rig.call(stream, &id, call::Type::UpdateFramework, |c| c.update_framework = Some(new)),
        Answer::Done
    );
    assert_eq!(rig.events(stream, event::Type::Rescind).len(), 1);
    let offers = rig.offers(stream);
    assert_eq!(offers[0].allocation_info.as_ref().and_then(|a| a.role.as_deref()), Some("ops"));
    let bad = update(|i| i.user = "x".into(), &id);
    assert!(matches!(
        rig.call(stream, &id, call::Type::UpdateFramework, |c| c.update_framework = Some(bad)),
        Answer::Refused(400, _)
    ));
}

#[test]
fn operators_hear_of_everything_in_order() {
    let mut rig = Rig::new();
    rig.agent("quiet");
    assert!(rig.published.is_empty(), "nobody listens");
    rig.master.set_watched(true);
    let (conn, agent) = rig.agent("a");
    let (stream, id) = rig.framework("f");
    let offers = rig.offers(stream);
    let offer = offers.iter().find(|offer| offer.agent_id.value == agent).expect("an offer of this agent");
    rig.accept(stream, &id, &[offer], vec![task("t", &agent, "cpus:1")]);
    rig.update(conn, &id, "t", TaskState::TaskRunning, 1);
    rig.update(conn, &id, "t", TaskState::TaskRunning, 1);
    rig.update(conn, &id, "t", TaskState::TaskFinished, 2);
    rig.call(stream, &id, call::Type::Teardown, |_| {});
    use master::event::Type;
    let kinds: Vec<i32> = rig.published.iter().filter_map(|e| e.r#type).collect();
    let expected = [
        Type::AgentAdded,
        Type::FrameworkAdded,
        Type::TaskAdded,
        Type::TaskUpdated,
        Type::TaskUpdated,
        Type::FrameworkRemoved,
    ];
    assert_eq!(kinds, expected.map(|t| t as i32));
}

#[test]
fn weights_and_quota_are_checked_stored_and_kept() {
    let mut rig = Rig::new();
    let weights = |role: &str, weight: f64| master::Call {
        r#type: Some(master::call::Type::UpdateWeights as i32),
        update_weights: Some(master::call::UpdateWeights {
            weight_infos: vec![mesos::WeightInfo { weight, role: Some(role.into()) }],
        }),
        ..Default::default()
    };
    for (role, weight) in [("dev", 0.0), ("dev", f64::NAN), ("a//b", 1.0), ("", 1.0)] {
        assert!(
            matches!(rig.operate(weights(role, weight)), Some(Answer::Refused(400, _))),
            "{role} {weight}"
        );
    }
    assert_eq!(rig.operate(weights("dev", 2.0)), Some(Answer::Done));
    let config = plenum_api::quota::QuotaConfig {
        role: "dev".into(),
        limits: [("cpus".to_owned(), mesos::value::Scalar { value: 1.0 })].into(),
        ..Default::default()
    };
    let quota = |config: plenum_api::quota::QuotaConfig| master::Call {
        r#type: Some(master::call::Type::UpdateQuota as i32),
        update_quota: Some(master::call::UpdateQuota { quota_configs: vec![config], ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(rig.operate(quota(config.clone())), Some(Answer::Done));
    assert!(matches!(
        rig.operate(quota(plenum_api::quota::QuotaConfig { role: "*".into(), ..config })),
        Some(Answer::Refused(400, _))
    ));
    let mut rig = rig.restarted();
    let state = rig.master.state();
    assert_eq!((state.weights.get("dev"), state.quotas.len()), (Some(&2.0), 1));
    rig.agent("a");
    let (stream, _) = rig.framework("f");
    let offers = rig.offers(stream);
    assert_eq!(
        Resources::from_mesos(&offers[0].resources).expect("valid").cpus().as_f64(),
        1.0,
        "the limit holds after the restart"
    );
}

#[test]
fn a_components_successor_may_take_its_framework_over_and_nobody_else() {
    let mut rig = Rig::new();
    let as_caller = |uid: &str| Caller { uid: uid.into(), authenticated: false };
    let first = rig.subscribe_as(framework_info("marathon"), as_caller("plenum://c/services/one"));
    let id = rig.subscribed(first).expect("subscribed");
    let second = rig.subscribe_as(known("marathon", &id), as_caller("plenum://c/services/two"));
    assert_eq!(rig.subscribed(second).as_deref(), Some(&*id));
    for uid in ["", "alice"] {
        let thief = rig
            .subscribe_as(known("marathon", &id), Caller { uid: uid.into(), authenticated: !uid.is_empty() });
        assert!(error(&mut rig, thief).is_some(), "{uid:?}");
    }
    let (_, of_alice) = rig.framework("f");
    let thief = rig.subscribe_as(known("f", &of_alice), as_caller("plenum://c/services/one"));
    assert!(error(&mut rig, thief).is_some());
}

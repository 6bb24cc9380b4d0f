//! What a task costs the owner. Run by hand: `cargo test -p plenum-master --release --lib load -- --ignored --nocapture`.

use super::*;

/// Nanoseconds this thread has spent on a processor.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn launch_run_acknowledge_among_many_agents() {
    const AGENTS: usize = 10_000;
    let mut rig = Rig::new();
    let start = cpu();
    let agents: std::collections::HashMap<String, ConnId> =
        (0..AGENTS).map(|n| rig.agent(&format!("h{n}"))).map(|(conn, id)| (id, conn)).collect();
    println!("register: {} us an agent", (cpu() - start) / 1000 / AGENTS as u64);
    let (stream, framework) = rig.framework("f");
    let start = cpu();
    let offers = rig.offers(stream);
    println!(
        "offer: {} us an offer, {} offers",
        (cpu() - start) / 1000 / offers.len().max(1) as u64,
        offers.len()
    );
    let start = cpu();
    let mut tasks = 0;
    for offer in &offers {
        let agent = offer.agent_id.value.clone();
        let names: Vec<String> = (0..2).map(|n| format!("{agent}-{n}")).collect();
        rig.accept(
            stream,
            &framework,
            &[offer],
            names.iter().map(|name| task(name, &agent, "cpus:1;mem:64")).collect(),
        );
        for name in &names {
            rig.update(agents[&agent], &framework, name, TaskState::TaskRunning, 1);
            rig.acknowledge(stream, &framework, &agent, name, 1);
            tasks += 1;
        }
        rig.told.clear();
        rig.sent.clear();
    }
    println!("launch, RUNNING, acknowledge: {} us a task", (cpu() - start) / 1000 / tasks);
    let start = cpu();
    let state = rig.master.state();
    println!("snapshot of {} tasks: {} us", state.tasks.len(), (cpu() - start) / 1000);
    assert_eq!(state.tasks.len(), usize::try_from(tasks).expect("small"));
    // What the records hold by themselves: the struct, its ids' keys in two tables, the encoded parts.
    let encoded: usize = state
        .tasks
        .iter()
        .map(|task| task.body.len() + task.statuses.iter().map(|s| s.len() + 64).sum::<usize>())
        .sum();
    let each = encoded / state.tasks.len() + size_of::<crate::core::Task>() + 200;
    println!("memory: about {each} bytes a live task");
    assert!(each <= 4096, "the target is 4 KiB");
}

/// Many agents come back to a new leader at once, then idle, then a chatty one and a silent one.
#[test]
fn many_agents_come_back_and_cost_little_while_they_idle() {
    const AGENTS: u64 = 2_000;
    let mut rig = Rig::new();
    let ids: Vec<String> = (0..AGENTS).map(|n| rig.agent(&format!("h{n}")).1).collect();
    let start = cpu();
    let mut rig = rig.restarted();
    println!("records of {AGENTS} agents: {} ms", (cpu() - start) / 1_000_000);
    let start = cpu();
    rig.hold = true;
    for (n, id) in ids.iter().enumerate() {
        let host = format!("h{n}");
        let again = Register {
            agent_info: agent_info(&host),
            agent_id: Some(id.as_str().into()),
            version: "1".into(),
            ..Default::default()
        };
        rig.register(&host, again);
    }
    println!("back: {} us an agent", (cpu() - start) / 1_000 / AGENTS);
    assert!(rig.waiting.is_empty(), "agents that are as before cost no write");
    rig.told.clear();
    rig.pass(1_000);
    let generation = rig.master.state().generation;
    let start = cpu();
    let mut pings = 0;
    for _ in 0..60 {
        rig.now = Now::new(rig.now.mono + Millis(1_000), rig.now.wall + Millis(1_000));
        rig.handle(Event::Tick);
        for (conn, told) in std::mem::take(&mut rig.told) {
            for kind in told {
                let Kind::Ping(ping) = kind else { panic!("only pings: {kind:?}") };
                pings += 1;
                rig.say(conn, agent_message::Kind::Pong(internal::Pong { seq: ping.seq }));
            }
        }
    }
    println!("idle: {pings} pings in 60 s, {} us each with its pong", (cpu() - start) / 1_000 / pings);
    assert!(pings <= AGENTS * 60 / 4 + AGENTS, "one in four seconds each: {pings}");
    assert_eq!(rig.master.state().generation, generation, "pings change nothing that readers see");
    assert_eq!(rig.master.state().agents.len(), ids.len());
}

#[test]
fn who_talks_both_ways_is_not_pinged_and_a_silent_one_is_lost_in_time() {
    let mut rig = Rig::new();
    rig.mute = true;
    let (busy, _) = rig.agent("busy");
    let (silent, lost) = rig.agent("silent");
    let pings =
        |rig: &mut Rig, conn| rig.told(conn).iter().filter(|kind| matches!(kind, Kind::Ping(_))).count();
    rig.told.clear();
    let mut asked = 0;
    for second in 0..40_u64 {
        rig.pass(1_000);
        // A framework that is dead: the master acknowledges its updates itself, so both sides say something.
        rig.update(busy, "dead", "t", TaskState::TaskRunning, u8::try_from(second).expect("small"));
        asked += pings(&mut rig, busy);
        let gone = rig.store[&format!("agent/{lost}")].windows(11).any(|w| w == b"unreachable");
        assert_eq!(gone, second >= 15, "after {} s", second + 1);
    }
    assert_eq!(asked, 0);
    assert!(pings(&mut rig, silent) >= 3, "it was asked before it was given up");
    // The master stood still for a minute: that is nobody's silence.
    rig.now = Now::new(rig.now.mono + Millis(60_000), rig.now.wall + Millis(60_000));
    rig.handle(Event::Tick);
    assert_eq!(pings(&mut rig, busy), 1);
    rig.say(busy, agent_message::Kind::Pong(internal::Pong { seq: 1 }));
    assert_eq!(rig.master.state().agents.len(), 1);
}

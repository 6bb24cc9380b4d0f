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

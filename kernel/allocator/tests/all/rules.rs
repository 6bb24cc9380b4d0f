//! Single rules that scripts cannot write down: refused events, revocable and shared resources, and that visits follow change.

use std::collections::BTreeSet;

use plenum_allocator::{
    AgentSpec, Allocator, AllocatorError, Capabilities, FrameworkSpec, Grant, Holding, Options, Rule, Verdict,
};
use plenum_api::mesos::resource::{DiskInfo, disk_info::Persistence};
use plenum_api::resources::{Amount, Item, Meta, Name, Reservation, Resources, Value};
use plenum_api::{Millis, Now};

const NOW: Now = Now::new(Millis(1000), Millis(0));

fn roles(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|r| r.to_string()).collect()
}

fn framework(list: &[&str], capabilities: Capabilities) -> FrameworkSpec {
    FrameworkSpec { roles: roles(list), capabilities, ..FrameworkSpec::default() }
}

fn agent(total: Resources) -> AgentSpec {
    AgentSpec { total, ..AgentSpec::default() }
}

fn holding<'a>(grant: &'a Grant, resources: &'a Resources, offered: bool) -> Holding<'a> {
    let Grant { framework, role, agent, .. } = grant;
    Holding { framework, role, agent, resources, offered }
}

#[test]
fn refused_events_change_nothing() {
    let mut allocator = Allocator::new(Options::default());
    let total = Resources::cpus_mem(4.0, 4096.0);
    allocator.add_agent("s", &agent(total.clone())).unwrap();
    allocator.add_framework("f", &framework(&["a"], Capabilities::default()), true).unwrap();
    let grant = allocator.cycle(NOW).grants.remove(0);
    let before = allocator.agent_report("s").unwrap();
    let more = Resources::cpus_mem(5.0, 10.0);
    let none = Capabilities::default();
    let unknown = |id: &str| Err(AllocatorError::UnknownFramework(id.to_string()));
    let foreign = Holding { framework: "g", ..holding(&grant, &total, true) };
    let elsewhere = Holding { agent: "t", ..holding(&grant, &total, true) };
    assert!(matches!(
        allocator.recover(holding(&grant, &more, true), None, NOW.mono),
        Err(AllocatorError::NotHeld { .. })
    ));
    assert!(matches!(allocator.recover(foreign, None, NOW.mono), Err(AllocatorError::NotHeld { .. })));
    assert_eq!(allocator.recover(elsewhere, None, NOW.mono), Err(AllocatorError::UnknownAgent("t".into())));
    assert!(matches!(
        allocator.convert(holding(&grant, &more, true), &total),
        Err(AllocatorError::NotHeld { .. })
    ));
    assert_eq!(allocator.convert_free("s", &total, &more), Err(AllocatorError::NotFree("s".into())));
    assert_eq!(allocator.add_agent("s", &agent(more.clone())), Err(AllocatorError::Exists("s".into())));
    assert_eq!(
        allocator.add_framework("f", &framework(&["b"], none), true),
        Err(AllocatorError::Exists("f".into()))
    );
    assert_eq!(allocator.revive("g", &roles(&[])), unknown("g"));
    assert_eq!(allocator.remove_framework("g"), unknown("g"));
    for role in ["", "/a", "a//b", "..", "a b", &"x/".repeat(40), &"y".repeat(2000)] {
        assert!(matches!(allocator.set_weight(role, 2.0), Err(AllocatorError::BadRole(_))), "{role}");
        let spec = framework(&["ok", role], none);
        assert!(
            matches!(allocator.add_framework("g", &spec, true), Err(AllocatorError::BadRole(_))),
            "{role}"
        );
    }
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(allocator.set_weight("a", weight), Err(AllocatorError::BadWeight("a".into())));
    }
    assert_eq!(allocator.agent_report("s").unwrap(), before);
    assert_eq!(allocator.roles().len(), 1);
    assert_eq!(allocator.cycle(NOW).grants, []);
}

#[test]
fn revocable_resources_go_to_the_capable_and_count_against_no_limit() {
    let mut allocator = Allocator::new(Options::default());
    let mut total = Resources::cpus_mem(1.0, 100.0);
    let meta = Meta { revocable: true, ..Meta::default() };
    let revocable = Item::new(Name::CPUS, Value::Scalar(Amount::from_units(3)), meta);
    total.add_item(revocable.clone());
    let limit = [(Name::CPUS, Amount::ZERO), (Name::MEM, Amount::ZERO)].into_iter().collect();
    allocator.set_quota("a", Some(&limit)).unwrap();
    allocator.add_framework("plain", &framework(&["a"], Capabilities::default()), true).unwrap();
    allocator.add_agent("s", &agent(total)).unwrap();
    assert_eq!(allocator.cycle(NOW).grants, []);
    let capable = Capabilities { revocable_resources: true, ..Capabilities::default() };
    allocator.add_framework("capable", &framework(&["a"], capable), true).unwrap();
    let grants = allocator.cycle(NOW).grants;
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0].framework, "capable");
    assert_eq!(grants[0].resources.unallocate(), Resources::from_iter([revocable]));
    let why = allocator.explain("plain", "a", &Resources::cpus_mem(1.0, 1.0), NOW).unwrap();
    assert_eq!((why[0].verdict, why[0].rule), (Verdict::Refused, Rule::QuotaLimit));
}

#[test]
fn a_shared_volume_is_in_one_offer_at_a_time_and_in_use_by_many() {
    let mut allocator = Allocator::new(Options { min_allocatable: Vec::new(), ..Options::default() });
    let capable = Capabilities { shared_resources: true, ..Capabilities::default() };
    let meta = Meta {
        reservations: vec![Reservation::dynamic("a", None)],
        disk: Some(DiskInfo {
            persistence: Some(Persistence { id: "v".into(), ..Default::default() }),
            ..Default::default()
        }),
        shared: true,
        ..Meta::default()
    };
    let volume = Resources::from_iter([Item::new(Name::DISK, Value::Scalar(Amount::from_units(10)), meta)]);
    let mut total = Resources::cpus_mem(1.0, 100.0);
    total += &volume;
    allocator.add_framework("one", &framework(&["a"], capable), true).unwrap();
    allocator.add_framework("two", &framework(&["a"], capable), true).unwrap();
    allocator.add_framework("plain", &framework(&["a"], Capabilities::default()), true).unwrap();
    allocator.add_agent("s", &agent(total.clone())).unwrap();
    let first = allocator.cycle(NOW).grants;
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].framework.as_str(), first[0].resources.unallocate()), ("one", total.clone()));
    // Used: free for the other, and for the first again, one after the other.
    allocator.accepted(holding(&first[0], &total, true)).unwrap();
    let second = allocator.cycle(NOW).grants;
    assert_eq!(second.len(), 1);
    assert_eq!((second[0].framework.as_str(), second[0].resources.unallocate()), ("two", volume.clone()));
    allocator.recover(holding(&second[0], &volume, true), Some(Millis(60_000)), NOW.mono).unwrap();
    let third = allocator.cycle(NOW).grants;
    assert_eq!(third.len(), 1);
    assert_eq!(third[0].framework, "one");
    let report = allocator.agent_report("s").unwrap();
    assert!(report.free.is_empty());
    let share = allocator.roles()[0].share;
    allocator.recover(holding(&third[0], &volume, true), Some(Millis(60_000)), NOW.mono).unwrap();
    assert_eq!(allocator.roles()[0].share, share, "copies count in no share");
    assert_eq!(allocator.agent_report("s").unwrap().free, volume);
}

/// After one agent changed: (agents, frameworks) visited in a cluster of this size where all but one framework filter everything.
fn visits(agents: usize, frameworks: usize) -> (u64, u64, u64) {
    let mut allocator = Allocator::new(Options::default());
    let total = Resources::cpus_mem(4.0, 4096.0);
    for i in 0..frameworks {
        allocator
            .add_framework(
                &format!("f{i}"),
                &framework(&[&format!("r{}", i % 7)], Capabilities::default()),
                true,
            )
            .unwrap();
    }
    for i in 0..agents {
        allocator.add_agent(&format!("s{i}"), &agent(total.clone())).unwrap();
    }
    // Everybody declines what it is offered for an hour; then the last one takes it all.
    let keeper = format!("f{}", frameworks - 1);
    allocator.suppress(&keeper, &roles(&[])).unwrap();
    loop {
        let grants = allocator.cycle(NOW).grants;
        if grants.is_empty() {
            break;
        }
        for grant in grants {
            let back = grant.resources.clone();
            allocator.recover(holding(&grant, &back, true), Some(Millis(3_600_000)), NOW.mono).unwrap();
        }
    }
    allocator.revive(&keeper, &roles(&[])).unwrap();
    let kept = allocator.cycle(NOW).grants;
    assert_eq!(kept.len(), agents);
    // The keeper wants no more, so what comes back is filtered or suppressed by all; then the first framework revives.
    allocator.suppress(&keeper, &roles(&[])).unwrap();
    let back = kept[0].resources.clone();
    allocator.recover(holding(&kept[0], &back, true), None, NOW.mono).unwrap();
    let quiet = allocator.cycle(NOW);
    assert_eq!(quiet.grants, []);
    allocator.revive("f0", &roles(&[])).unwrap();
    let revived = allocator.cycle(NOW);
    assert_eq!(revived.grants.len(), 1);
    assert_eq!(revived.grants[0].framework, "f0");
    assert!(revived.stats.swept <= 256);
    (
        quiet.stats.agents_visited + revived.stats.agents_visited,
        quiet.stats.frameworks_visited + revived.stats.frameworks_visited,
        quiet.stats.compared + revived.stats.compared,
    )
}

#[test]
fn visits_follow_change_not_size() {
    assert_eq!(visits(5, 3), (2, 1, 1));
    assert_eq!(visits(60, 40), (2, 1, 1));
}

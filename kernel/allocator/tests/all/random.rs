//! Random histories: agents, frameworks, roles, weights, limits, reservations, filters and time, against
//! the reference.

use std::collections::{BTreeMap, BTreeSet};

use plenum_allocator::{AgentSpec, Capabilities, FrameworkSpec, Options};
use plenum_api::Millis;
use plenum_api::resources::{Amount, Item, Meta, Name, Quantities, Reservation, Resources, Value};
use proptest::prelude::*;

use crate::pair::{Held, Pair};

const ROLES: [&str; 6] = ["a", "a/b", "a/b/c", "d", "e/f", "*"];
const TOTALS: [&str; 8] = [
    "cpus:4;mem:4096;ports:[31000-31009]",
    "cpus:8;mem:1024;disk:500",
    "cpus:2;mem:2048;gpus:1",
    "cpus:1;mem:512;cpus(a):2;mem(a):512",
    "cpus:1;mem:512;cpus(a/b):2;mem(a/b):256;cpus(d):1;mem(d):100",
    "cpus:0.005;mem:31;ports:[1-2]",
    "cpus(e/f):3;mem(e/f):300;disk(e/f):1000",
    "cpus:16;mem:65536;disk:1000;tags:{x,y}",
];

#[derive(Clone, Debug)]
enum Op {
    AddAgent(u8, u8, u8),
    UpdateAgent(u8, u8, u8),
    RemoveAgent(u8),
    AgentActive(u8, bool),
    AddFramework(u8, u8, u8, u8),
    UpdateFramework(u8, u8, u8, u8),
    RemoveFramework(u8),
    FrameworkActive(u8, bool),
    Suppress(u8, u8),
    Revive(u8, u8),
    Weight(u8, u8),
    Quota(u8, Option<(u8, u8)>),
    Allow(Option<u8>),
    Decline(u16, u8),
    Use(u16, u8, u8),
    Reserve(u16, u8),
    Volume(u16, bool),
    ReserveFree(u8, u8),
    Hold(u8, u8, u8),
    Wait(u16),
    Cycle,
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    let (agent, framework, role) = (0..7u8, 0..6u8, 0..6u8);
    let spec = (framework.clone(), any::<u8>(), any::<u8>(), any::<u8>());
    prop_oneof![
        4 => (agent.clone(), any::<u8>(), any::<u8>()).prop_map(|(a, t, r)| AddAgent(a, t, r)),
        1 => (agent.clone(), any::<u8>(), any::<u8>()).prop_map(|(a, t, r)| UpdateAgent(a, t, r)),
        1 => agent.clone().prop_map(RemoveAgent),
        1 => (agent.clone(), any::<bool>()).prop_map(|(a, b)| AgentActive(a, b)),
        4 => spec.clone().prop_map(|(f, r, c, m)| AddFramework(f, r, c, m)),
        1 => spec.prop_map(|(f, r, c, m)| UpdateFramework(f, r, c, m)),
        1 => framework.clone().prop_map(RemoveFramework),
        2 => (framework.clone(), any::<bool>()).prop_map(|(f, b)| FrameworkActive(f, b)),
        1 => (framework.clone(), any::<u8>()).prop_map(|(f, r)| Suppress(f, r)),
        2 => (framework.clone(), any::<u8>()).prop_map(|(f, r)| Revive(f, r)),
        1 => (role.clone(), 1..6u8).prop_map(|(r, w)| Weight(r, w)),
        2 => (role.clone(), proptest::option::of((0..12u8, 0..12u8))).prop_map(|(r, q)| Quota(r, q)),
        1 => proptest::option::of(any::<u8>()).prop_map(Allow),
        8 => (any::<u16>(), 0..6u8).prop_map(|(i, r)| Decline(i, r)),
        6 => (any::<u16>(), 0..6u8, any::<u8>()).prop_map(|(i, r, p)| Use(i, r, p)),
        2 => (any::<u16>(), role.clone()).prop_map(|(i, r)| Reserve(i, r)),
        1 => (any::<u16>(), any::<bool>()).prop_map(|(i, s)| Volume(i, s)),
        1 => (agent.clone(), role.clone()).prop_map(|(a, r)| ReserveFree(a, r)),
        1 => (agent, framework, role).prop_map(|(a, f, r)| Hold(a, f, r)),
        3 => any::<u16>().prop_map(Wait),
        8 => Just(Cycle),
    ]
}

fn agent_spec(total: u8, place: u8, id: &str) -> AgentSpec {
    let mut resources = Resources::parse(TOTALS[usize::from(total) % TOTALS.len()], "*").unwrap();
    if place & 0x30 == 0x30 {
        let meta = Meta { revocable: true, ..Meta::default() };
        resources.add_item(Item::new(Name::CPUS, Value::Scalar(Amount::from_units(3)), meta));
    }
    let region = match place % 4 {
        0 => Some("away".to_string()),
        1 => Some("home".to_string()),
        _ => None,
    };
    AgentSpec { total: resources, region, hostname: format!("host-{id}") }
}

fn framework_spec(roles: u8, capabilities: u8, minimum: u8) -> FrameworkSpec {
    let bit = |n: u8| capabilities & (1 << n) != 0;
    let names = set_of(roles);
    let mut min_allocatable = BTreeMap::new();
    if minimum.is_multiple_of(4) {
        let cpus = |n| Quantities::from_iter([(Name::CPUS, Amount::from_thousandths(n))]);
        let own = if minimum & 0x40 == 0 { vec![cpus(2500)] } else { vec![cpus(1)] };
        min_allocatable.insert("a".to_string(), own.clone());
        min_allocatable.insert("d".to_string(), if minimum & 0x20 == 0 { own } else { Vec::new() });
    }
    FrameworkSpec {
        suppressed: names.iter().filter(|_| minimum & 0x1f == 1).cloned().collect(),
        roles: names,
        capabilities: Capabilities {
            gpu_resources: bit(0),
            region_aware: bit(1),
            revocable_resources: bit(2),
            shared_resources: bit(3),
            reservation_refinement: bit(4),
        },
        min_allocatable,
    }
}

/// Several roles, or often a single one.
fn set_of(mask: u8) -> BTreeSet<String> {
    let mask = if mask & 0x80 != 0 { 1 << (mask % 6) } else { mask };
    let all = ROLES.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0);
    all.map(|(_, role)| role.to_string()).collect()
}

/// A half of each scalar, all of what is not divisible if `rest`.
fn part_of(resources: &Resources, eighths: u8, rest: bool) -> Resources {
    let mut part = Resources::new();
    for item in resources.iter() {
        match (item.value(), item.meta().is_some_and(Meta::is_indivisible)) {
            (Value::Scalar(n), false) => {
                let n = Amount::from_thousandths(n.thousandths() * i64::from(eighths % 9) / 8);
                part.add_item(Item::new(
                    item.name().clone(),
                    Value::Scalar(n),
                    item.meta().cloned().unwrap_or_default(),
                ));
            }
            _ if rest => part.add_item(item.clone()),
            _ => {}
        }
    }
    part
}

fn plain(resources: &Resources) -> Resources {
    resources.filter(|i| i.meta().is_none() && i.amount().is_some())
}

fn apply(pair: &mut Pair, op: Op) {
    let agent = |a: u8| format!("s{a}");
    let framework = |f: u8| format!("f{f}");
    let refuse = |r: u8| {
        [None, Some(0), Some(1), Some(5000), Some(60_000), Some(u64::MAX)][usize::from(r)].map(Millis)
    };
    match op {
        Op::AddAgent(a, t, r) => pair.add_agent(&agent(a), &agent_spec(t, r, &agent(a))),
        Op::UpdateAgent(a, t, r) => pair.update_agent(&agent(a), &agent_spec(t, r, &agent(a))),
        Op::RemoveAgent(a) => pair.remove_agent(&agent(a)),
        Op::AgentActive(a, on) => pair.agent_active(&agent(a), on),
        Op::AddFramework(f, r, c, m) => {
            pair.add_framework(&framework(f), &framework_spec(r, c, m), c & 0x80 == 0)
        }
        Op::UpdateFramework(f, r, c, m) => pair.update_framework(&framework(f), &framework_spec(r, c, m)),
        Op::RemoveFramework(f) => pair.remove_framework(&framework(f)),
        Op::FrameworkActive(f, on) => pair.framework_active(&framework(f), on),
        Op::Suppress(f, r) => pair.suppress(&framework(f), &set_of(r)),
        Op::Revive(f, r) => pair.revive(&framework(f), &set_of(r)),
        Op::Weight(r, w) => pair.weight(ROLES[usize::from(r)], f64::from(w) / 2.0),
        Op::Quota(r, limits) => {
            let limits = limits.map(|(cpus, mem)| {
                // Often a limit that nothing fits under.
                let (cpus, mem) = if mem % 3 == 0 { (0, 3) } else { (cpus, mem) };
                let mut q = Quantities::new();
                q.set(Name::CPUS, Amount::from_units(cpus.into()));
                if mem > 2 {
                    q.set(Name::MEM, Amount::from_units(i64::from(mem - 3) * 512));
                }
                q
            });
            pair.quota(ROLES[usize::from(r)], limits.as_ref());
        }
        Op::Allow(mask) => {
            let hosts = |m: u8| (0..7).filter(|i| m & (1 << i) != 0).map(|i| format!("host-s{i}")).collect();
            pair.allow(mask.map(hosts));
        }
        Op::Decline(i, r) if !pair.held.is_empty() => {
            let index = usize::from(i) % pair.held.len();
            let all = pair.held[index].resources.clone();
            pair.recover(index, &all, refuse(r));
        }
        Op::Use(i, r, p) if !pair.held.is_empty() => {
            let index = usize::from(i) % pair.held.len();
            let part = part_of(&pair.held[index].resources, p, p & 0x80 != 0);
            pair.recover(index, &part, refuse(r));
        }
        Op::Reserve(i, r) if !pair.held.is_empty() && ROLES[usize::from(r)] != "*" => {
            let index = usize::from(i) % pair.held.len();
            let from = part_of(&plain(&pair.held[index].resources), 4, false);
            let into = from.push_reservation(&Reservation::dynamic(ROLES[usize::from(r)], Some("op".into())));
            // A second one on top refines it.
            let deeper =
                matches!(r, 0 | 1).then(|| into.push_reservation(&Reservation::dynamic("a/b/c", None)));
            pair.convert(index, &from, &deeper.unwrap_or(into));
        }
        Op::Volume(i, shared) if !pair.held.is_empty() => {
            let index = usize::from(i) % pair.held.len();
            let held = pair.held[index].resources.clone();
            let Some(disk) = held.iter().find(|d| *d.name() == Name::DISK && !d.reservations().is_empty())
            else {
                return;
            };
            if disk.is_persistent_volume() || disk.amount() < Some(Amount::from_units(10)) {
                return;
            }
            let ten = Value::Scalar(Amount::from_units(10));
            let mut meta = disk.meta().cloned().unwrap_or_default();
            let from = Resources::from_iter([Item::new(Name::DISK, ten.clone(), meta.clone())]);
            let persistence = plenum_api::mesos::resource::disk_info::Persistence {
                id: format!("v{i}"),
                ..Default::default()
            };
            meta.disk = Some(plenum_api::mesos::resource::DiskInfo {
                persistence: Some(persistence),
                ..Default::default()
            });
            meta.shared = shared;
            pair.convert(index, &from, &Resources::from_iter([Item::new(Name::DISK, ten, meta)]));
        }
        Op::ReserveFree(a, r) if ROLES[usize::from(r)] != "*" => {
            let from = part_of(&plain(&pair.free(&agent(a))), 4, false);
            let into = from.push_reservation(&Reservation::dynamic(ROLES[usize::from(r)], None));
            pair.convert_free(&agent(a), &from, &into);
        }
        Op::Hold(a, f, r) => pair.hold(Held {
            framework: framework(f),
            role: ROLES[usize::from(r)].to_string(),
            agent: agent(a),
            resources: Resources::cpus_mem(0.5, 100.0),
            offered: false,
        }),
        Op::Wait(ms) => pair.now.mono = pair.now.mono + Millis(u64::from(ms) * 7),
        Op::Cycle => drop(pair.cycle()),
        _ => {}
    }
}

fn options(variant: u8) -> Options {
    let mut options =
        Options { region: (variant & 1 == 0).then(|| "home".to_string()), ..Options::default() };
    if variant & 2 != 0 {
        options.min_allocatable.clear();
    }
    if variant & 4 != 0 {
        options.excluded_from_fairness.insert(Name::GPUS);
    }
    options.filter_gpus = variant & 8 == 0;
    options
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn offers_what_the_reference_offers(variant in any::<u8>(), ops in proptest::collection::vec(op(), 1..150)) {
        let mut pair = Pair::new(options(variant));
        for op in ops {
            apply(&mut pair, op);
        }
        pair.cycle();
        // Whatever was held back, in the end all filters end.
        pair.now.mono = Millis(u64::MAX / 2);
        pair.cycle();
    }
}

//! The core by script: a small model of nftables carries the transactions out and must end where the core says.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use plenum_balancer::core::{Kernel, Key, Place, Wanted, plan, skeleton};
use plenum_balancer::listing::{Found, read};
use plenum_discovery::feed::Protocol;
use plenum_discovery::replica::core::VipTable;
use plenum_discovery::replica::socket::{Gone, Tables};

pub fn place(table: &str, range: &str) -> Place {
    Place { table: table.to_owned(), range: range.parse().unwrap() }
}

pub fn line(whole: bool, range: &str, tables: &[(&str, u16, &[&str])]) -> Tables {
    let table = |(address, port, backends): &(&str, u16, &[&str])| VipTable {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port: *port,
        name: None,
        backends: backends.iter().map(|to| to.parse().unwrap()).collect(),
    };
    let tables = tables.iter().map(table).collect();
    Tables { epoch: 1, generation: 1, whole, range: range.parse().unwrap(), tables, gone: Vec::new() }
}

const RANGE: &str = "11.0.0.0/16";

struct World {
    place: Place,
    kernel: Kernel,
    wanted: Wanted,
}

impl World {
    fn new() -> Self {
        Self { place: place("t", RANGE), kernel: Kernel::default(), wanted: Wanted::default() }
    }

    fn tell(&mut self, line: &Tables) -> Option<String> {
        let touched = self.wanted.take(line);
        let (script, after) = plan(&self.place, &self.kernel, &self.wanted, &touched)?;
        assert_eq!(carried_out(&self.kernel, &script), after, "{script}");
        self.kernel = after;
        Some(script)
    }
}

/// What nftables makes of a script: deleting what is not there and adding what is there are errors.
fn carried_out(before: &Kernel, script: &str) -> Kernel {
    let mut kernel = before.clone();
    let key = |text: &str| -> Key {
        let parts: Vec<&str> = text.split(" . ").collect();
        let protocol = if parts[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        (protocol, parts[1].parse().unwrap(), parts[2].parse().unwrap())
    };
    for line in script.lines() {
        if let Some(chain) = line.strip_prefix("add chain ip t spread_") {
            assert!(kernel.chains.insert(chain.parse().unwrap()), "{line}");
            continue;
        }
        if line.starts_with("add rule") {
            continue;
        }
        let (head, elements) = line.trim_end_matches(" }").split_once(" { ").unwrap();
        for element in elements.split(", ") {
            let (left, right) = element.split_once(" : ").unwrap_or((element, ""));
            match head {
                "delete element ip t vips" => assert!(kernel.vips.remove(&key(left)).is_some(), "{element}"),
                "add element ip t vips" => {
                    let count = right.strip_prefix("goto spread_").unwrap().parse().unwrap();
                    assert!(
                        kernel.chains.contains(&count) && kernel.vips.insert(key(left), count).is_none(),
                        "{element}"
                    );
                }
                "delete element ip t slots_tcp" | "add element ip t slots_tcp" => {
                    let (vip, slot) = left.rsplit_once(" . ").unwrap();
                    let at = (key(vip), slot.parse().unwrap());
                    if head.starts_with("delete") {
                        assert!(kernel.slots.remove(&at).is_some(), "{element}");
                    } else {
                        let to: SocketAddrV4 = right.replace(" . ", ":").parse().unwrap();
                        assert!(kernel.slots.insert(at, to).is_none(), "{element}");
                    }
                }
                other => panic!("{other}"),
            }
        }
    }
    kernel
}

#[test]
fn golden_steps() {
    let mut world = World::new();
    let two = line(true, RANGE, &[("11.0.0.1", 80, &["10.0.0.1:9000", "10.0.0.2:9000"])]);
    let want = "add chain ip t spread_2
add rule ip t spread_2 meta l4proto tcp dnat ip to meta l4proto . ip daddr . th dport . numgen random mod 2 map @slots_tcp
add rule ip t spread_2 meta l4proto udp dnat ip to meta l4proto . ip daddr . th dport . numgen random mod 2 map @slots_udp
add element ip t slots_tcp { tcp . 11.0.0.1 . 80 . 0 : 10.0.0.1 . 9000, tcp . 11.0.0.1 . 80 . 1 : 10.0.0.2 . 9000 }
add element ip t vips { tcp . 11.0.0.1 . 80 : goto spread_2 }
";
    assert_eq!(world.tell(&two).as_deref(), Some(want));
    assert_eq!(world.tell(&two), None, "nothing new, no transaction");

    // The first one leaves: the second takes its slot, and nothing else changes.
    let one = line(false, RANGE, &[("11.0.0.1", 80, &["10.0.0.2:9000"])]);
    let want = "add chain ip t spread_1
add rule ip t spread_1 meta l4proto tcp dnat ip to meta l4proto . ip daddr . th dport . numgen random mod 1 map @slots_tcp
add rule ip t spread_1 meta l4proto udp dnat ip to meta l4proto . ip daddr . th dport . numgen random mod 1 map @slots_udp
delete element ip t vips { tcp . 11.0.0.1 . 80 }
delete element ip t slots_tcp { tcp . 11.0.0.1 . 80 . 0, tcp . 11.0.0.1 . 80 . 1 }
add element ip t slots_tcp { tcp . 11.0.0.1 . 80 . 0 : 10.0.0.2 . 9000 }
add element ip t vips { tcp . 11.0.0.1 . 80 : goto spread_1 }
";
    assert_eq!(world.tell(&one).as_deref(), Some(want));
    let gone = Gone { protocol: Protocol::Tcp, address: [11, 0, 0, 1].into(), port: 80 };
    let end = Tables { gone: vec![gone], ..line(false, RANGE, &[]) };
    let want = "delete element ip t vips { tcp . 11.0.0.1 . 80 }\ndelete element ip t slots_tcp { tcp . 11.0.0.1 . 80 . 0 }\n";
    assert_eq!(world.tell(&end).as_deref(), Some(want));
    assert_eq!(world.kernel.chains, BTreeSet::from([1, 2]), "chains stay for the next one");

    let foreign =
        line(false, RANGE, &[("12.0.0.1", 80, &["10.0.0.2:9000"]), ("11.0.0.3", 0, &["10.0.0.2:9000"])]);
    assert_eq!(world.tell(&foreign), None, "addresses outside the range are none of ours");
}

#[test]
fn one_change_among_many_touches_one() {
    let mut world = World::new();
    let addresses: Vec<String> = (1..=200).map(|n| format!("11.0.1.{n}")).collect();
    let backends = ["10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000"];
    let all: Vec<(&str, u16, &[&str])> = addresses.iter().map(|a| (a.as_str(), 80, &backends[..])).collect();
    world.tell(&line(true, RANGE, &all));
    let script = world.tell(&line(false, RANGE, &[("11.0.1.7", 80, &backends[..2])])).unwrap();
    assert_eq!(script.lines().count(), 6, "{script}");
    assert!(script.len() < 500 && !script.contains("11.0.1.8"), "{script}");
    let swapped = ["10.0.0.1:9000", "10.0.0.9:9000"];
    let script = world.tell(&line(false, RANGE, &[("11.0.1.7", 80, &swapped)])).unwrap();
    assert_eq!(script.lines().count(), 2, "one slot: {script}");
}

#[test]
fn random_histories_end_right() {
    let mut seed = 0x0bad_5eed_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut world = World::new();
    for _ in 0..3000 {
        let address = format!("11.0.0.{}", 1 + random(4));
        let backends: Vec<String> =
            (0..6).filter(|_| random(2) == 0).map(|n| format!("10.0.0.{n}:9000")).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let whole = random(20) == 0;
        world.tell(&line(whole, RANGE, &[(&address, 80, &backends)]));
        let key = (Protocol::Tcp, address.parse().unwrap(), 80);
        let held: Vec<String> =
            world.kernel.slots.range((key, 0)..=(key, usize::MAX)).map(|(_, to)| to.to_string()).collect();
        let held_set: BTreeSet<&str> = held.iter().map(String::as_str).collect();
        assert_eq!(held_set, backends.iter().copied().collect());
        assert_eq!(world.kernel.vips.get(&key).copied().unwrap_or(0), held.len());
        assert!(!whole || world.kernel.vips.len() <= 1);
    }
}

/// A listing as nft gives it, of one virtual address with one back end, with the protocol written as told.
fn listing(protocol: &str) -> String {
    let rule = |chain: &str, expr: &str| format!(r#"{{"rule": {{"chain": "{chain}", "expr": [{expr}]}}}}"#);
    let hook = |name: &str| format!(r#"{{"chain": {{"name": "{name}", "hook": "x"}}}}"#);
    let range = r#"{"match": {"right": {"prefix": {"addr": "11.0.0.0", "len": 16}}}}"#;
    let spread = r#"{"dnat": {"addr": {"map": {"key": {"concat": [1, 2, 3, {"numgen": {"mod": 1}}]}}}}}"#;
    let entries = [
        hook("arriving"),
        hook("leaving"),
        hook("returning"),
        rule("choose", ""),
        rule("choose", ""),
        rule("choose", ""),
        rule("arriving", range),
        rule("leaving", range),
        rule("returning", ""),
        rule("returning", ""),
        rule("spread_1", spread),
        rule("spread_1", spread),
        format!(
            r#"{{"map": {{"name": "vips", "elem": [[{{"concat": [{protocol}, "11.0.0.1", 80]}}, {{"goto": {{"target": "spread_1"}}}}]]}}}}"#
        ),
        format!(
            r#"{{"map": {{"name": "slots_tcp", "elem": [[{{"concat": [{protocol}, "11.0.0.1", 80, 0]}}, {{"concat": ["10.0.0.1", 9000]}}]]}}}}"#
        ),
        r#"{"map": {"name": "slots_udp"}}"#.to_owned(),
    ];
    format!(r#"{{"nftables": [{}]}}"#, entries.join(", "))
}

#[test]
fn protocols_are_read_by_name_and_by_number() {
    let place = place("t", RANGE);
    let of = |protocol: &str| read(listing(protocol).as_bytes(), &place);
    for (written, protocol) in [
        (r#""tcp""#, Protocol::Tcp),
        ("6", Protocol::Tcp),
        (r#""6""#, Protocol::Tcp),
        (r#""udp""#, Protocol::Udp),
        ("17", Protocol::Udp),
        (r#""17""#, Protocol::Udp),
    ] {
        let Found::Ours(kernel) = of(written) else { panic!("{written}: {:?}", of(written)) };
        let key = (protocol, "11.0.0.1".parse().unwrap(), 80);
        assert_eq!(kernel.vips.get(&key), Some(&1), "{written}");
        assert_eq!(kernel.slots.get(&(key, 0)).map(ToString::to_string).as_deref(), Some("10.0.0.1:9000"));
    }
    for strange in ["1", r#""icmp""#, "-6", "null"] {
        assert!(matches!(of(strange), Found::Foreign(_)), "{strange}");
    }
}

#[test]
fn strange_listings_are_foreign() {
    let place = place("t", RANGE);
    for text in [
        "",
        "{}",
        "[]",
        r#"{"nftables": 3}"#,
        r#"{"nftables": []}"#,
        r#"{"nftables": [{"map": {"name": "vips", "elem": [3]}}]}"#,
    ] {
        assert!(matches!(read(text.as_bytes(), &place), Found::Foreign(_)), "{text}");
    }
    assert!(
        skeleton(&place).starts_with("add table ip t\ndelete table ip t\n"),
        "made anew in one transaction"
    );
}

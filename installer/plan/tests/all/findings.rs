//! Seeded faults, each found with its host, its reason and a remedy.

use plenum_plan::facts::{Facts, Installed, Leftover, Listening, Probe};
use plenum_plan::findings::{
    Blocked, Finding, Reading, SafeFix, Seen, Severity, endpoint, endpoints_to_try, findings, ways_to_try,
};

use crate::world::{SIX, cluster, good, seen};

fn of(change: impl FnOnce(&mut Facts), name: &str) -> Vec<Finding> {
    let cluster = cluster(SIX);
    let mut seen = seen(&cluster);
    let one: &mut Seen = seen.iter_mut().find(|one| one.name == name).unwrap();
    change(one.facts.as_mut().unwrap());
    findings(&cluster, &seen, &[])
}

#[test]
fn good_hosts_have_none() {
    assert_eq!(of(|_| {}, "m1"), []);
}

fn listening(program: &str, address: &str, port: u16, unit: Option<&str>) -> Listening {
    Listening {
        protocol: "tcp".into(),
        address: address.parse().unwrap(),
        port,
        program: Some(program.into()),
        pid: Some(7),
        unit: unit.map(Into::into),
    }
}

type Change = Box<dyn FnOnce(&mut Facts)>;

fn no(reason: &str) -> Probe {
    Probe { works: Some(false), reason: reason.into() }
}

fn other(instance: &str, single: bool) -> Installed {
    serde_json::from_value(serde_json::json!({"instance": instance, "single": single, "authority": "x"}))
        .unwrap()
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn each_fault_is_found() {
    let cases: Vec<(&str, &str, Severity, &str, Change)> = vec![
        ("m1", "systemd", Severity::Error, "does not run systemd", Box::new(|f| f.systemd = None)),
        ("m1", "systemd", Severity::Error, "systemd 219", Box::new(|f| f.systemd = Some(219))),
        (
            "a1",
            "distribution",
            Severity::Warning,
            "Arch Linux",
            Box::new(|f| (f.os.id, f.os.name) = ("arch".into(), "Arch Linux".into())),
        ),
        ("a1", "architecture", Severity::Error, "riscv64", Box::new(|f| f.arch = "riscv64".into())),
        ("a1", "kernel", Severity::Error, "Linux 3.10.0-1160", Box::new(|f| f.kernel = "3.10.0-1160".into())),
        ("a1", "cgroups", Severity::Error, "no control groups", Box::new(|f| f.cgroups.mode.clear())),
        (
            "a1",
            "cgroups",
            Severity::Error,
            "controller memory",
            Box::new(|f| f.cgroups.controllers.retain(|c| c != "memory")),
        ),
        (
            "a1",
            "overlay",
            Severity::Error,
            "overlay does not work: no module",
            Box::new(|f| drop(f.features.insert("overlay".into(), no("no module")))),
        ),
        (
            "a1",
            "nftables",
            Severity::Error,
            "nftables does not work",
            Box::new(|f| drop(f.features.insert("nftables".into(), no("x")))),
        ),
        (
            "a1",
            "vxlan",
            Severity::Warning,
            "vxlan does not work",
            Box::new(|f| drop(f.features.insert("vxlan".into(), no("x")))),
        ),
        ("m2", "memory", Severity::Error, "512 MiB of memory", Box::new(|f| f.memory = 512 << 20)),
        (
            "m2",
            "disk",
            Severity::Error,
            "100 MiB are free for /var/lib/plenum",
            Box::new(|f| f.disks[0].free = 100 << 20),
        ),
        ("m2", "disk", Severity::Error, "read-only", Box::new(|f| f.disks[0].read_only = true)),
        ("m2", "disk", Severity::Error, "noexec", Box::new(|f| f.disks[1].noexec = true)),
        ("m2", "disk", Severity::Error, "10 inodes", Box::new(|f| f.disks[0].inodes_free = Some(10))),
        (
            "a1",
            "filesystem",
            Severity::Error,
            "does not tell the types",
            Box::new(|f| f.disks[0].d_type = Some(false)),
        ),
        (
            "a1",
            "filesystem",
            Severity::Error,
            "tmpfs, gone after a reboot",
            Box::new(|f| f.disks[0].filesystem = "tmpfs".into()),
        ),
        ("m2", "fsync", Severity::Warning, "45.0 ms", Box::new(|f| f.disks[0].fsync_ms = Some(45.0))),
        (
            "m3",
            "port",
            Severity::Error,
            "nginx (process 7, nginx.service) listens on TCP 0.0.0.0:443",
            Box::new(|f| f.listening.push(listening("nginx", "0.0.0.0", 443, Some("nginx.service")))),
        ),
        (
            "m3",
            "port",
            Severity::Error,
            "etcd (process 7) listens on TCP 10.0.0.3:2379",
            Box::new(|f| f.listening.push(listening("etcd", "10.0.0.3", 2379, None))),
        ),
        (
            "a2",
            "names",
            Severity::Warning,
            "none of its name servers",
            Box::new(|f| f.names.answers = Some(false)),
        ),
        ("a2", "names", Severity::Warning, "its host name a2", Box::new(|f| f.names.own_name = Some(false))),
        ("a2", "root", Severity::Error, "did not run as root", Box::new(|f| f.root = false)),
        (
            "a2",
            "firewall",
            Severity::Warning,
            "firewalld runs",
            Box::new(|f| f.firewall.services.push("firewalld".into())),
        ),
        (
            "a2",
            "firewall",
            Severity::Warning,
            "table inet x chain input",
            Box::new(|f| f.firewall.dropping.push("table inet x chain input".into())),
        ),
        ("a2", "selinux", Severity::Warning, "enforcing", Box::new(|f| f.selinux = "enforcing".into())),
        (
            "a2",
            "address",
            Severity::Error,
            "no interface has 10.0.0.5",
            Box::new(|f| f.addresses = vec!["10.9.9.9".parse().unwrap()]),
        ),
        ("m1", "etcd", Severity::Error, "no program etcd", Box::new(|f| drop(f.programs.remove("etcd")))),
        ("a1", "nft", Severity::Error, "no program nft", Box::new(|f| drop(f.programs.remove("nft")))),
        ("p1", "ip", Severity::Error, "no program ip", Box::new(|f| drop(f.programs.remove("ip")))),
        (
            "p1",
            "leftover",
            Severity::Error,
            "another cluster, prod",
            Box::new(|f| f.plenum.push(other("prod", false))),
        ),
        (
            "p1",
            "leftover",
            Severity::Error,
            "`plenum up` started",
            Box::new(|f| f.plenum.push(other("lab", true))),
        ),
        (
            "p1",
            "leftover",
            Severity::Error,
            "the unit plenum-agent.service",
            Box::new(|f| {
                f.leftovers.push(Leftover { kind: "unit".into(), name: "plenum-agent.service".into() })
            }),
        ),
        (
            "p1",
            "leftover",
            Severity::Error,
            "DC/OS is installed",
            Box::new(|f| f.leftovers.push(Leftover { kind: "dcos".into(), name: "/opt/mesosphere".into() })),
        ),
        (
            "p1",
            "machine-id",
            Severity::Error,
            "machine id of m1",
            Box::new(|f| f.machine_id = "id-m1".into()),
        ),
    ];
    assert!(cases.len() > 30);
    for (host, rule, severity, fact, change) in cases {
        let found = of(change, host);
        assert_eq!(found.len(), 1, "{host} {rule}: {found:#?}");
        let one = &found[0];
        assert_eq!((one.host.as_str(), one.rule.as_str(), one.severity), (host, rule, severity), "{one:?}");
        assert!(one.fact.contains(fact), "{one:?}");
        assert!(!one.need.is_empty() && !one.remedy.is_empty());
    }
}

#[test]
fn what_is_ours_or_spare_is_no_fault() {
    let spare = of(|f| f.listening.push(listening("etcd", "127.0.0.1", 2379, Some("etcd.service"))), "m1");
    assert_eq!(spare, []);
    let ours =
        of(|f| f.listening.push(listening("plenum", "0.0.0.0", 5050, Some("plenum-master.service"))), "m1");
    assert_eq!(ours, []);
    // systemd and the child in which it opens sockets hold those of units whose service does not run yet; where nothing is installed
    // they are somebody else's.
    let opening = |facts: &mut Facts| {
        facts.listening.push(listening("(sd-listen)", "10.0.0.1", 5050, Some("init.scope")));
        facts.listening.push(Listening { pid: Some(1), ..listening("systemd", "10.0.0.1", 5055, None) });
    };
    let begun = of(
        |facts| {
            opening(facts);
            facts.plenum.push(other("lab", false));
        },
        "m1",
    );
    assert_eq!(begun, []);
    assert_eq!(of(opening, "m1").len(), 2);
    let elsewhere = of(|f| f.listening.push(listening("dns", "127.0.0.53", 53, None)), "m1");
    assert_eq!(elsewhere, []);
}

#[test]
fn clocks_are_compared_as_well_as_they_were_read() {
    let cluster = cluster(SIX);
    let at = |ahead: &[(usize, i64, i64)]| {
        let mut seen = seen(&cluster);
        for one in &mut seen {
            one.clock = Some(Reading { ahead_ms: 20, unsure_ms: 5 });
        }
        for (i, ahead_ms, unsure_ms) in ahead {
            seen[*i].clock = Some(Reading { ahead_ms: *ahead_ms, unsure_ms: *unsure_ms });
        }
        findings(&cluster, &seen, &[])
    };
    assert_eq!(at(&[]), []);
    let found = at(&[(2, -4000, 10)]);
    assert_eq!(
        (found[0].host.as_str(), found[0].fact.as_str()),
        ("m3", "its clock is 4020 ms behind the others'")
    );
    assert_eq!(found[0].fix, Some(SafeFix::Clock));
    // It could be the asking that took so long.
    assert_eq!(at(&[(2, -4000, 3900)]), []);
    assert_eq!(at(&[(1, i64::MAX, 0), (2, i64::MIN, 0)]).len(), 2);
}

#[test]
fn ways_that_do_not_work_are_one_finding_a_pair() {
    let cluster = cluster(SIX);
    let block = |from: &str, to: &str, port| Blocked {
        from: from.into(),
        to: to.into(),
        port,
        reason: "deadline".into(),
    };
    let blocked =
        [block("a1", "m1", 5055), block("a1", "m1", 443), block("a1", "m2", 5055), block("x", "m1", 1)];
    let found = findings(&cluster, &seen(&cluster), &blocked);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(
        found[0].fact,
        "it does not reach m1 (10.0.0.1) on TCP 443 (gateway over TLS: deadline), 5055 (master's door for agents: deadline)"
    );
    // One host keeps everybody out: it is named, not those who knock.
    let others = ["m1", "m2", "m3", "a2", "p1"];
    let blocked: Vec<Blocked> = others.into_iter().map(|from| block(from, "a1", 5051)).collect();
    let found = findings(&cluster, &seen(&cluster), &blocked);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].host, "a1");
    assert!(found[0].fact.starts_with("none of the 5 hosts that call it (10.0.0.4) reach it on TCP 5051"));
    let found = findings(&cluster, &seen(&cluster), &blocked[1..]);
    assert_eq!(found.len(), 4, "somebody reaches it: {found:#?}");
    let ways = ways_to_try(&cluster, true);
    let agent = &ways.iter().find(|(name, _)| name == "a1").unwrap().1;
    assert!(agent.contains(&("10.0.0.1".parse().unwrap(), 5055)));
    assert!(!agent.contains(&("10.0.0.1".parse().unwrap(), 2379)), "agents do not speak to etcd");
    assert!(ways[0].1.contains(&("10.0.0.2".parse().unwrap(), 2380)));
}

#[test]
fn an_etcd_outside_that_a_master_does_not_reach_is_named_by_master_and_endpoint() {
    let mut cluster = cluster(SIX);
    cluster.store.endpoints = vec!["https://etcd1.example:2379".into(), "https://[fd00::7]:2379".into()];
    let tried: Vec<(String, u16)> =
        endpoints_to_try(&cluster).into_iter().map(|at| (at.target(), at.port)).collect();
    assert_eq!(tried, [("etcd1.example:2379".into(), 2379), ("[fd00::7]:2379".into(), 2379)]);
    let block = |from: &str, to: &str, reason: &str| Blocked {
        from: from.into(),
        to: to.into(),
        port: 2379,
        reason: reason.into(),
    };
    let blocked = [
        block("m1", "https://etcd1.example:2379", "unresolved"),
        block("m2", "https://etcd1.example:2379", "deadline"),
        block("m2", "https://[fd00::7]:2379", "refused"),
        block("m3", "https://elsewhere:2379", "deadline"),
    ];
    let mut all = seen(&cluster);
    let found = findings(&cluster, &all, &blocked);
    assert_eq!(found.len(), 3, "{found:#?}");
    let expected = Finding {
        host: "m2".into(),
        rule: "store".into(),
        fact: "it does not reach https://etcd1.example:2379 of store.endpoints (deadline)".into(),
        need: "each master reaches every endpoint of the etcd that store.endpoints names".into(),
        remedy: "open TCP port 2379 of etcd1.example for m2 in the firewalls in between, or correct store.endpoints; test on m2 with \
                 `nc -vz etcd1.example 2379`"
            .into(),
        severity: Severity::Error,
        fix: None,
    };
    assert_eq!(found[1], expected);
    assert!(found[0].remedy.starts_with("make the name etcd1.example known on m1"), "{found:#?}");
    assert!(found[2].remedy.starts_with("start etcd there"), "{found:#?}");
    assert!(found[2].remedy.ends_with("`nc -vz fd00::7 2379`"), "{found:#?}");
    // A cluster that lives goes on without some members of its etcd.
    for one in &mut all {
        let facts = one.facts.as_mut().unwrap();
        let there = serde_json::json!({"instance": cluster.name, "single": false, "authority": "x"});
        facts.plenum.push(serde_json::from_value(there).unwrap());
    }
    let found = findings(&cluster, &all, &blocked);
    let stores: Vec<Severity> =
        found.iter().filter(|one| one.rule == "store").map(|one| one.severity).collect();
    assert_eq!(stores, [Severity::Warning; 3]);
}

#[test]
fn endpoints_are_read() {
    for (url, target) in [
        ("https://e1:2379", Some("e1:2379")),
        ("http://10.0.0.9:2379/", Some("10.0.0.9:2379")),
        ("https://e1", Some("e1:443")),
        ("http://e1/", Some("e1:80")),
        ("https://[fd00::7]:2379", Some("[fd00::7]:2379")),
        ("https://[fd00::7]", Some("[fd00::7]:443")),
        ("https://", None),
        ("https://:2379", None),
        ("https://e1:", None),
        ("https://e1:0", None),
        ("https://e1:65536", None),
        ("https://fd00::7:2379", None),
        ("https://[e1]:2379", None),
        ("https://[fd00::7]x", None),
        ("https://user@e1:2379", None),
        ("https://-e1:2379", None),
        ("https://e1';reboot;':2379", None),
        ("etcd://e1:2379", None),
    ] {
        assert_eq!(endpoint(url).map(|at| at.target()).as_deref(), target, "{url}");
    }
}

#[test]
fn repairs_are_commands_only_where_names_are_harmless() {
    let leftover =
        |kind: &str, name: &str| SafeFix::Leftover { kind: kind.into(), name: name.into() }.command();
    assert!(leftover("unit", "plenum-agent.service").is_some());
    for (kind, name) in [
        ("unit", "plenum; rm -rf /"),
        ("unit", "ssh.service"),
        ("folder", "/var/lib/plenum"),
        ("link", "/usr/local/bin/plenum/../../x"),
        ("table", "plenum $(id)"),
    ] {
        assert_eq!(leftover(kind, name), None, "{kind} {name}");
    }
    assert_eq!(SafeFix::Module { name: "a b".into() }.command(), None);
    assert!(SafeFix::Package { name: "etcd-server".into() }.command().is_some());
    let cluster = cluster(SIX);
    let mut facts = good(&cluster, "a1");
    facts.features.insert("overlay".into(), no("no module"));
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    assert_eq!(serde_json::from_str::<Facts>("{}").unwrap(), Facts::default());
}

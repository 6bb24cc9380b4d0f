//! Hosts as they report, made up for tests.

use plenum_plan::cluster::Cluster;
use plenum_plan::facts::{Cgroups, Disk, Facts, Installed, Known, Names, Os, Probe, Unit};
use plenum_plan::findings::Seen;
use plenum_plan::steps::{Given, Plan, plan};
use plenum_plan::{HostSpec, schema};

/// Three masters, two agents, one public node.
pub const SIX: &str = "
name: lab
hosts:
  - {name: m1, address: 10.0.0.1, roles: [master]}
  - {name: m2, address: 10.0.0.2, roles: [master]}
  - {name: m3, address: 10.0.0.3, roles: master}
  - {name: a1, address: 10.0.0.4, roles: [agent], attributes: {rack: 1.10}, zone: z1}
  - {name: a2, address: 10.0.0.5, roles: [agent], resources: 'cpus:2;mem:1024'}
  - {name: p1, address: 10.0.0.6, roles: [public]}
agents: {region: north, zone: z0}
";

pub fn cluster(text: &str) -> Cluster {
    let read = schema::read(text);
    read.cluster.unwrap_or_else(|| panic!("{:?}", read.problems))
}

/// A machine that nothing is wrong with.
pub fn good(cluster: &Cluster, name: &str) -> Facts {
    let host = cluster.host(name).unwrap();
    let works = Probe { works: Some(true), reason: String::new() };
    let disk = |purpose: &str, path: &str| Disk {
        purpose: purpose.into(),
        path: path.into(),
        filesystem: "ext4".into(),
        size: 100 << 30,
        free: 50 << 30,
        inodes_free: Some(1 << 20),
        d_type: Some(true),
        fsync_ms: Some(1.5),
        ..Disk::default()
    };
    Facts {
        version: "0.1.0".into(),
        hostname: name.into(),
        machine_id: format!("id-{name}"),
        addresses: vec![host.address],
        os: Os { id: "debian".into(), version: "12".into(), name: "Debian GNU/Linux 12".into() },
        arch: std::env::consts::ARCH.into(),
        kernel: "6.1.0-30-amd64".into(),
        systemd: Some(252),
        cgroups: Cgroups {
            mode: "v2".into(),
            controllers: ["cpu", "memory", "pids"].map(String::from).to_vec(),
        },
        features: ["overlay", "nftables", "vxlan"].map(|name| (name.to_owned(), works.clone())).into(),
        cpus: 2,
        memory: 4 << 30,
        disks: vec![disk("state", "/var/lib/plenum"), disk("programs", "/opt/plenum")],
        names: Names { servers: vec!["10.0.0.254".into()], own_name: Some(true), answers: Some(true) },
        root: true,
        programs: [("etcd", "3.4.23"), ("nft", "1.0.6"), ("ip", "6.1.0")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..Facts::default()
    }
}

pub fn seen(cluster: &Cluster) -> Vec<Seen> {
    let one = |name: &str| Seen { name: name.into(), facts: Ok(Box::new(good(cluster, name))), clock: None };
    cluster.hosts.iter().map(|host| one(&host.name)).collect()
}

pub fn given() -> Given {
    Given { version: "0.1.0".into(), ..Given::default() }
}

/// The host after its spec was applied.
pub fn apply(seen: &mut [Seen], spec: &HostSpec, masters: &[&HostSpec]) {
    let one = seen.iter_mut().find(|one| one.name == spec.name).unwrap();
    let facts = one.facts.as_mut().unwrap();
    let known = |spec: &&HostSpec| Known { name: spec.name.clone(), address: spec.address };
    facts.plenum = vec![Installed {
        instance: spec.instance.clone(),
        authority: Some("ca".into()),
        version: spec.version.clone(),
        name: spec.name.clone(),
        address: Some(spec.address),
        kinds: spec.kinds.clone(),
        digest: Some(spec.digest()),
        shared: Some(spec.shared.clone()),
        units: vec![Unit { name: "plenum-discovery.service".into(), state: "active".into() }],
        healthy: true,
        problems: Vec::new(),
        masters: masters.iter().map(known).collect(),
        single: false,
    }];
}

/// All hosts after `done` was applied.
pub fn apply_all(seen: &mut [Seen], done: &Plan) {
    let masters: Vec<&HostSpec> =
        done.specs.values().filter(|spec| spec.is(plenum_plan::spec::Kind::Master)).collect();
    for spec in done.specs.values() {
        apply(seen, spec, &masters);
    }
}

/// The plan as lines.
pub fn lines(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        text += &format!("{:?} {} {}: {}\n", step.stage, step.host, step.what.as_str(), step.why);
    }
    text + &format!("unchanged: {}\n", plan.unchanged.join(" "))
}

pub fn planned(cluster: &Cluster, seen: &[Seen]) -> String {
    match plan(cluster, seen, &given()) {
        Ok(plan) => lines(&plan),
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

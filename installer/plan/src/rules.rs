//! The rules that one host must fit, each from its own facts.

use std::net::IpAddr;

use crate::cluster::{Cluster, Host};
use crate::facts::{Disk, Facts};
use crate::findings::{Finding, SafeFix, Severity};
use crate::ports::{Protocol, ports};
use crate::spec::Kind;

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The host as the file has it.
    pub host: &'a Host,
    /// What it reports.
    pub facts: &'a Facts,
    /// Whether masters run etcd members of their own.
    pub etcd: bool,
}

const OLDEST_KERNEL: (u32, u32) = (4, 18);
const OLDEST_SYSTEMD: u32 = 232;
const MIB: u64 = 1 << 20;
/// Milliseconds. etcd's own advice is a 99th percentile of 10; a median of 20 endangers its elections.
const SLOW_FSYNC: f64 = 20.0;

/// Adds the findings about one host.
pub fn host(case: &Case<'_>, all: &mut Vec<Finding>) {
    let mut out = Out { host: &case.host.name, all };
    system(case, &mut out);
    kernel(case, &mut out);
    memory(case, &mut out);
    for disk in &case.facts.disks {
        storage(case, disk, &mut out);
    }
    listening(case, &mut out);
    names(case, &mut out);
    firewall(case, &mut out);
    programs(case, &mut out);
    etcd(case, &mut out);
    earlier(case, &mut out);
}

struct Out<'a> {
    host: &'a str,
    all: &'a mut Vec<Finding>,
}

impl Out<'_> {
    fn say(&mut self, severity: Severity, rule: &str, words: [String; 3], fix: Option<SafeFix>) {
        let [fact, need, remedy] = words;
        let (host, rule) = (self.host.to_owned(), rule.to_owned());
        self.all.push(Finding { host, rule, fact, need, remedy, severity, fix });
    }

    fn error(
        &mut self,
        rule: &str,
        fact: impl Into<String>,
        need: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.say(Severity::Error, rule, [fact.into(), need.into(), remedy.into()], None);
    }

    fn warn(
        &mut self,
        rule: &str,
        fact: impl Into<String>,
        need: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.say(Severity::Warning, rule, [fact.into(), need.into(), remedy.into()], None);
    }
}

fn system(case: &Case<'_>, out: &mut Out<'_>) {
    let facts = case.facts;
    if !facts.root {
        out.error(
            "root",
            "the program that looked did not run as root",
            "the installer must be root",
            "set ssh.user to root, or give that user sudo",
        );
    }
    match facts.systemd {
        None => out.error(
            "systemd",
            format!("{} does not run systemd", os(facts)),
            "a distribution with systemd",
            "use Debian, Ubuntu LTS or another distribution with systemd",
        ),
        Some(version) if version < OLDEST_SYSTEMD => out.error(
            "systemd",
            format!("systemd {version}"),
            format!("systemd {OLDEST_SYSTEMD} or newer"),
            "upgrade the distribution",
        ),
        Some(_) => {}
    }
    let tried = matches!(facts.os.id.as_str(), "debian" | "ubuntu");
    if !tried && facts.systemd.is_some() {
        out.warn(
            "distribution",
            os(facts),
            "Debian and Ubuntu LTS are tested; others with systemd should work",
            "go on, and tell if it does not",
        );
    }
    // The program that reports was built for our architecture: another one cannot even start it.
    if !facts.arch.is_empty() && facts.arch != std::env::consts::ARCH {
        out.error(
            "architecture",
            facts.arch.clone(),
            std::env::consts::ARCH,
            "use hosts of the architecture that this program was built for",
        );
    }
    if facts.selinux == "enforcing" {
        out.warn(
            "selinux",
            "SELinux is enforcing",
            "there is no policy for it yet",
            "set it to permissive if units fail to start: setenforce 0",
        );
    }
    if !facts.addresses.is_empty() && !facts.addresses.contains(&case.host.address) {
        let have: Vec<String> = facts.addresses.iter().map(IpAddr::to_string).collect();
        out.error(
            "address",
            format!("no interface has {}; there are {}", case.host.address, have.join(", ")),
            "the host has the address by which others reach it",
            "put the host's own address into the file; where SSH needs another one, set its ssh.host",
        );
    }
}

fn os(facts: &Facts) -> String {
    if facts.os.name.is_empty() { "an unknown distribution".to_owned() } else { facts.os.name.clone() }
}

fn kernel(case: &Case<'_>, out: &mut Out<'_>) {
    let facts = case.facts;
    let mut numbers = facts.kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST_KERNEL
    {
        out.error(
            "kernel",
            format!("Linux {}", facts.kernel),
            format!("Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
            "upgrade the distribution's kernel",
        );
    }
    if facts.cgroups.mode.is_empty() {
        out.error(
            "cgroups",
            "no control groups are mounted",
            "control groups, version 2 or 1",
            "boot without options that switch them off, with systemd",
        );
    }
    let runs_tasks = case.host.roles.iter().any(|kind| *kind != Kind::Master);
    for controller in ["cpu", "memory", "pids"] {
        if runs_tasks
            && !facts.cgroups.mode.is_empty()
            && !facts.cgroups.controllers.iter().any(|c| c == controller)
        {
            let text = format!("the control group controller {controller} cannot be used");
            let remedy = format!("remove cgroup_disable={controller} from the kernel's command line");
            if controller == "pids" {
                out.warn("cgroups", text, "limits of tasks", remedy);
            } else {
                out.error("cgroups", text, "limits of tasks", remedy);
            }
        }
    }
    for (feature, module, needed) in
        [("overlay", "overlay", runs_tasks), ("nftables", "nf_tables", true), ("vxlan", "vxlan", false)]
    {
        let Some(probe) = facts.features.get(feature) else { continue };
        if probe.works != Some(false) {
            continue;
        }
        let severity = if needed { Severity::Error } else { Severity::Warning };
        let need = match feature {
            "overlay" => "overlayfs, for the file systems of containers",
            "nftables" => "nftables, for virtual addresses",
            _ => "vxlan, for networks of containers between hosts",
        };
        let remedy = format!("load the module: modprobe {module}; or use the distribution's own kernel");
        let fact = format!("{feature} does not work: {}", probe.reason);
        let fix = SafeFix::Module { name: module.to_owned() };
        out.say(severity, feature, [fact, need.to_owned(), remedy], Some(fix));
    }
}

fn memory(case: &Case<'_>, out: &mut Out<'_>) {
    let limits = &case.cluster.limits;
    let mut need = 0;
    if case.host.is(Kind::Master) {
        need = u64::from(limits.master_memory_mib);
    }
    if case.host.roles.iter().any(|kind| *kind != Kind::Master) {
        need = need.max(u64::from(limits.agent_memory_mib));
    }
    let have = case.facts.memory / MIB;
    // A machine sold with 1024 MiB shows a little less.
    if case.facts.memory > 0 && have < need.saturating_sub(need / 8) {
        out.error(
            "memory",
            format!("{have} MiB of memory"),
            format!("{need} MiB"),
            "use a larger machine, or lower limits.master_memory_mib or agent_memory_mib",
        );
    }
}

fn storage(case: &Case<'_>, disk: &Disk, out: &mut Out<'_>) {
    if disk.read_only {
        out.error(
            "disk",
            format!("{} is mounted read-only", disk.path),
            "it must be writable",
            "remount it, and look in the kernel's log for why",
        );
        return;
    }
    if disk.purpose == "programs" && disk.noexec {
        out.error(
            "disk",
            format!("{} is mounted with noexec", disk.path),
            "programs run from there",
            format!("remount it: mount -o remount,exec {}", disk.path),
        );
    }
    if disk.purpose != "state" {
        return;
    }
    let (free, need) = (disk.free / MIB, u64::from(case.cluster.limits.disk_free_mib));
    if disk.size > 0 && free < need {
        out.error(
            "disk",
            format!("{free} MiB are free for {} ({}, {} MiB)", disk.path, disk.filesystem, disk.size / MIB),
            format!("{need} MiB"),
            "free some, mount a larger disk there, or lower limits.disk_free_mib",
        );
    }
    if disk.inodes_free.is_some_and(|inodes| inodes < 20_000) {
        out.error(
            "disk",
            format!("{} inodes are free below {}", disk.inodes_free.unwrap_or(0), disk.path),
            "20000",
            "delete small files, or make the file system anew with more inodes",
        );
    }
    if disk.d_type == Some(false) {
        out.error(
            "filesystem",
            format!("{} below {} does not tell the types of directory entries", disk.filesystem, disk.path),
            "overlayfs needs d_type",
            "make the XFS anew with `mkfs.xfs -n ftype=1`, or use ext4",
        );
    }
    if matches!(disk.filesystem.as_str(), "nfs" | "nfs4" | "cifs" | "9p" | "fuse" | "fuseblk" | "vfat") {
        out.error(
            "filesystem",
            format!("{} is {}", disk.path, disk.filesystem),
            "a local file system: locks and fsync must mean what they say",
            "mount ext4, XFS or btrfs there",
        );
    }
    if matches!(disk.filesystem.as_str(), "tmpfs" | "ramfs") {
        out.error(
            "filesystem",
            format!("{} is {}, gone after a reboot", disk.path, disk.filesystem),
            "a file system on disk",
            "mount a disk there",
        );
    }
    if let Some(ms) = disk.fsync_ms
        && case.host.is(Kind::Master)
        && ms > SLOW_FSYNC
    {
        out.warn(
            "fsync",
            format!("a write takes {ms:.1} ms to be durable below {}", disk.path),
            format!(
                "{SLOW_FSYNC} ms on a master: each write of the cluster waits for it, and elections suffer"
            ),
            "put the state on an SSD of the master's own",
        );
    }
}

fn listening(case: &Case<'_>, out: &mut Out<'_>) {
    let installed = case.facts.installed(&case.cluster.name).is_some_and(|installed| !installed.single);
    for port in ports(&case.host.kinds(), case.etcd) {
        let taken = case.facts.listening.iter().find(|socket| {
            let ours = socket.unit.as_deref().is_some_and(|unit| unit.starts_with("plenum-"))
                // Sockets of units are systemd's until their service runs; a child of its own opens them.
                || (installed && (socket.pid == Some(1) || socket.program.as_deref() == Some("(sd-listen)")))
                || (installed
                    && socket.program.as_deref().is_some_and(|program| program.starts_with("plenum")));
            // The distribution's own member, alone on loopback, is stopped when ours comes.
            let spare = matches!(port.number, 2379 | 2380)
                && socket.address.is_loopback()
                && socket.unit.as_deref() == Some("etcd.service");
            let own_etcd = installed && case.etcd && socket.program.as_deref() == Some("etcd");
            let there = socket.address.is_unspecified() || socket.address == case.host.address;
            // DNS is on loopback addresses of our own, and on masters' address.
            let there = there
                || (socket.address.is_loopback()
                    && socket.address.to_string() == "127.0.0.1"
                    && port.number != 53);
            socket.port == port.number
                && socket.protocol == port.protocol.as_str()
                && there
                && !ours
                && !spare
                && !own_etcd
        });
        let Some(socket) = taken else { continue };
        let who = match (&socket.program, socket.pid, &socket.unit) {
            (Some(program), Some(pid), Some(unit)) => format!("{program} (process {pid}, {unit})"),
            (Some(program), Some(pid), None) => format!("{program} (process {pid})"),
            _ => "somebody".to_owned(),
        };
        let protocol = if port.protocol == Protocol::Udp { "UDP" } else { "TCP" };
        let remedy = match &socket.unit {
            // What was started in a login is in sshd's unit: stopping that would lock the admin out.
            Some(unit) if unit.starts_with("ssh") => {
                "stop it, or have it listen on another address".to_owned()
            }
            Some(unit) if unit.ends_with(".service") || unit.ends_with(".socket") => {
                format!("stop it: systemctl disable --now {unit}")
            }
            _ => "stop it, or have it listen on another address".to_owned(),
        };
        out.error(
            "port",
            format!("{who} listens on {protocol} {}:{}", socket.address, socket.port),
            format!("the port is {}'s", port.what),
            remedy,
        );
    }
}

fn names(case: &Case<'_>, out: &mut Out<'_>) {
    let names = &case.facts.names;
    if names.answers == Some(false) {
        out.warn(
            "names",
            format!("none of its name servers answers: {}", names.servers.join(", ")),
            "names outside of the cluster are asked there",
            "correct /etc/resolv.conf, or set networks.resolvers",
        );
    }
    if names.own_name == Some(false) {
        out.warn(
            "names",
            format!("its host name {} leads to no address of its own", case.facts.hostname),
            "sudo and many programs look it up",
            format!("add to /etc/hosts: {} {}", case.host.address, case.facts.hostname),
        );
    }
}

fn firewall(case: &Case<'_>, out: &mut Out<'_>) {
    let firewall = &case.facts.firewall;
    let numbers: Vec<String> = ports(&case.host.kinds(), case.etcd)
        .iter()
        .filter(|port| port.from != crate::ports::From::Itself && port.protocol == Protocol::Tcp)
        .map(|port| port.number.to_string())
        .collect();
    for service in firewall.services.iter().filter(|service| matches!(service.as_str(), "firewalld" | "ufw"))
    {
        let remedy = match service.as_str() {
            "ufw" => format!(
                "for each host's address: ufw allow proto tcp from ADDRESS to any port {}",
                numbers.join(",")
            ),
            _ => format!(
                "firewall-cmd --permanent --add-port={{{}}}/tcp && firewall-cmd --reload, or add the hosts' addresses to the zone trusted",
                numbers.join(",")
            ),
        };
        out.warn(
            "firewall",
            format!("{service} runs"),
            format!("the other hosts reach it on TCP {}, and tasks on theirs", numbers.join(", ")),
            remedy,
        );
    }
    for chain in &firewall.dropping {
        out.warn(
            "firewall",
            format!("{chain} drops what no rule lets in"),
            format!("the other hosts reach it on TCP {}, and tasks on theirs", numbers.join(", ")),
            "let the other hosts' addresses in",
        );
    }
}

/// Programs that the balancer runs on every host.
fn programs(case: &Case<'_>, out: &mut Out<'_>) {
    for (program, package, what) in [
        ("nft", "nftables", "sets the rules of virtual addresses"),
        ("ip", "iproute2", "sets routes and addresses"),
    ] {
        if case.facts.programs.contains_key(program) {
            continue;
        }
        let remedy = format!("install the package {package}");
        let fact = format!("there is no program {program}, or it does not run");
        let fix = SafeFix::Package { name: package.to_owned() };
        out.say(Severity::Error, program, [fact, format!("{program} {what}"), remedy], Some(fix));
    }
}

fn etcd(case: &Case<'_>, out: &mut Out<'_>) {
    if !case.etcd || !case.host.is(Kind::Master) || case.cluster.store.binary.is_some() {
        return;
    }
    if case.facts.programs.contains_key("etcd") {
        return;
    }
    let package =
        if case.facts.os.id == "debian" || case.facts.os.id == "ubuntu" { "etcd-server" } else { "etcd" };
    out.say(
        Severity::Error,
        "etcd",
        [
            "there is no program etcd".to_owned(),
            "masters keep the cluster's state on etcd".to_owned(),
            format!("install the package {package}, or set store.binary to an etcd that is sent along"),
        ],
        Some(SafeFix::Package { name: package.to_owned() }),
    );
}

fn earlier(case: &Case<'_>, out: &mut Out<'_>) {
    let name = &case.cluster.name;
    for installed in &case.facts.plenum {
        if installed.instance == *name && installed.single {
            out.error(
                "leftover",
                format!("`plenum up` started a datacenter of one machine named {name} here"),
                "a host that belongs to no other",
                format!("plenum down --instance {name} --purge on the host, or choose another name"),
            );
        } else if installed.instance != *name && !installed.single {
            out.error(
                "leftover",
                format!("it belongs to another cluster, {}", installed.instance),
                "a host of one cluster only: ports are the same",
                format!(
                    "plenum host remove --instance {} on the host, or take it out of the file",
                    installed.instance
                ),
            );
        }
    }
    for leftover in &case.facts.leftovers {
        let (kind, what) = (leftover.kind.as_str(), &leftover.name);
        // The slice above those of the clusters that are here.
        if !case.facts.plenum.is_empty() && kind == "unit" && what == "plenum.slice" {
            continue;
        }
        if kind == "dcos" || kind == "mesos" {
            let product = if kind == "dcos" { "DC/OS" } else { "Mesos" };
            out.error(
                "leftover",
                format!("{product} is installed: {what}"),
                "its ports are ours",
                format!("uninstall {product} on the host first"),
            );
            continue;
        }
        let fix = SafeFix::Leftover { kind: kind.to_owned(), name: what.clone() };
        let fix = fix.command().is_some().then_some(fix);
        let severity = if kind == "folder" || kind == "unit" { Severity::Error } else { Severity::Warning };
        let remedy = if kind == "folder" {
            format!("look what is in it; then on the host: plenum host remove --purge, or rm -r {what}")
        } else {
            "on the host: plenum host remove --purge; or here: --fix".to_owned()
        };
        let fact = format!("an earlier installation left the {kind} {what}");
        out.say(severity, "leftover", [fact, "a clean host".to_owned(), remedy], fix);
    }
}

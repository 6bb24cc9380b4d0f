//! The machine itself: distribution, kernel, systemd, control groups, memory, clock, names, programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use plenum_plan::facts::{Cgroups, Names, Os};

use super::text;
use crate::run::run;

const SHORT: Duration = Duration::from_secs(5);

pub fn hostname() -> String {
    text("/proc/sys/kernel/hostname").trim().to_owned()
}

pub fn machine_id() -> String {
    text("/etc/machine-id").trim().to_owned()
}

pub fn kernel() -> String {
    text("/proc/sys/kernel/osrelease").trim().to_owned()
}

pub fn addresses() -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        if let Some(ip) = v4.or(v6).filter(|ip| !ip.is_loopback() && !link_local(*ip)) {
            found.insert(ip);
        }
    }
    found.into_iter().collect()
}

fn link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

pub fn os() -> Os {
    parse_os(&text("/etc/os-release"))
}

fn parse_os(release: &str) -> Os {
    let value = |key: &str| {
        let found =
            release.lines().find_map(|line| line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')));
        found.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    Os { id: value("ID"), version: value("VERSION_ID"), name: value("PRETTY_NAME") }
}

/// The version of systemd; none where it does not run.
#[must_use]
pub fn systemd() -> Option<u32> {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let said = run("systemctl", &["--version"], SHORT);
    let word = said.out.split_whitespace().nth(1)?;
    word.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

pub fn virtualisation() -> String {
    // It ends with 1 and says `none` on bare metal.
    run("systemd-detect-virt", &[], SHORT).out.trim().to_owned()
}

pub fn cgroups() -> Cgroups {
    parse_cgroups(&text("/proc/self/mountinfo"), |mount| text(format!("{mount}/cgroup.controllers")))
}

fn parse_cgroups(mountinfo: &str, controllers_of: impl Fn(&str) -> String) -> Cgroups {
    const KNOWN: [&str; 6] = ["cpu", "cpuset", "io", "blkio", "memory", "pids"];
    let (mut v1, mut v2) = (false, false);
    let mut controllers = BTreeSet::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup") => {
                v1 = true;
                let options = right.nth(1).unwrap_or_default();
                controllers.extend(options.split(',').filter(|o| KNOWN.contains(o)).map(str::to_owned));
            }
            Some("cgroup2") => {
                v2 = true;
                let mount = left.split(' ').nth(4).unwrap_or_default();
                let offered = controllers_of(mount);
                controllers
                    .extend(offered.split_whitespace().filter(|o| KNOWN.contains(o)).map(str::to_owned));
            }
            _ => {}
        }
    }
    let mode = match (v1, v2) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "",
    };
    Cgroups { mode: mode.to_owned(), controllers: controllers.into_iter().collect() }
}

/// Bytes of memory and of swap.
pub fn memory() -> (u64, u64) {
    let info = text("/proc/meminfo");
    let kib = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("MemTotal:").saturating_mul(1024), kib("SwapTotal:").saturating_mul(1024))
}

pub fn selinux() -> String {
    match text("/sys/fs/selinux/enforce").trim() {
        "1" => "enforcing".to_owned(),
        "0" => "permissive".to_owned(),
        _ => String::new(),
    }
}

/// The service that sets the clock, and whether the kernel takes it for right.
pub fn clock() -> (Option<String>, Option<bool>) {
    let services = ["chrony", "chronyd", "systemd-timesyncd", "ntpsec", "ntp", "ntpd"];
    let units: Vec<String> = services.iter().map(|name| format!("{name}.service")).collect();
    let mut arguments = vec!["is-active"];
    arguments.extend(units.iter().map(String::as_str));
    let said = run("systemctl", &arguments, SHORT);
    let running = said.out.lines().zip(services).find(|(state, _)| *state == "active");
    let said = run("timedatectl", &["show", "-p", "NTPSynchronized", "--value"], SHORT);
    let synchronised = match said.out.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    (running.map(|(_, name)| name.to_owned()), synchronised)
}

pub fn programs() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let asked: [(&str, &[&str]); 5] = [
        ("etcd", &["--version"]),
        ("nft", &["--version"]),
        ("ip", &["-V"]),
        ("getent", &["--version"]),
        ("iptables", &["--version"]),
    ];
    for (program, arguments) in asked {
        let said = run(program, arguments, SHORT);
        if said.ok {
            let line = if said.out.is_empty() { said.err } else { said.out };
            let line = line.lines().next().unwrap_or_default();
            let digit = |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
            let version = line.split_whitespace().find(digit).or_else(|| line.split_whitespace().last());
            found.insert(program.to_owned(), version.unwrap_or_default().trim_start_matches('v').to_owned());
        }
    }
    found
}

pub fn names() -> Names {
    let conf = text("/etc/resolv.conf");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let servers: Vec<String> = conf
        .lines()
        .map(words)
        .filter(|words| words.first().is_some_and(|word| word == "nameserver"))
        .filter_map(|words| words.get(1).cloned())
        .collect();
    let own = run("getent", &["ahosts", &hostname()], SHORT);
    let own_name = (own.ok || own.code == Some(2)).then(|| {
        own.out
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .any(|ip| ip.parse::<IpAddr>().is_ok())
    });
    let answers = (!servers.is_empty()).then(|| servers.iter().any(|server| answers(server)));
    Names { servers, own_name, answers }
}

/// Whether a name server says anything at all: asked for the root's name servers.
fn answers(server: &str) -> bool {
    const QUESTION: [u8; 17] = [0x50, 0x4c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let ask = || -> Option<bool> {
        let to = SocketAddr::new(server.split('%').next()?.parse().ok()?, 53);
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(700))).ok()?;
        socket.connect(to).ok()?;
        let mut reply = [0; 1500];
        for _ in 0..2 {
            socket.send(&QUESTION).ok()?;
            if socket.recv(&mut reply).is_ok_and(|size| size >= 12) && reply.starts_with(&QUESTION[..2]) {
                return Some(true);
            }
        }
        Some(false)
    };
    // Only addresses: a name in resolv.conf would be looked up with the C library.
    server.parse::<IpAddr>().is_ok() && ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_and_control_groups_are_read() {
        let os = parse_os("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n");
        assert_eq!(
            (os.id.as_str(), os.version.as_str(), os.name.as_str()),
            ("debian", "12", "Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(parse_os(""), Os::default());
        let v2 = parse_cgroups("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", |mount| {
            assert_eq!(mount, "/sys/fs/cgroup");
            "cpuset cpu io memory hugetlb pids\n".to_owned()
        });
        assert_eq!(
            (v2.mode.as_str(), v2.controllers.join(" ").as_str()),
            ("v2", "cpu cpuset io memory pids")
        );
        let lines =
            "3 1 0:3 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n4 1 0:4 / /c/u rw - cgroup2 c rw\nbroken";
        let hybrid = parse_cgroups(lines, |_| String::new());
        assert_eq!(
            (hybrid.mode.as_str(), hybrid.controllers.as_slice()),
            ("hybrid", &["cpu".to_owned()][..])
        );
    }
}

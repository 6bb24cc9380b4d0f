//! What this machine and this user allow, found out once: namespaces, control groups, privileges.

use super::RuntimeConfig;
use crate::cgroup::Prepared;
use crate::isolation::Isolation;
use plenum_shim::wire::ns;
use std::fs;

/// The findings.
#[derive(Debug)]
pub struct Machine {
    /// Bits of [`ns`] that containers can get.
    pub namespaces: u32,
    /// May become another user.
    pub privileged: bool,
    /// Control groups.
    pub cgroups: Prepared,
    /// The same in words.
    pub isolation: Isolation,
}

const NO_ROOT: &str = "the agent does not run as root";

impl Machine {
    /// Looks.
    pub fn look(config: &RuntimeConfig) -> Self {
        let capabilities = effective_capabilities();
        let has = |bit: u32| capabilities & (1 << bit) != 0;
        let admin = has(21);
        let privileged = has(6) && has(7) && has(8); // set group, set user, set capabilities
        let cgroups = Prepared::make(&config.cgroup_parent);
        let mut isolation = Isolation::default();
        let mut namespaces = 0;
        for (bit, file, name) in [
            (ns::PID, "pid", "pid namespace"),
            (ns::MOUNT, "mnt", "mount namespace"),
            (ns::IPC, "ipc", "ipc namespace"),
            (ns::UTS, "uts", "host name namespace"),
            (ns::NET, "net", "network namespace"),
        ] {
            let known = fs::symlink_metadata(format!("/proc/self/ns/{file}")).is_ok();
            let on = admin && known;
            if on {
                namespaces |= bit;
            }
            isolation.note(
                name,
                on,
                if !admin {
                    NO_ROOT
                } else if known {
                    "always"
                } else {
                    "this kernel has none"
                },
            );
        }
        let why = if privileged { "by passwd and group files" } else { NO_ROOT };
        isolation.note("user switching", privileged, why);
        isolation.note(
            "capabilities",
            privileged,
            if privileged { "bounding set is reduced" } else { NO_ROOT },
        );
        let why = match &config.user_namespaces {
            Some(of) => {
                format!("ids from {} on, {} each, for containers that ask", of.first, crate::ids::EACH)
            }
            None => "not configured".to_owned(),
        };
        isolation.note("user namespace", config.user_namespaces.is_some(), why);
        groups(&mut isolation, &cgroups);
        let scores = has(24);
        isolation.note(
            "oom protection",
            scores,
            if scores {
                "init and supervisor are spared"
            } else {
                "lowering OOM scores needs CAP_SYS_RESOURCE"
            },
        );
        Self { namespaces, privileged, cgroups, isolation }
    }
}

fn groups(isolation: &mut Isolation, cgroups: &Prepared) {
    let why_not = |controller: &str| {
        let line = cgroups.missing.iter().find(|line| line.split([':', ',']).any(|word| word == controller));
        let none = || format!("no {controller} controller is mounted (control groups: {})", cgroups.kind);
        line.cloned().unwrap_or_else(none)
    };
    for (name, controller) in [
        ("cpu limit", "cpu"),
        ("memory limit", "memory"),
        ("process limit", "pids"),
        ("oom detection", "memory"),
    ] {
        let on = cgroups.has(controller);
        isolation.note(
            name,
            on,
            if on { format!("control groups: {}", cgroups.kind) } else { why_not(controller) },
        );
    }
    let kill = cgroups.usable.iter().any(|usable| usable.kill);
    let freezer = cgroups.has("freezer");
    let why = match (kill, freezer) {
        (true, _) => "cgroup.kill",
        (false, true) => "v1 freezer",
        (false, false) => {
            "neither cgroup.kill nor a freezer; the PID namespace or the process tree is killed"
        }
    };
    isolation.note("kill by group", kill || freezer, why);
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

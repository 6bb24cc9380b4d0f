//! A container's control groups as data for the shim: folders, settings, means to kill and to count. Pure.

use super::prepare::Usable;
use crate::inside::Device;
use crate::spec::Limits;
use plenum_shim::wire::{Group, Write};
use std::os::unix::ffi::OsStrExt;

/// The period of processor quotas, microseconds; the kernel's default.
const PERIOD_US: u64 = 100_000;

/// The groups of a container, and what was asked for but cannot be had.
#[must_use]
pub fn plan(usable: &[Usable], id: &str, limits: &Limits) -> (Vec<Group>, Vec<String>) {
    let has_kill = usable.iter().any(|h| h.unified && h.kill);
    let mut groups = Vec::new();
    for hierarchy in usable {
        let freezer = !hierarchy.unified && hierarchy.has("freezer") && !has_kill;
        let limits_or_counts = ["cpu", "cpuacct", "memory", "pids"].iter().any(|c| hierarchy.has(c));
        if !(hierarchy.unified || freezer || limits_or_counts) {
            continue;
        }
        let writes =
            if hierarchy.unified { writes_v2(hierarchy, limits) } else { writes_v1(hierarchy, limits) };
        let oom = match (hierarchy.has("memory"), hierarchy.unified) {
            (true, true) => Some("memory.events".to_owned()),
            (true, false) => Some("memory.oom_control".to_owned()),
            (false, _) => None,
        };
        groups.push(Group {
            dir: hierarchy.parent.join(id).as_os_str().as_bytes().to_vec(),
            writes,
            unified: hierarchy.unified,
            kill: hierarchy.unified && hierarchy.kill,
            freezer,
            oom_file: oom,
        });
    }
    (groups, unmet(usable, limits))
}

/// What every container may use: null, zero, full, random, urandom, tty, ptmx, and terminals.
const USUAL_DEVICES: [&str; 8] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Holds a container to the usual devices and those it was given, by the v1 controller, otherwise in the v2 tree, where the shim makes a program of
/// the same rules. False if the machine has neither.
#[must_use]
pub fn hold_to_devices(groups: &mut Vec<Group>, usable: &[Usable], id: &str, given: &[Device]) -> bool {
    let mut writes = vec![write("devices.deny", "a")];
    writes.extend(USUAL_DEVICES.iter().map(|rule| write("devices.allow", rule)));
    writes.extend(given.iter().map(|device| write("devices.allow", rule(device))));
    write_devices(groups, usable, id, writes)
}

/// Keeps a container from some devices, in the same way.
#[must_use]
pub fn deny_devices(groups: &mut Vec<Group>, usable: &[Usable], id: &str, denied: &[Device]) -> bool {
    let writes = denied.iter().map(|device| write("devices.deny", rule(device))).collect();
    write_devices(groups, usable, id, writes)
}

fn rule(device: &Device) -> String {
    let kind = if device.block { 'b' } else { 'c' };
    format!("{kind} {}:{} rwm", device.major, device.minor)
}

fn write_devices(groups: &mut Vec<Group>, usable: &[Usable], id: &str, writes: Vec<Write>) -> bool {
    let v1 = usable.iter().find(|h| !h.unified && h.has("devices"));
    let Some(hierarchy) = v1.or_else(|| usable.iter().find(|h| h.unified)) else { return false };
    let dir = hierarchy.parent.join(id).as_os_str().as_bytes().to_vec();
    match groups.iter_mut().find(|group| group.dir == dir) {
        Some(group) => group.writes.extend(writes),
        None => groups.push(Group { dir, writes, unified: hierarchy.unified, ..Group::default() }),
    }
    true
}

fn unmet(usable: &[Usable], limits: &Limits) -> Vec<String> {
    let asked = [
        ("cpu", "cpu share", limits.cpu_share_millis.is_some()),
        ("cpu", "cpu limit", limits.cpu_quota_millis.is_some()),
        ("memory", "memory limit", limits.memory_bytes.is_some()),
        ("pids", "process limit", limits.pids.is_some()),
    ];
    let missing = |controller: &str| !usable.iter().any(|h| h.has(controller));
    asked
        .iter()
        .filter(|(controller, _, asked)| *asked && missing(controller))
        .map(|(controller, what, _)| {
            format!("{what} is not in force: the {controller} controller is not available")
        })
        .collect()
}

fn write(file: &str, value: impl ToString) -> Write {
    Write { file: file.to_owned(), value: value.to_string() }
}

/// 1024 shares are one processor; the kernel takes 2 to 262144.
fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// The kernel's smallest quota is 1 ms a period.
fn quota_us(millis: u64) -> u64 {
    (millis.saturating_mul(PERIOD_US) / 1000).max(1000)
}

fn writes_v1(hierarchy: &Usable, limits: &Limits) -> Vec<Write> {
    let mut writes = Vec::new();
    if hierarchy.has("cpu") {
        writes.extend(limits.cpu_share_millis.map(|millis| write("cpu.shares", shares(millis))));
        if let Some(millis) = limits.cpu_quota_millis {
            writes.push(write("cpu.cfs_period_us", PERIOD_US));
            writes.push(write("cpu.cfs_quota_us", quota_us(millis)));
        }
    }
    if hierarchy.has("memory")
        && let Some(bytes) = limits.memory_bytes
    {
        writes.push(write("memory.limit_in_bytes", bytes));
        // Memory and swap together: equal to the first, so nothing is swapped. Must come second.
        if hierarchy.swap && !limits.swap {
            writes.push(write("memory.memsw.limit_in_bytes", bytes));
        }
    }
    if hierarchy.has("pids") {
        writes.extend(limits.pids.map(|pids| write("pids.max", pids)));
    }
    writes
}

/// Weight 1 to 10000 from shares 2 to 262144, the customary mapping.
fn weight(millis: u64) -> u64 {
    1 + (shares(millis) - 2) * 9999 / 262_142
}

fn writes_v2(hierarchy: &Usable, limits: &Limits) -> Vec<Write> {
    let mut writes = Vec::new();
    if hierarchy.has("cpu") {
        writes.extend(limits.cpu_share_millis.map(|millis| write("cpu.weight", weight(millis))));
        let quota = limits.cpu_quota_millis.map(|millis| format!("{} {PERIOD_US}", quota_us(millis)));
        writes.extend(quota.map(|quota| write("cpu.max", quota)));
    }
    if hierarchy.has("memory")
        && let Some(bytes) = limits.memory_bytes
    {
        writes.push(write("memory.max", bytes));
        if hierarchy.swap && !limits.swap {
            writes.push(write("memory.swap.max", 0));
        }
        // A container short of memory ends as a whole, not by losing one of its processes.
        writes.push(write("memory.oom.group", 1));
    }
    if hierarchy.has("pids") {
        writes.extend(limits.pids.map(|pids| write("pids.max", pids)));
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable(controllers: &[&str], unified: bool, kill: bool) -> Usable {
        Usable {
            parent: format!("/cg/{}/plenum-x", if unified { "u" } else { controllers[0] }).into(),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            unified,
            kill,
            swap: true,
        }
    }

    fn limits() -> Limits {
        Limits {
            cpu_share_millis: Some(500),
            cpu_quota_millis: Some(1500),
            memory_bytes: Some(64 << 20),
            swap: false,
            pids: Some(9),
        }
    }

    fn rows(groups: &[Group]) -> Vec<String> {
        let text = |g: &Group| {
            let writes: Vec<_> = g.writes.iter().map(|w| format!("{}={}", w.file, w.value)).collect();
            let flags = format!("{}{}", if g.kill { "K" } else { "" }, if g.freezer { "F" } else { "" });
            format!("{} {flags} {}", String::from_utf8_lossy(&g.dir), writes.join(","))
        };
        groups.iter().map(text).collect()
    }

    #[test]
    fn hybrid_uses_v1_for_limits_and_v2_to_kill() {
        let machine = [
            usable(&["cpu"], false, false),
            usable(&["memory"], false, false),
            usable(&["freezer"], false, false),
            usable(&["blkio"], false, false),
            usable(&[], true, true),
        ];
        let (groups, unmet) = plan(&machine, "c", &limits());
        assert_eq!(
            rows(&groups),
            [
                "/cg/cpu/plenum-x/c  cpu.shares=512,cpu.cfs_period_us=100000,cpu.cfs_quota_us=150000",
                "/cg/memory/plenum-x/c  memory.limit_in_bytes=67108864,memory.memsw.limit_in_bytes=67108864",
                "/cg/u/plenum-x/c K ",
            ]
        );
        assert_eq!(unmet, ["process limit is not in force: the pids controller is not available"]);
        assert_eq!(groups[1].oom_file.as_deref(), Some("memory.oom_control"));
    }

    #[test]
    fn v2_alone_and_the_freezer_without_kill() {
        let (groups, unmet) = plan(&[usable(&["cpu", "memory", "pids"], true, true)], "c", &limits());
        let want = "/cg/u/plenum-x/c K cpu.weight=20,cpu.max=150000 100000,memory.max=67108864,\
                    memory.swap.max=0,memory.oom.group=1,pids.max=9";
        assert_eq!((rows(&groups), unmet), (vec![want.to_owned()], vec![]));
        let (groups, _) = plan(&[usable(&["freezer"], false, false)], "c", &Limits::default());
        assert_eq!(rows(&groups), ["/cg/freezer/plenum-x/c F "]);
        let (groups, unmet) = plan(&[], "c", &limits());
        assert_eq!((groups.len(), unmet.len()), (0, 4));
    }

    #[test]
    fn memory_is_limited_with_swap_or_without() {
        let swapped = Limits { memory_bytes: Some(4096), swap: true, ..Limits::default() };
        for (unified, held, free) in [
            (
                false,
                "memory.limit_in_bytes=4096,memory.memsw.limit_in_bytes=4096",
                "memory.limit_in_bytes=4096",
            ),
            (
                true,
                "memory.max=4096,memory.swap.max=0,memory.oom.group=1",
                "memory.max=4096,memory.oom.group=1",
            ),
        ] {
            let machine = [usable(&["memory"], unified, false)];
            for (swap, want) in [(false, held), (true, free)] {
                let (groups, unmet) = plan(&machine, "c", &Limits { swap, ..swapped });
                assert_eq!((rows(&groups)[0].rsplit(' ').next(), unmet.len()), (Some(want), 0));
            }
        }
    }

    #[test]
    fn devices_are_denied_but_for_the_usual_and_the_given() {
        let gpu = Device { path: "/dev/gpu".into(), block: false, major: 195, minor: 0, mode: 0o666 };
        let machine = [usable(&["cpu"], false, false), usable(&["devices"], false, false)];
        let (mut groups, _) = plan(&machine, "c", &Limits::default());
        assert_eq!(groups.len(), 1, "no group for devices unless asked for");
        assert!(hold_to_devices(&mut groups, &machine, "c", std::slice::from_ref(&gpu)));
        let row = rows(&groups).pop().unwrap();
        assert!(row.starts_with("/cg/devices/plenum-x/c  devices.deny=a,devices.allow=c 1:3 rwm,"), "{row}");
        assert!(row.ends_with(",devices.allow=c 195:0 rwm"), "{row}");
        let together = [usable(&["devices", "freezer"], false, false)];
        let (mut groups, _) = plan(&together, "c", &Limits::default());
        assert!(hold_to_devices(&mut groups, &together, "c", &[]) && groups.len() == 1 && groups[0].freezer);
        let unified = [usable(&["cpu"], true, true)];
        let (mut groups, _) = plan(&unified, "c", &Limits::default());
        assert!(hold_to_devices(&mut groups, &unified, "c", &[gpu]) && groups.len() == 1);
        assert!(
            rows(&groups)[0].contains("devices.deny=a,devices.allow=c 1:3 rwm,"),
            "as a program, by the shim"
        );
        assert!(!hold_to_devices(&mut Vec::new(), &[usable(&["cpu"], false, false)], "c", &[]));
    }

    #[test]
    fn extremes_stay_in_the_kernels_ranges() {
        for (millis, share, weigh, quota) in
            [(1, 2, 1, 1000), (1000, 1024, 39, 100_000), (u64::MAX, 262_144, 10_000, u64::MAX / 1000)]
        {
            assert_eq!((shares(millis), weight(millis), quota_us(millis)), (share, weigh, quota), "{millis}");
        }
    }
}

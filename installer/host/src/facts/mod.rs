//! `plenum host facts`: what this machine is and has. Each part finds out one kind of thing and leaves out what it cannot; nothing on the
//! machine is changed, but for probes that clean up behind themselves.

mod disks;
mod features;
mod firewall;
mod installed;
mod listening;
mod machine;

use plenum_plan::Facts;
use plenum_plan::facts::Clock;

pub use features::try_one;
pub use installed::installed;
pub use machine::systemd;

/// Looks at the machine. While somebody changes it, what is half done would look like somebody else's: the end of that is waited for,
/// within bounds.
#[must_use]
pub fn gather() -> Facts {
    drop(crate::lock::Lock::take());
    let mut facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: machine::hostname(),
        machine_id: machine::machine_id(),
        addresses: machine::addresses(),
        os: machine::os(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: machine::kernel(),
        systemd: machine::systemd(),
        virtualisation: machine::virtualisation(),
        cgroups: machine::cgroups(),
        features: features::probe(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        disks: disks::all(),
        listening: listening::all(),
        firewall: firewall::look(),
        names: machine::names(),
        root: nix::unistd::geteuid().is_root(),
        selinux: machine::selinux(),
        programs: machine::programs(),
        ..Facts::default()
    };
    (facts.memory, facts.swap) = machine::memory();
    facts.plenum = installed::all();
    facts.leftovers = installed::leftovers(&facts.plenum);
    // Last: the caller compares it with its own clock at the moment of the answer.
    facts.clock = clock();
    facts
}

fn clock() -> Clock {
    let (service, synchronised) = machine::clock();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Clock { now_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX), synchronised, service }
}

/// A file's text; empty where it cannot be read.
fn text(path: impl AsRef<std::path::Path>) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

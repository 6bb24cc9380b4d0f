//! What a machine says of itself: [`Facts`], printed as JSON by `plenum host facts`, and [`Dialed`], the answers of `plenum host check`.
//! Judging them is [`crate::findings`]'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plenum_base::places::Instance;
use serde::{Deserialize, Serialize};

use crate::spec::{Kind, Shared};

/// What a machine is and has. What could not be found out is `None` or empty, never a failure of the whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The release of the program that looked.
    pub version: String,
    /// The machine's host name.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Addresses of its interfaces, loopback left out.
    pub addresses: Vec<IpAddr>,
    /// Distribution.
    pub os: Os,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel: String,
    /// systemd's version; none where PID 1 is something else.
    pub systemd: Option<u32>,
    /// What `systemd-detect-virt` says; `none` on bare metal.
    pub virtualisation: String,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Features of the kernel, each tried: `overlay`, `nftables`, `vxlan`. None: could not be tried, with the reason.
    pub features: BTreeMap<String, Probe>,
    /// Usable processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap in use or usable.
    pub swap: u64,
    /// File systems that matter: below the state folder, `/opt`, `/usr/local/bin`.
    pub disks: Vec<Disk>,
    /// Listening sockets.
    pub listening: Vec<Listening>,
    /// Clock.
    pub clock: Clock,
    /// Firewall.
    pub firewall: Firewall,
    /// Whether names are resolved: the resolver's servers, and how a look-up of the machine's own name ended.
    pub names: Names,
    /// Whether the program that looked ran as root.
    pub root: bool,
    /// SELinux: `enforcing`, `permissive`, `disabled`, or empty where there is none.
    pub selinux: String,
    /// Programs that are there, and their versions: `etcd`, `nft`, `getent`.
    pub programs: BTreeMap<String, String>,
    /// Clusters of ours that the host is in, also half: one an instance.
    pub plenum: Vec<Installed>,
    /// Things left behind by an earlier installation that belong to no cluster in [`Facts::plenum`].
    pub leftovers: Vec<Leftover>,
}

impl Facts {
    /// What is installed under that name.
    #[must_use]
    pub fn installed(&self, instance: &Instance) -> Option<&Installed> {
        self.plenum.iter().find(|installed| installed.instance == *instance)
    }
}

/// A distribution, from `/etc/os-release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `ID`.
    pub id: String,
    /// `VERSION_ID`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
}

/// Control groups as mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroups {
    /// `v2`, `hybrid`, `v1`; empty: none.
    pub mode: String,
    /// Controllers that can be used: `cpu`, `memory`, `pids`…
    pub controllers: Vec<String>,
}

/// How a trial of something ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// True: it works. False: it does not. None: it could not be tried.
    pub works: Option<bool>,
    /// Why not.
    pub reason: String,
}

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// What is kept there: `state` (`/var/lib/plenum`), `programs` (`/opt/plenum`), `link` (`/usr/local/bin`).
    pub purpose: String,
    /// The path asked about.
    pub path: String,
    /// Type of the file system: `ext4`, `xfs`, `btrfs`, `overlay`, `tmpfs`…
    pub filesystem: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that root may still write.
    pub free: u64,
    /// Free inodes; none where the file system has no such limit.
    pub inodes_free: Option<u64>,
    /// Mounted read-only.
    pub read_only: bool,
    /// Programs cannot be run from it.
    pub noexec: bool,
    /// Whether directory entries tell their type (`d_type`); XFS without `ftype` does not.
    pub d_type: Option<bool>,
    /// Median of some writes of 4 KiB with fdatasync, milliseconds; measured for `state` only.
    pub fsync_ms: Option<f64>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address that it is bound to.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The program's name, if it could be found.
    pub program: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// The unit it belongs to.
    pub unit: Option<String>,
}

/// Clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Milliseconds since 1970 when the program looked: the last thing it did before it printed.
    pub now_ms: i64,
    /// Whether the kernel says that the clock is synchronised (`adjtimex`).
    pub synchronised: Option<bool>,
    /// The service that sets it, such as `chrony`, if one runs.
    pub service: Option<String>,
}

/// Firewalls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firewall {
    /// Services that manage one and run: `firewalld`, `ufw`, `nftables`, `iptables`.
    pub services: Vec<String>,
    /// Base chains of others that drop or reject what no rule lets in: `table inet filter chain input`.
    pub dropping: Vec<String>,
}

/// Names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// Name servers of `/etc/resolv.conf`.
    pub servers: Vec<String>,
    /// Whether the host name leads to an address of the machine.
    pub own_name: Option<bool>,
    /// Whether one of the servers answers at all. None: there is none to ask.
    pub answers: Option<bool>,
}

/// A cluster that the host is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name.
    pub instance: Instance,
    /// SHA-256 of its CA certificate in hexadecimal; none: it has not got so far.
    #[serde(default)]
    pub authority: Option<String>,
    /// The release in use.
    #[serde(default)]
    pub version: String,
    /// The host's name there.
    #[serde(default)]
    pub name: String,
    /// The host's address there.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// What it is for.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// [`crate::HostSpec::digest`] of the spec that was applied last, completely. None: `apply` has not finished.
    #[serde(default)]
    pub digest: Option<String>,
    /// What all hosts agreed on, as applied last.
    #[serde(default)]
    pub shared: Option<Shared>,
    /// The units and how they are.
    #[serde(default)]
    pub units: Vec<Unit>,
    /// Every unit that should run runs and says it is ready.
    #[serde(default)]
    pub healthy: bool,
    /// Why not, a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Members of the cluster's map as this host knows it: name and address of each master. Empty where it knows none.
    #[serde(default)]
    pub masters: Vec<Known>,
    /// Started by `plenum up`: a datacenter of one machine, which no installer touches.
    #[serde(default)]
    pub single: bool,
}

/// A master in the cluster's map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// A unit of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `plenum-master.service`.
    pub name: String,
    /// systemd's `ActiveState`: `active`, `activating`, `failed`…
    pub state: String,
}

/// Something left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// `folder`, `unit`, `user`, `table`, `cgroup`, `mount`, `link`; or `dcos` for an installation of DC/OS, `mesos` of Mesos.
    pub kind: String,
    /// Its path or name.
    pub name: String,
}

/// A call that `plenum host check --dial` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialed {
    /// The address that was called.
    pub address: IpAddr,
    /// Its port, TCP.
    pub port: u16,
    /// Somebody answered.
    pub ok: bool,
    /// Why not: `refused`, `deadline`, `unreachable`, or the system's words.
    #[serde(default)]
    pub reason: String,
    /// Milliseconds that it took.
    #[serde(default)]
    pub took_ms: u64,
}

/// A call that `plenum host check --reach` made: by name, as the host itself resolves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// What was called, `host:port`.
    pub target: String,
    /// Somebody answered.
    pub ok: bool,
    /// Why not: `unresolved`, or as in [`Dialed`].
    #[serde(default)]
    pub reason: String,
}

/// The ports that `plenum host check --listen` could open, and those that were taken already: printed as one line before it waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Opened {
    /// Opened for the check.
    pub opened: Vec<u16>,
    /// Somebody listens there: of ours, as [`Facts`] tell, or not.
    pub taken: Vec<u16>,
}

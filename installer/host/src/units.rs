//! The text of the units, pure: what each role may do on the host, how it is watched and restarted, and where its tasks live.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use plenum_base::places::Role;

use crate::names::{Names, USER};

/// One listening socket: the name under which the role asks for it, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `http`, `agents`, `dns-udp`…
    pub name: &'static str,
    /// Datagrams instead of connections.
    pub udp: bool,
    /// The addresses; each becomes one descriptor of that name.
    pub addresses: Vec<SocketAddr>,
}

/// A unit's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What the units are made from.
#[derive(Debug, Clone)]
pub struct Making<'a> {
    /// The instance's names.
    pub names: &'a Names,
    /// The program.
    pub program: &'a Path,
    /// systemd's version on the host: newer settings are left out on older ones.
    pub systemd: u32,
}

/// What a role is allowed and given.
struct Profile {
    /// Runs as root, outside of any sandbox, since tasks are started from there.
    root: bool,
    /// Capabilities that it keeps.
    capabilities: &'static str,
    /// Part of the control plane: its memory is kept, and it is killed last.
    control: bool,
    /// Memory that is kept for it, MiB.
    memory: u32,
}

fn profile(role: Role) -> Profile {
    let control = |memory| Profile { root: false, capabilities: "", control: true, memory };
    match role {
        Role::Agent => Profile { root: true, capabilities: "", control: false, memory: 32 },
        Role::Balancer => Profile { root: false, capabilities: "CAP_NET_ADMIN", control: false, memory: 16 },
        Role::Discovery => Profile { root: false, capabilities: "", control: false, memory: 32 },
        Role::Master | Role::Services => control(96),
        Role::Identity | Role::Catalog | Role::Gateway => control(48),
        #[allow(unreachable_patterns)]
        _ => control(128),
    }
}

/// The owner of a role's files.
#[must_use]
pub fn user(role: Role) -> &'static str {
    if profile(role).root { "root" } else { USER }
}

/// Folders that a role writes to. A role outside of the sandbox writes where it likes.
#[must_use]
pub fn writes(names: &Names, role: Role) -> Vec<PathBuf> {
    let places = names.places();
    let mut folders = vec![places.data(role), places.pki().join(role.as_str())];
    match role {
        // It issues this host's certificates, and writes the CA's.
        Role::Identity => folders.extend([places.state.join("policy"), places.pki()]),
        Role::Discovery => folders.push(places.run.join("discovery")),
        _ => {}
    }
    folders
}

impl Making<'_> {
    /// The units of a role: its service, then its sockets.
    #[must_use]
    pub fn role(&self, role: Role, sockets: &[Socket]) -> Vec<Unit> {
        let mut units = vec![Unit { name: self.names.service(role), text: self.service(role, sockets) }];
        units.extend(sockets.iter().map(|socket| self.socket(role, socket)));
        units
    }

    /// What all roles share: the target and the slices; with an agent, the holder of tasks too.
    #[must_use]
    pub fn shared(&self, agent: bool) -> Vec<Unit> {
        let names = self.names;
        let target = format!(
            "[Unit]\nDescription=Plenum ({})\nAfter=network.target\n\n[Install]\nWantedBy=multi-user.target\n",
            names.instance
        );
        // What is kept for the slice is all claimed by its services: nothing of it falls to the tasks below the same slice.
        let slice = format!("[Unit]\nDescription=Plenum ({})\n\n[Slice]\nMemoryMin=640M\n", names.instance);
        let mut units = vec![
            Unit { name: names.target(), text: target },
            Unit { name: "plenum.slice".to_owned(), text: slice.clone() },
        ];
        if names.slice() != "plenum.slice" {
            units.push(Unit { name: names.slice(), text: slice });
        }
        if agent {
            let slice = format!("[Unit]\nDescription=Tasks of Plenum ({})\n", names.instance);
            units.push(Unit { name: names.tasks_slice(), text: slice });
            units.push(Unit { name: names.tasks_service(), text: self.tasks() });
        }
        units
    }

    /// A service that holds control groups and no process: tasks' supervisors move in, so that the agent's end is not theirs, and
    /// stopping this one ends them all.
    fn tasks(&self) -> String {
        let names = self.names;
        format!(
            "[Unit]\nDescription=Tasks of Plenum ({})\nAfter=network.target\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart=/bin/true\nSlice={}\nDelegate=yes\nTasksMax=infinity\nTimeoutStopSec=15\n\n[Install]\nWantedBy={}\n",
            names.instance,
            names.tasks_slice(),
            names.target()
        )
    }

    fn socket(&self, role: Role, socket: &Socket) -> Unit {
        let names = self.names;
        let mut text = format!(
            "[Unit]\nDescription=Plenum {role}: socket {}\nPartOf={}\n\n[Socket]\nFileDescriptorName={}\nService={}\n",
            socket.name,
            names.target(),
            socket.name,
            names.service(role)
        );
        let kind = if socket.udp { "ListenDatagram" } else { "ListenStream" };
        for address in &socket.addresses {
            let _ = writeln!(text, "{kind}={address}");
        }
        // An address that the machine does not have yet is no reason to stay away after a boot.
        text.push_str("FreeBind=yes\nBacklog=1024\nTriggerLimitIntervalSec=0\n");
        if socket.udp {
            text.push_str("ReceiveBuffer=1M\n");
        } else {
            text.push_str("NoDelay=yes\n");
        }
        let _ = write!(text, "\n[Install]\nWantedBy={}\n", names.target());
        Unit { name: names.socket(role, socket.name), text }
    }

    fn service(&self, role: Role, sockets: &[Socket]) -> String {
        let (names, profile) = (self.names, profile(role));
        let places = names.places();
        let mut text = format!("[Unit]\nDescription=Plenum {role} ({})\n", names.instance);
        let _ = writeln!(text, "PartOf={}", names.target());
        let mut after = vec!["network.target".to_owned(), "nftables.service".to_owned()];
        let sockets: Vec<String> = sockets.iter().map(|socket| names.socket(role, socket.name)).collect();
        after.extend(sockets.iter().cloned());
        if role == Role::Agent {
            let _ = writeln!(text, "Requires={}", names.tasks_service());
            after.push(names.tasks_service());
        }
        let _ = writeln!(text, "After={}", after.join(" "));
        let _ = writeln!(text, "RequiresMountsFor={}", places.state.display());
        text.push_str("StartLimitIntervalSec=0\n\n[Service]\nType=notify\n");
        let _ = writeln!(
            text,
            "ExecStart={} {role} --config {}",
            self.program.display(),
            places.config(role).display()
        );
        if !sockets.is_empty() {
            let _ = writeln!(text, "Sockets={}", sockets.join(" "));
        }
        let _ = writeln!(text, "Slice={}\nSyslogIdentifier=plenum-{role}", names.slice());
        text.push_str("WatchdogSec=30\nTimeoutStartSec=180\nTimeoutStopSec=15\nRestart=always\n");
        text.push_str("RestartSec=100ms\n");
        if self.systemd >= 254 {
            text.push_str("RestartSteps=6\nRestartMaxDelaySec=5\n");
        }
        text.push_str("LimitNOFILE=524288\nTasksMax=infinity\n");
        let score = if profile.control { -800 } else { -500 };
        let _ = writeln!(text, "OOMScoreAdjust={score}\nMemoryMin={}M", profile.memory);
        if profile.root {
            text.push_str("Delegate=yes\nKillMode=process\n");
        } else {
            self.sandbox(&mut text, role, profile.capabilities);
        }
        let _ = write!(text, "\n[Install]\nWantedBy={}\n", names.target());
        text
    }

    fn sandbox(&self, text: &mut String, role: Role, capabilities: &str) {
        let _ = writeln!(text, "User={USER}\nGroup={USER}\nCapabilityBoundingSet={capabilities}");
        if !capabilities.is_empty() {
            let _ = writeln!(text, "AmbientCapabilities={capabilities}");
        }
        let folders: Vec<String> =
            writes(self.names, role).iter().map(|folder| folder.display().to_string()).collect();
        let _ = writeln!(text, "ReadWritePaths={}", folders.join(" "));
        text.push_str(
            "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\nNoNewPrivileges=yes\n\
             ProtectClock=yes\nProtectHostname=yes\nProtectControlGroups=yes\nProtectKernelLogs=yes\nProtectKernelModules=yes\n\
             LockPersonality=yes\nMemoryDenyWriteExecute=yes\nRestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\n\
             RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\nSystemCallArchitectures=native\n\
             SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM\nUMask=0077\n",
        );
        // The balancer turns on what its routes need below /proc/sys/net.
        if role != Role::Balancer {
            text.push_str("ProtectKernelTunables=yes\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_base::places::Instance;

    fn making(names: &Names) -> Making<'_> {
        Making { names, program: Path::new("/opt/plenum/1/plenum"), systemd: 252 }
    }

    fn socket(name: &'static str, udp: bool) -> Socket {
        Socket { name, udp, addresses: vec!["10.0.0.1:53".parse().unwrap(), "127.0.0.1:53".parse().unwrap()] }
    }

    #[test]
    fn a_control_role_is_locked_in_and_its_sockets_outlive_it() {
        let names = Names::of(&Instance::default());
        let units = making(&names).role(Role::Discovery, &[socket("http", false), socket("dns-udp", true)]);
        let files: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(
            files,
            ["plenum-discovery.service", "plenum-discovery.socket", "plenum-discovery-dns-udp.socket"]
        );
        for line in [
            "User=plenum",
            "CapabilityBoundingSet=\n",
            "Sockets=plenum-discovery.socket plenum-discovery-dns-udp.socket",
            "ReadWritePaths=/var/lib/plenum/default/discovery /var/lib/plenum/default/pki/discovery /run/plenum/default/discovery",
            "ExecStart=/opt/plenum/1/plenum discovery --config /var/lib/plenum/default/config/discovery.toml",
            "Restart=always",
            "WantedBy=plenum.target",
        ] {
            assert!(units[0].text.contains(line), "{line}\n{}", units[0].text);
        }
        assert!(!units[0].text.contains("RestartSteps"), "unknown to systemd 252");
        assert!(units[2].text.contains("ListenDatagram=10.0.0.1:53\nListenDatagram=127.0.0.1:53\n"));
        assert!(!units[2].text.contains("ListenStream"));
    }

    #[test]
    fn the_agent_is_free_and_its_tasks_are_not_its_own() {
        let names = Names::of(&Instance::default());
        let agent = &making(&names).role(Role::Agent, &[])[0].text;
        for line in ["KillMode=process", "Delegate=yes", "Requires=plenum-tasks.service"] {
            assert!(agent.contains(line), "{line}");
        }
        for line in ["ProtectSystem", "NoNewPrivileges", "User="] {
            assert!(!agent.contains(line), "tasks would inherit {line}");
        }
        let shared = making(&names).shared(true);
        assert!(shared.iter().any(|unit| unit.name == "plenum-tasks.slice"));
        assert_eq!(making(&names).shared(false).len(), 2);
    }

    #[test]
    fn only_the_balancer_keeps_a_capability() {
        let names = Names::of(&"b".parse().unwrap());
        for role in Role::ALL {
            let text = &making(&names).role(role, &[])[0].text;
            assert_eq!(text.contains("AmbientCapabilities"), role == Role::Balancer, "{role}");
            assert!(text.contains("Slice=plenum-b.slice"));
        }
    }
}

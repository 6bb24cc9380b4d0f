//! The table of every setting of `cluster.yaml`: its form, default and meaning. Reading the file, the commented file that `plenum install init`
//! writes, and the reference in `docs/` come from it, so none can forget one.

/// The form of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// A name: letters, digits, `-`, `_` and `.`.
    Name,
    /// The name of an instance.
    Instance,
    /// An IP address.
    Address,
    /// An IPv4 range, `11.0.0.0/16`.
    Range,
    /// `true` or `false`.
    Bool,
    /// A whole number between two.
    Whole(u32, u32),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Where a password comes from: one of some words, or `env:NAME`.
    Source(&'static [&'static str]),
    /// A list of values of a form; a single one may stand without brackets.
    List(&'static Form),
    /// Names and texts of one's own.
    Words,
    /// Roles' settings: role, then name, then anything.
    Overrides,
}

impl Form {
    /// The form in words, for errors and the reference.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Name => "a name of letters, digits, '-', '_' and '.'".to_owned(),
            Self::Instance => "1 to 32 of a-z, 0-9 and '-'".to_owned(),
            Self::Address => "an IP address".to_owned(),
            Self::Range => "an IPv4 range such as 11.0.0.0/16".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Whole(low, high) => format!("a whole number from {low} to {high}"),
            Self::Choice(words) => words.join(", "),
            Self::Source(words) => format!("{} or env:NAME", words.join(", ")),
            Self::List(form) => format!("a list; each: {}", form.words()),
            Self::Words => "a map of names and texts".to_owned(),
            Self::Overrides => "a map of roles, each a map of that role's settings".to_owned(),
        }
    }
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Where it stands: `ssh.user`; `hosts[].address` for a part of each entry of a list.
    pub path: &'static str,
    /// The form of its value.
    pub form: Form,
    /// Its default as YAML; empty: it must be given, or has none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn row(path: &'static str, form: Form, default: &'static str, help: &'static str) -> Setting {
    Setting { path, form, default, help }
}

const TEXT: Form = Form::Text;
const SUDO: Form = Form::Choice(&["auto", "password", "none"]);

/// Every setting, in the order of the file.
pub static SETTINGS: &[Setting] = &[
    row(
        "name",
        Form::Instance,
        "default",
        "The cluster's name: of its state folders, units and control groups on the hosts, and of the context here.",
    ),
    row(
        "hosts[].address",
        Form::Address,
        "",
        "The address at which all other hosts reach this one. It cannot change later.",
    ),
    row(
        "hosts[].roles",
        Form::List(&Form::Choice(&["master", "agent", "public"])),
        "",
        "What it is for: master (1, 3 or 5 of them), agent (runs tasks), public (runs tasks that face the outside). A master may be agent too.",
    ),
    row("hosts[].name", Form::Name, "", "Its name in the cluster; without one, its address with dashes."),
    row("hosts[].region", TEXT, "~", "Fault domain; over agents.region."),
    row("hosts[].zone", TEXT, "~", "Zone in the region; over agents.zone."),
    row("hosts[].attributes", Form::Words, "{}", "Attributes of its agent; over agents.attributes."),
    row(
        "hosts[].resources",
        TEXT,
        "~",
        "Resources of its agent, as Mesos writes them; over agents.resources.",
    ),
    row("hosts[].settings", Form::Overrides, "{}", "Settings of roles on this host; over settings."),
    row(
        "hosts[].ssh.host",
        TEXT,
        "~",
        "Address or name for SSH, where it is not the host's address in the cluster.",
    ),
    row("hosts[].ssh.user", TEXT, "~", "Over ssh.user."),
    row("hosts[].ssh.port", Form::Whole(1, 65535), "~", "Over ssh.port."),
    row("hosts[].ssh.key", Form::List(&TEXT), "~", "Over ssh.key."),
    row("hosts[].ssh.jump", TEXT, "~", "Over ssh.jump; none: directly."),
    row("hosts[].ssh.sudo", SUDO, "~", "Over ssh.sudo."),
    row("ssh.user", TEXT, "root", "User on the hosts. One who is not root needs sudo."),
    row("ssh.port", Form::Whole(1, 65535), "22", "Port of SSH."),
    row(
        "ssh.key",
        Form::List(&TEXT),
        "[]",
        "Key files. Without any, ~/.ssh/id_ed25519, id_ecdsa and id_rsa are tried. An encrypted one is asked for on the terminal, or opened with PLENUM_SSH_PASSPHRASE.",
    ),
    row("ssh.agent", Form::Bool, "true", "Whether the SSH agent at SSH_AUTH_SOCK is asked first."),
    row(
        "ssh.password",
        Form::Source(&["none", "prompt"]),
        "none",
        "Where a password for the login comes from: none, prompt, or env:NAME.",
    ),
    row(
        "ssh.jump",
        TEXT,
        "~",
        "A host in between, user@host:port; several with commas, the first one being the nearest.",
    ),
    row(
        "ssh.sudo",
        SUDO,
        "auto",
        "auto: nothing as root, else sudo without a password where that works, else with one. password: always with one. none: never.",
    ),
    row(
        "ssh.sudo_password",
        Form::Source(&["same", "prompt"]),
        "same",
        "Where sudo's password comes from: same (the login's), prompt, or env:NAME.",
    ),
    row(
        "ssh.known_hosts",
        TEXT,
        "strict",
        "strict: a host's key must be in ~/.ssh/known_hosts. accept-new: an unknown one is written there, a changed one refused. Or a path: strict with that file.",
    ),
    row(
        "ssh.folder",
        TEXT,
        "/var/tmp",
        "Where on the hosts the program is sent to; programs must be allowed to run there.",
    ),
    row(
        "store.kind",
        Form::Choice(&["auto", "embedded", "etcd"]),
        "auto",
        "Where the cluster keeps its state. auto: in the master's own files with one master, on etcd with more; a cluster on etcd stays there.",
    ),
    row(
        "store.binary",
        TEXT,
        "~",
        "Path here of an etcd program to send along. Without one, masters need the distribution's package etcd-server.",
    ),
    row(
        "store.endpoints",
        Form::List(&TEXT),
        "[]",
        "Client URLs of an etcd that you run yourself, https://host:2379. The installer then touches no etcd.",
    ),
    row("store.ca", TEXT, "~", "Path here: the authority (PEM) of that etcd."),
    row("store.certificate", TEXT, "~", "Path here: the certificate (PEM) to show there."),
    row("store.key", TEXT, "~", "Path here: its key (PEM)."),
    row(
        "networks.virtual_range",
        Form::Range,
        "11.0.0.0/16",
        "Virtual addresses of services are from this range. It cannot change later.",
    ),
    row("networks.domain", Form::Name, "mesos", "Domain of the names of tasks: app.marathon.mesos."),
    row(
        "networks.dns_on_masters",
        Form::Bool,
        "true",
        "Whether masters answer DNS on their own address too, for machines outside of the cluster.",
    ),
    row(
        "networks.resolvers",
        Form::List(&Form::Address),
        "[]",
        "Name servers for all other names; without any, each host's own.",
    ),
    row(
        "networks.overlay",
        Form::Bool,
        "true",
        "Whether containers of all hosts have a network with each other, named dcos. Hosts then need UDP port 4789 open among them.",
    ),
    row(
        "networks.overlay_range",
        Form::Range,
        "9.0.0.0/8",
        "Addresses of containers on it; each host has a /24 of it. Change it only while no container uses it.",
    ),
    row(
        "networks.overlay_range6",
        TEXT,
        "~",
        "The same for IPv6, fd01::/48: each host has a /64. None: no IPv6.",
    ),
    row(
        "agents.attributes",
        Form::Words,
        "{}",
        "Attributes of every agent: rack, disk, anything that constraints ask for.",
    ),
    row(
        "agents.resources",
        TEXT,
        "~",
        "Resources of every agent, cpus:4;mem:8192;ports:[31000-32000]; without any, what the machine has.",
    ),
    row("agents.region", TEXT, "~", "Region of every host."),
    row("agents.zone", TEXT, "~", "Zone of every host."),
    row(
        "settings",
        Form::Overrides,
        "{}",
        "Settings of roles on every host, as in `plenum config check ROLE`: master: {allocation_interval_ms: 500}.",
    ),
    row(
        "weights",
        Form::Words,
        "{}",
        "Weights of roles, each a positive number: a role with 2 gets twice as much. Set once, when the cluster is made.",
    ),
    row("admin.user", Form::Name, "admin", "Name of the first account."),
    row(
        "admin.password",
        Form::Source(&["generate", "prompt"]),
        "generate",
        "Where its password comes from: generate (printed once), prompt, or env:NAME.",
    ),
    row("limits.parallel", Form::Whole(1, 256), "16", "Hosts worked on at the same time."),
    row("limits.connect_seconds", Form::Whole(1, 300), "15", "Seconds until an SSH connection must stand."),
    row("limits.host_seconds", Form::Whole(10, 7200), "300", "Seconds that making one host may take."),
    row(
        "limits.healthy_seconds",
        Form::Whole(5, 7200),
        "180",
        "Seconds until everything must be healthy at the end.",
    ),
    row(
        "limits.master_memory_mib",
        Form::Whole(0, 1_048_576),
        "1024",
        "MiB of memory that a master must have.",
    ),
    row(
        "limits.agent_memory_mib",
        Form::Whole(0, 1_048_576),
        "512",
        "MiB of memory that an agent must have.",
    ),
    row(
        "limits.disk_free_mib",
        Form::Whole(0, 16_777_216),
        "2048",
        "MiB that must be free for the state of a host.",
    ),
    row(
        "limits.clock_skew_ms",
        Form::Whole(10, 60_000),
        "500",
        "Milliseconds by which the hosts' clocks may differ.",
    ),
];

/// The setting of that path.
#[must_use]
pub fn setting(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// The words that may follow below `prefix` (`ssh`, `hosts[]`, empty for the top), each once, in the order of the table.
#[must_use]
pub fn below(prefix: &str) -> Vec<&'static str> {
    let mut words: Vec<&'static str> = Vec::new();
    for setting in SETTINGS {
        let rest = if prefix.is_empty() {
            Some(setting.path)
        } else {
            setting.path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'))
        };
        let Some(rest) = rest else { continue };
        let word = rest.split(['.', '[']).next().unwrap_or(rest);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// The reference of all settings, for `docs/`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| Setting | Value | Default | What it does |\n|---|---|---|---|\n");
    for s in SETTINGS {
        let default = match s.default {
            "" => "-".to_owned(),
            "~" => "none".to_owned(),
            other => format!("`{other}`"),
        };
        let cell = |t: &str| t.replace('|', "\\|");
        text.push_str(&format!(
            "| `{}` | {} | {default} | {} |\n",
            s.path,
            cell(&s.form.words()),
            cell(s.help)
        ));
    }
    text
}

//! From the core's launches to the runtime's container descriptions, and back. Pure but for one file at start.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use plenum_api::mesos::environment::variable::Type as VariableType;
use plenum_api::mesos::linux_info::IpcMode;
use plenum_api::mesos::{CommandInfo, ContainerInfo, Resource};
use plenum_containers::{self as runtime, Command, ContainerSpec, DiskLimit, Limits};

use crate::config::Config;
use crate::core::{Exit, ExitStatus, Launch, ProbeOutcome, Started};
use crate::shell::wanted::{Sharing, Wanted};

/// The runtime's description of a container, or why there can be none.
pub(crate) fn container_spec(
    launch: &Launch,
    wanted: &Wanted,
    config: &Config,
    resolv_conf: Option<&Path>,
) -> Result<ContainerSpec, String> {
    // An image may bring the command.
    let command = match command(&launch.command) {
        Err(_) if wanted.image.is_some() && !launch.command.shell() => Command::Argv(vec!["/".to_owned()]),
        command => command?,
    };
    let mut spec = ContainerSpec::new(launch.container.clone(), launch.directory.clone(), command);
    spec.env.insert("PATH".to_owned(), config.task_path.clone());
    spec.env.extend(launch.env.iter().cloned());
    let mut own = BTreeMap::new();
    environment(&launch.command, &mut own)?;
    let budgets = super::budget::budgets(&own, config)?;
    (spec.logs, spec.error_logs) = (budgets.logs, budgets.error_logs);
    spec.env.extend(own);
    spec.user = (!launch.user.is_empty()).then(|| launch.user.clone());
    spec.limits = limits(&launch.resources, &launch.limits, config);
    spec.disk = disk(&launch.resources).filter(|_| config.enforce_disk).map(|bytes| DiskLimit { bytes });
    spec.resolv_conf = resolv_conf.map(Path::to_path_buf);
    spec.launch_deadline = config.launch_deadline();
    if let Some(info) = &launch.container_info {
        apply_container(&mut spec, info)?;
    }
    let beyond = spec.bounding.0 & !runtime::capabilities::CapabilitySet::container_default().0 != 0;
    check_sharing(launch, wanted)?;
    let machine =
        [(wanted.privileged, "it is privileged"), (beyond, "it has capabilities beyond the usual ones")];
    if let Some((_, why)) = machine.iter().find(|(holds, _)| *holds && !config.allow_privileged) {
        return Err(format!(
            "the container could do anything to the machine ({why}); {}",
            crate::shell::engine::PRIVILEGED
        ));
    }
    if wanted.read_only && wanted.image.is_none() {
        return Err("a read-only root needs an image; this container has the machine's root".to_owned());
    }
    if wanted.privileged {
        spec.bounding = runtime::capabilities::CapabilitySet::ALL;
        spec.seccomp = runtime::Seccomp::Unconfined;
        spec.no_new_privs = false;
        spec.unmasked = true;
    }
    spec.validate().map_err(|error| error.to_string())?;
    Ok(spec)
}

/// Whether a container whose root is known has users of its own. Whoever is given the machine has the machine's, as has who shares the processes or IPC
/// of a pod, which are held by one without an image.
pub(crate) fn own_users(spec: &ContainerSpec, wanted: &Wanted, config: &Config) -> bool {
    let beyond = spec.bounding.0 & !runtime::capabilities::CapabilitySet::container_default().0 != 0;
    let apart = spec.has_image() && !wanted.privileged && !beyond && spec.share.is_none();
    config.user_namespaces.enabled && apart
}

/// A pod's tasks may share what is the pod's. Nobody shares what is the machine's.
fn check_sharing(launch: &Launch, wanted: &Wanted) -> Result<(), String> {
    let pod = launch.pod.as_ref();
    let machines = match pod {
        None => wanted.share,
        Some(pod) => pod.linux.as_ref().map(Sharing::asked).unwrap_or_default(),
    };
    if machines.is_any() {
        let (asked, what) = match machines.pids {
            true => ("`linux_info.share_pid_namespace`", "process ids"),
            false => ("`linux_info.ipc_mode` SHARE_PARENT", "shared memory"),
        };
        return Err(format!(
            "{asked} of a container that is in none other means the machine's own {what}, which this agent does not give \
             away; ask for it in the tasks of a pod, which then share the pod's"
        ));
    }
    Ok(())
}

/// The program of a command: a shell line, or a program with its arguments.
pub(crate) fn command(info: &CommandInfo) -> Result<Command, String> {
    let value = info.value.clone().unwrap_or_default();
    if info.shell() {
        if value.is_empty() {
            return Err("the command has no `value` to give to the shell".to_owned());
        }
        return Ok(Command::Shell(value));
    }
    // As in Mesos the first argument is the program's own name for itself; the file to run is `value`.
    let mut argv = info.arguments.clone();
    match (argv.first_mut(), value.is_empty()) {
        (Some(first), false) => *first = value,
        (Some(_), true) => {}
        (None, false) => argv.push(value),
        (None, true) => return Err("the command has neither `value` nor `arguments`".to_owned()),
    }
    Ok(Command::Argv(argv))
}

/// The command's own variables.
pub(crate) fn environment(info: &CommandInfo, env: &mut BTreeMap<String, String>) -> Result<(), String> {
    let variables = info.environment.iter().flat_map(|environment| &environment.variables);
    for variable in variables {
        let value = match variable.r#type() {
            VariableType::Secret => {
                let secret = variable.secret.as_ref().and_then(|secret| secret.value.as_ref());
                let bytes = secret.map(|value| value.data.to_vec()).ok_or_else(|| {
                    format!(
                        "variable {}: secrets by reference are not supported by this agent",
                        variable.name
                    )
                })?;
                String::from_utf8(bytes).map_err(|_| format!("variable {}: not UTF-8", variable.name))?
            }
            VariableType::Value | VariableType::Unknown => variable.value.clone().unwrap_or_default(),
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(())
}

fn scalar(resources: &[Resource], name: &str) -> f64 {
    let named = resources.iter().filter(|resource| resource.name == name);
    named.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum()
}

/// What the sandbox may take: the task's `disk`, without its volumes. None where it asks for none, as in Mesos.
pub(crate) fn disk(resources: &[Resource]) -> Option<u64> {
    let plain = resources.iter().filter(|resource| resource.name == "disk" && resource.disk.is_none());
    let mib: f64 = plain.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum();
    (mib.is_finite() && mib > 0.0).then_some((mib * 1024.0 * 1024.0) as u64)
}

/// Limits in force. `limits` of a task raises what its resources say; infinite means none.
fn limits(resources: &[Resource], raised: &[(String, f64)], config: &Config) -> Limits {
    let raised = |name: &str| raised.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let finite = |value: f64| (value.is_finite() && value > 0.0).then_some(value);
    let cpus = finite(scalar(resources, "cpus"));
    let quota = match raised("cpus") {
        Some(value) => finite(value),
        None if config.cpu_quota => cpus,
        None => None,
    };
    let mem = match raised("mem") {
        Some(value) => finite(value),
        None => finite(scalar(resources, "mem")),
    };
    // The kernel refuses a quota below a hundredth of a processor.
    let millis = |cpus: f64, least: u64| ((cpus * 1000.0) as u64).max(least);
    Limits {
        cpu_share_millis: cpus.map(|cpus| millis(cpus, 2)),
        cpu_quota_millis: quota.map(|cpus| millis(cpus, 10)),
        memory_bytes: mem.map(|mib| (mib * 1024.0 * 1024.0) as u64),
        swap: !config.limit_swap,
        pids: (config.task_processes > 0).then_some(config.task_processes),
    }
}

/// What a `ContainerInfo` asks for. What cannot be given is refused, never left out in silence.
fn apply_container(spec: &mut ContainerSpec, info: &ContainerInfo) -> Result<(), String> {
    if let Some(tty) = &info.tty_info {
        let part = |of: u32| u16::try_from(of).unwrap_or(u16::MAX);
        let window = tty.window_size.as_ref();
        let (rows, columns) = window.map_or((0, 0), |window| (part(window.rows), part(window.columns)));
        spec.terminal = Some(runtime::Size { rows, columns });
    }
    spec.hostname = info.hostname.clone();
    if let Some(limits) = &info.rlimit_info {
        apply_rlimits(spec, limits)?;
    }
    if let Some(linux) = &info.linux_info {
        if let Some(seccomp) = &linux.seccomp {
            if let Some(profile) = &seccomp.profile_name {
                return Err(format!(
                    "this agent has one seccomp profile, its own, and none named '{profile}'; \
                     leave `linux_info.seccomp.profile_name` out"
                ));
            }
            if seccomp.unconfined() {
                spec.seccomp = runtime::Seccomp::Unconfined;
            }
        }
        if linux.shm_size.is_some() && linux.ipc_mode() != IpcMode::Private {
            return Err("`linux_info.shm_size` needs `ipc_mode` PRIVATE beside it".to_owned());
        }
        if let Some(mib) = linux.shm_size {
            spec.shm_bytes = u64::from(mib) << 20;
        }
        let names = |set: &plenum_api::mesos::CapabilityInfo| -> Vec<String> {
            set.capabilities().map(|capability| format!("CAP_{}", capability.as_str_name())).collect()
        };
        let set = |names: Vec<String>| {
            runtime::capabilities::CapabilitySet::from_names(&names).map_err(|error| error.to_string())
        };
        if let Some(bounding) = linux.bounding_capabilities.as_ref() {
            spec.bounding = set(names(bounding))?;
        }
        if let Some(effective) = linux.effective_capabilities.as_ref() {
            spec.ambient = set(names(effective))?;
        }
    }
    Ok(())
}

fn apply_rlimits(spec: &mut ContainerSpec, info: &plenum_api::mesos::RLimitInfo) -> Result<(), String> {
    use plenum_api::mesos::r_limit_info::r_limit::Type;
    for limit in &info.rlimits {
        let number = match limit.r#type() {
            Type::RlmtCpu => 0,
            Type::RlmtFsize => 1,
            Type::RlmtData => 2,
            Type::RlmtStack => 3,
            Type::RlmtCore => 4,
            Type::RlmtRss => 5,
            Type::RlmtNproc => 6,
            Type::RlmtNofile => 7,
            Type::RlmtMemlock => 8,
            Type::RlmtAs => 9,
            Type::RlmtLocks => 10,
            Type::RlmtSigpending => 11,
            Type::RlmtMsgqueue => 12,
            Type::RlmtNice => 13,
            Type::RlmtRtprio => 14,
            Type::RlmtRttime => 15,
            Type::Unknown => return Err("a resource limit has no type this agent knows".to_owned()),
        };
        let (soft, hard) = match (limit.soft, limit.hard) {
            (Some(soft), Some(hard)) if soft <= hard => (soft, hard),
            (None, None) => (u64::MAX, u64::MAX),
            _ => return Err("a resource limit needs both `soft` and `hard`, or neither".to_owned()),
        };
        spec.rlimits.push(runtime::Rlimit { resource: number, soft, hard });
    }
    Ok(())
}

/// What the runtime knows of a started container.
pub(crate) fn started(launched: Option<&runtime::Launched>) -> Started {
    let pid = launched.and_then(|launched| u32::try_from(launched.pid).ok());
    Started { pid, ..Started::default() }
}

/// The runtime's end of a container in the core's words; `memory` is what is known of one that ran out of it.
pub(crate) fn exit(exit: &runtime::Exit, memory: Option<&runtime::OutOfMemory>) -> Exit {
    use runtime::ExitReason::{InitDied, Lost};
    let message = match (exit.reason, memory.filter(|_| exit.oom)) {
        (InitDied, _) => "the container's first process was killed from outside".to_owned(),
        (Lost, _) => {
            "the container was lost: its supervisor was killed, or it was removed from outside".to_owned()
        }
        (_, Some(known)) => known.words(),
        _ if exit.forks_refused > 0 && exit.status != runtime::ExitStatus::Code(0) => format!(
            "it had as many processes as the agent allows one container (`task_processes`), and {} more were refused",
            exit.forks_refused
        ),
        _ => String::new(),
    };
    let abnormal = matches!(exit.reason, InitDied | Lost);
    Exit { status: exit_status(exit.status), oom: exit.oom, abnormal, message }
}

fn exit_status(status: runtime::ExitStatus) -> ExitStatus {
    match status {
        runtime::ExitStatus::Code(code) => ExitStatus::Code(code),
        runtime::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
        runtime::ExitStatus::Unknown => ExitStatus::Unknown,
    }
}

/// What a command check saw.
pub(crate) fn entered(entered: &runtime::Entered) -> ProbeOutcome {
    if entered.timed_out {
        return ProbeOutcome::TimedOut;
    }
    match entered.status {
        runtime::ExitStatus::Code(code) => ProbeOutcome::Exit(code),
        runtime::ExitStatus::Signal(signal) => ProbeOutcome::Exit(128 + signal),
        runtime::ExitStatus::Unknown => ProbeOutcome::Error("how the command ended is not known".to_owned()),
    }
}

/// What a connection saw.
pub(crate) fn probed(probed: runtime::Probed, http: bool) -> ProbeOutcome {
    match probed {
        runtime::Probed::Connected => ProbeOutcome::Connected(true),
        runtime::Probed::Status(code) => ProbeOutcome::Status(code),
        runtime::Probed::Failed(words) if http => ProbeOutcome::Error(words),
        runtime::Probed::Failed(_) => ProbeOutcome::Connected(false),
    }
}

/// Writes the containers' `resolv.conf` if name servers are configured; gives its path.
pub(crate) fn write_resolv_conf(config: &Config) -> std::io::Result<Option<PathBuf>> {
    if config.dns.is_empty() {
        return Ok(None);
    }
    let mut text = String::new();
    if !config.dns_search.is_empty() {
        text.push_str(&format!("search {}\n", config.dns_search.join(" ")));
    }
    for server in &config.dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let path = config.run_dir.join("resolv.conf");
    let temp = config.run_dir.join(".resolv.conf.new");
    let mut file = std::fs::File::create(&temp)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&temp, &path)?;
    Ok(Some(path.canonicalize()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Pod;
    use plenum_api::mesos::{Environment, LinuxInfo, environment::Variable, value};

    fn launch(value: &str, shell: bool, arguments: &[&str]) -> Launch {
        let command = CommandInfo {
            value: (!value.is_empty()).then(|| value.to_owned()),
            shell: Some(shell),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            environment: Some(Environment {
                variables: vec![Variable {
                    name: "MESOS_TASK_ID".to_owned(),
                    value: Some("mine".to_owned()),
                    ..Default::default()
                }],
            }),
            ..Default::default()
        };
        let scalar = |name: &str, value| {
            let mut resource = Resource { name: name.to_owned(), ..Default::default() };
            resource.scalar = Some(value::Scalar { value });
            resource
        };
        Launch {
            container: "c".to_owned(),
            framework: "f".to_owned(),
            executor: "e".to_owned(),
            task: None,
            command,
            container_info: None,
            resources: vec![scalar("cpus", 0.5), scalar("mem", 32.0), scalar("cpus", 0.25)],
            limits: Vec::new(),
            user: "nobody".to_owned(),
            user_named: false,
            pod: None,
            directory: "/sandbox".to_owned(),
            env: vec![("MESOS_TASK_ID".to_owned(), "ours".to_owned())],
            gpus: Vec::new(),
        }
    }

    #[test]
    fn commands_become_programs() {
        for (value, shell, arguments, expect) in [
            ("echo hi", true, vec!["x"], Ok(Command::Shell("echo hi".to_owned()))),
            ("/bin/echo", false, vec!["echo", "hi"], Ok(argv(&["/bin/echo", "hi"]))),
            ("/bin/true", false, vec![], Ok(argv(&["/bin/true"]))),
            ("", false, vec!["echo", "hi"], Ok(argv(&["echo", "hi"]))),
            ("", false, vec![], Err(())),
            ("", true, vec![], Err(())),
        ] {
            let launch = launch(value, shell, &arguments);
            assert_eq!(command(&launch.command).map_err(|_| ()), expect, "{value} {shell} {arguments:?}");
        }
    }

    fn argv(items: &[&str]) -> Command {
        Command::Argv(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn resources_become_limits_and_own_variables_win() {
        let config = Config::default();
        let mut launch = launch("true", true, &[]);
        let spec = container_spec(&launch, &Wanted::default(), &config, None).unwrap();
        assert_eq!(spec.env["MESOS_TASK_ID"], "mine");
        assert_eq!(spec.user.as_deref(), Some("nobody"));
        assert_eq!(spec.limits.cpu_share_millis, Some(750));
        assert_eq!(spec.limits.cpu_quota_millis, Some(750));
        assert_eq!(spec.limits.memory_bytes, Some(32 << 20));
        launch.limits = vec![("cpus".to_owned(), f64::INFINITY), ("mem".to_owned(), 64.0)];
        let spec = container_spec(&launch, &Wanted::default(), &config, None).unwrap();
        assert_eq!((spec.limits.cpu_quota_millis, spec.limits.memory_bytes), (None, Some(64 << 20)));
        assert!(!spec.limits.swap, "unless the operator lets tasks swap");
        let config = Config { limit_swap: false, ..config };
        assert!(container_spec(&launch, &Wanted::default(), &config, None).unwrap().limits.swap);
        let wanted = Wanted { read_only: true, ..Wanted::default() };
        assert!(container_spec(&launch, &wanted, &config, None).unwrap_err().contains("needs an image"));
    }

    #[test]
    fn an_image_may_bring_the_command_and_privilege_drops_the_walls_where_it_is_allowed() {
        let mut config = Config { allow_privileged: true, ..Config::default() };
        let launch = launch("", false, &[]);
        let image =
            super::super::wanted::WantedImage { name: "a".to_owned(), refresh: false, credentials: None };
        let wanted = Wanted { image: Some(image), privileged: true, ..Wanted::default() };
        let spec = container_spec(&launch, &wanted, &config, None).unwrap();
        assert_eq!(spec.bounding, runtime::capabilities::CapabilitySet::ALL);
        assert!(spec.unmasked && !spec.no_new_privs);
        assert!(container_spec(&launch, &Wanted::default(), &config, None).is_err());
        config.allow_privileged = false;
        let refusal = container_spec(&launch, &wanted, &config, None).unwrap_err();
        assert!(refusal.contains("allow_privileged"), "{refusal}");
    }

    #[test]
    fn who_has_users_of_its_own() {
        let on = crate::config::UsersConfig { enabled: true, ..Default::default() };
        let config = Config { user_namespaces: on, ..Config::default() };
        let mut image = ContainerSpec::new("c", "/s", argv(&["x"]));
        image.root =
            runtime::Root::Image { layers: vec!["/l".into()], upper: "/u".into(), work: "/w".into() };
        let beyond = ContainerSpec { bounding: runtime::capabilities::CapabilitySet::ALL, ..image.clone() };
        let less = ContainerSpec { bounding: runtime::capabilities::CapabilitySet::NONE, ..image.clone() };
        let share = Some(runtime::Share { with: "p".into(), pids: false, ipc: true });
        let shares = ContainerSpec { share, ..image.clone() };
        let host = ContainerSpec { root: runtime::Root::Host, ..image.clone() };
        let (plain, privileged) = (Wanted::default(), Wanted { privileged: true, ..Wanted::default() });
        for (spec, wanted, expect) in [
            (&image, &plain, true),
            (&less, &plain, true),
            (&image, &privileged, false),
            (&beyond, &plain, false),
            (&shares, &plain, false),
            (&host, &plain, false),
        ] {
            assert_eq!(own_users(spec, wanted, &config), expect, "{spec:?} {wanted:?}");
            assert!(!own_users(spec, wanted, &Config::default()), "off by default");
        }
    }

    #[test]
    fn shared_memory_is_ones_own_and_nothing_is_dropped_in_silence() {
        let asks = |ipc: Option<IpcMode>, shm_size| {
            let linux = plenum_api::mesos::LinuxInfo {
                ipc_mode: ipc.map(|mode| mode as i32),
                shm_size,
                ..Default::default()
            };
            let info = ContainerInfo { linux_info: Some(linux), ..Default::default() };
            let launch = Launch { container_info: Some(info), ..launch("true", true, &[]) };
            container_spec(&launch, &Wanted::default(), &Config::default(), None).map(|spec| spec.shm_bytes)
        };
        assert_eq!(asks(Some(IpcMode::Private), Some(8)), Ok(8 << 20));
        assert!(asks(Some(IpcMode::Private), None).is_ok() && asks(None, None).is_ok());
        assert!(asks(None, Some(8)).unwrap_err().contains("PRIVATE"));
        assert!(asks(Some(IpcMode::Private), Some(1)).is_ok());
    }

    #[test]
    fn what_is_the_machines_is_not_shared() {
        let ask = |share: Sharing, pod: Option<LinuxInfo>| {
            let pod = pod.map(|linux| Pod { linux: Some(linux), ..Pod::default() });
            let launch = Launch { pod, ..launch("true", true, &[]) };
            let wanted = Wanted { share, ..Wanted::default() };
            container_spec(&launch, &wanted, &Config::default(), None).map(drop)
        };
        let pids = LinuxInfo { share_pid_namespace: Some(true), ..Default::default() };
        let ipc = LinuxInfo { ipc_mode: Some(IpcMode::ShareParent as i32), ..Default::default() };
        let both = Sharing { pids: true, ipc: true };
        assert_eq!(ask(both, Some(LinuxInfo::default())), Ok(()));
        for (share, pod, named) in [
            (both, None, "share_pid_namespace"),
            (Sharing { ipc: true, ..Sharing::default() }, None, "SHARE_PARENT"),
            (Sharing::default(), Some(pids), "share_pid_namespace"),
            (both, Some(ipc), "SHARE_PARENT"),
        ] {
            let refusal = ask(share, pod).unwrap_err();
            assert!(refusal.contains(named) && refusal.contains("of a pod"), "{refusal}");
        }
    }
}

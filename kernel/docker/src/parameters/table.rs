//! The table: each option of `docker run`, and what it does to the request or why a task cannot have it.

use super::mounts::{mount, tmpfs, volume};
use super::parse::{bytes, device, nanos, number, pair, port, publish, rate, switch, ulimit};
use crate::body::Draft;
use bollard::models::{
    DeviceRequest, EndpointIpamConfig, HealthConfig, HostConfigCgroupnsModeEnum as Cgroupns,
    HostConfigLogConfig, ResourcesBlkioWeightDevice, ThrottleDevice,
};

/// What is done with an option.
pub enum Rule {
    /// Applied.
    Set(fn(&mut Draft, &str) -> Result<(), String>),
    /// Not for tasks, and why.
    Refuse(&'static str),
}

use Rule::{Refuse, Set};

/// A field that is a text.
macro_rules! text {
    ($($field:ident).+) => { Set(|d, v| { d.$($field).+ = Some(v.to_owned()); Ok(()) }) };
}
/// A field that is a list, added to.
macro_rules! list {
    ($($field:ident).+) => { Set(|d, v| { d.$($field).+.get_or_insert_default().push(v.to_owned()); Ok(()) }) };
}
/// A field that is a table, added to.
macro_rules! table {
    ($($field:ident).+) => {
        Set(|d, v| { let (name, value) = pair(v)?; d.$($field).+.get_or_insert_default().insert(name, value); Ok(()) })
    };
}
/// A field that is read by a function.
macro_rules! read {
    ($read:ident, $($field:ident).+) => { Set(|d, v| { d.$($field).+ = Some($read(v)?); Ok(()) }) };
}
/// A list of things that are read by a function.
macro_rules! reads {
    ($read:ident, $($field:ident).+) => {
        Set(|d, v| { d.$($field).+.get_or_insert_default().push($read(v)?); Ok(()) })
    };
}
/// A list of devices with a rate.
macro_rules! throttle {
    ($read:ident, $field:ident) => {
        Set(|d, v| {
            let (path, rate) = rate(v, $read)?;
            let item = ThrottleDevice { path: Some(path), rate: Some(rate) };
            d.host.$field.get_or_insert_default().push(item);
            Ok(())
        })
    };
}
/// A field of the engine's own health check.
macro_rules! health {
    ($read:ident, $field:ident) => {
        Set(|d, v| {
            health(d).$field = Some($read(v)?);
            Ok(())
        })
    };
}

const BY_AGENT: &str = "the agent decides it: it starts the container, keeps its output and removes it";
const BY_FIELD: &str =
    "say it in the task: `container.docker.force_pull_image` and `image` decide what is pulled";
const BY_FILE: &str =
    "it is a file beside the `docker` command; say its content in the task's `command.environment`";

/// In the order of `docker run --help`.
pub const TABLE: &[(&str, Rule)] = &[
    ("add-host", list!(host.extra_hosts)),
    ("annotation", table!(host.annotations)),
    ("attach", Refuse(BY_AGENT)),
    ("blkio-weight", Set(blkio_weight)),
    ("blkio-weight-device", Set(blkio_weight_device)),
    ("cap-add", list!(host.cap_add)),
    ("cap-drop", list!(host.cap_drop)),
    ("cgroup-parent", text!(host.cgroup_parent)),
    ("cgroupns", Set(cgroupns)),
    ("cidfile", Refuse(BY_AGENT)),
    ("cpu-count", Refuse("it exists on Windows only; use `cpus` or the task's resources")),
    ("cpu-percent", Refuse("it exists on Windows only; use `cpus` or the task's resources")),
    ("cpu-period", read!(number, host.cpu_period)),
    ("cpu-quota", read!(number, host.cpu_quota)),
    ("cpu-rt-period", read!(number, host.cpu_realtime_period)),
    ("cpu-rt-runtime", read!(number, host.cpu_realtime_runtime)),
    ("cpu-shares", read!(number, host.cpu_shares)),
    ("cpus", Set(cpus)),
    ("cpuset-cpus", text!(host.cpuset_cpus)),
    ("cpuset-mems", text!(host.cpuset_mems)),
    ("detach", Refuse(BY_AGENT)),
    ("detach-keys", Refuse(BY_AGENT)),
    ("device", reads!(device, host.devices)),
    ("device-cgroup-rule", list!(host.device_cgroup_rules)),
    ("device-read-bps", throttle!(bytes, blkio_device_read_bps)),
    ("device-read-iops", throttle!(number, blkio_device_read_iops)),
    ("device-write-bps", throttle!(bytes, blkio_device_write_bps)),
    ("device-write-iops", throttle!(number, blkio_device_write_iops)),
    ("disable-content-trust", Refuse(BY_FIELD)),
    ("dns", list!(host.dns)),
    ("dns-opt", list!(host.dns_options)),
    ("dns-option", list!(host.dns_options)),
    ("dns-search", list!(host.dns_search)),
    ("domainname", text!(body.domainname)),
    ("entrypoint", Set(entrypoint)),
    ("env", Set(env)),
    ("env-file", Refuse(BY_FILE)),
    (
        "expose",
        Set(|d, v| {
            crate::body::expose(d, &port(v)?);
            Ok(())
        }),
    ),
    ("gpus", Set(gpus)),
    ("group-add", list!(host.group_add)),
    ("health-cmd", Set(health_command)),
    ("health-interval", health!(nanos, interval)),
    ("health-retries", health!(number, retries)),
    ("health-start-interval", health!(nanos, start_interval)),
    ("health-start-period", health!(nanos, start_period)),
    ("health-timeout", health!(nanos, timeout)),
    ("hostname", text!(body.hostname)),
    ("init", read!(switch, host.init)),
    ("interactive", read!(switch, body.open_stdin)),
    ("io-maxbandwidth", Refuse("it exists on Windows only; use `device-read-bps` and `device-write-bps`")),
    ("io-maxiops", Refuse("it exists on Windows only; use `device-read-iops` and `device-write-iops`")),
    (
        "ip",
        Set(|d, v| {
            ipam(d).ipv4_address = Some(v.to_owned());
            Ok(())
        }),
    ),
    (
        "ip6",
        Set(|d, v| {
            ipam(d).ipv6_address = Some(v.to_owned());
            Ok(())
        }),
    ),
    ("ipc", text!(host.ipc_mode)),
    ("isolation", Refuse("it exists on Windows only")),
    ("kernel-memory", Refuse("kernels and engines no longer have it; use `memory`")),
    ("label", table!(body.labels)),
    ("label-file", Refuse(BY_FILE)),
    ("link", list!(host.links)),
    (
        "link-local-ip",
        Set(|d, v| {
            ipam(d).link_local_ips.get_or_insert_default().push(v.to_owned());
            Ok(())
        }),
    ),
    ("log-driver", Set(log_driver)),
    ("log-opt", Set(log_option)),
    ("mac-address", text!(endpoint.mac_address)),
    ("memory", read!(bytes, host.memory)),
    ("memory-reservation", read!(bytes, host.memory_reservation)),
    ("memory-swap", Set(memory_swap)),
    ("memory-swappiness", read!(number, host.memory_swappiness)),
    ("mount", Set(mount)),
    ("name", Refuse("the agent finds the container by its name; use `hostname` or `network-alias`")),
    ("net", text!(host.network_mode)),
    ("net-alias", list!(endpoint.aliases)),
    ("network", text!(host.network_mode)),
    ("network-alias", list!(endpoint.aliases)),
    ("no-healthcheck", Set(no_healthcheck)),
    ("oom-kill-disable", read!(switch, host.oom_kill_disable)),
    ("oom-score-adj", read!(number, host.oom_score_adj)),
    ("pid", text!(host.pid_mode)),
    ("pids-limit", read!(number, host.pids_limit)),
    ("platform", Refuse(BY_FIELD)),
    ("privileged", read!(switch, host.privileged)),
    ("publish", Set(publish_port)),
    ("publish-all", read!(switch, host.publish_all_ports)),
    ("pull", Refuse(BY_FIELD)),
    ("quiet", Refuse(BY_AGENT)),
    ("read-only", read!(switch, host.readonly_rootfs)),
    ("restart", Refuse("a task that ends is started again by its framework, not by the engine")),
    ("rm", Refuse(BY_AGENT)),
    ("runtime", text!(host.runtime)),
    ("security-opt", Set(security)),
    ("shm-size", read!(bytes, host.shm_size)),
    ("sig-proxy", Refuse(BY_AGENT)),
    ("stop-signal", text!(body.stop_signal)),
    ("stop-timeout", Refuse("say it in the task's `kill_policy.grace_period`")),
    ("storage-opt", table!(host.storage_opt)),
    ("sysctl", table!(host.sysctls)),
    ("tmpfs", Set(tmpfs)),
    ("tty", read!(switch, body.tty)),
    ("ulimit", Set(set_ulimit)),
    ("user", text!(body.user)),
    ("userns", text!(host.userns_mode)),
    ("uts", text!(host.uts_mode)),
    ("volume", Set(volume)),
    ("volume-driver", text!(host.volume_driver)),
    ("volumes-from", list!(host.volumes_from)),
    ("workdir", text!(body.working_dir)),
];

fn health(draft: &mut Draft) -> &mut HealthConfig {
    draft.body.healthcheck.get_or_insert_with(HealthConfig::default)
}

fn ipam(draft: &mut Draft) -> &mut EndpointIpamConfig {
    draft.endpoint.ipam_config.get_or_insert_with(EndpointIpamConfig::default)
}

fn health_command(draft: &mut Draft, text: &str) -> Result<(), String> {
    health(draft).test = Some(vec!["CMD-SHELL".into(), text.into()]);
    Ok(())
}

fn no_healthcheck(draft: &mut Draft, text: &str) -> Result<(), String> {
    if switch(text)? {
        health(draft).test = Some(vec!["NONE".into()]);
    }
    Ok(())
}

fn blkio_weight(draft: &mut Draft, text: &str) -> Result<(), String> {
    draft.host.blkio_weight =
        Some(text.parse().map_err(|_| format!("{text:?} is not a weight from 10 to 1000"))?);
    Ok(())
}

fn blkio_weight_device(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (path, weight) = rate(text, number)?;
    let weight = usize::try_from(weight).map_err(|_| format!("{text:?}: a weight is from 10 to 1000"))?;
    let device = ResourcesBlkioWeightDevice { path: Some(path), weight: Some(weight) };
    draft.host.blkio_weight_device.get_or_insert_default().push(device);
    Ok(())
}

fn cgroupns(draft: &mut Draft, text: &str) -> Result<(), String> {
    draft.host.cgroupns_mode = Some(match text {
        "host" => Cgroupns::HOST,
        "private" => Cgroupns::PRIVATE,
        _ => return Err(format!("{text:?}: use host or private")),
    });
    Ok(())
}

fn cpus(draft: &mut Draft, text: &str) -> Result<(), String> {
    let cpus: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of processors"))?;
    if !(0.0..=1e6).contains(&cpus) {
        return Err(format!("{text:?} is not a number of processors"));
    }
    // The engine takes either this or quota and period.
    (draft.host.cpu_quota, draft.host.cpu_period) = (None, None);
    draft.host.nano_cpus = Some((cpus * 1e9) as i64);
    Ok(())
}

fn memory_swap(draft: &mut Draft, text: &str) -> Result<(), String> {
    draft.host.memory_swap = Some(if text == "-1" { -1 } else { bytes(text)? });
    Ok(())
}

fn entrypoint(draft: &mut Draft, text: &str) -> Result<(), String> {
    draft.body.entrypoint = Some(vec![text.to_owned()]);
    Ok(())
}

fn env(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(format!("{text:?} is not name=value"));
    }
    let all = draft.body.env.get_or_insert_default();
    all.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
    all.push(format!("{name}={value}"));
    Ok(())
}

fn gpus(draft: &mut Draft, text: &str) -> Result<(), String> {
    let count = match text {
        "all" => -1,
        text => number(text).map_err(|_| format!("{text:?}: use all or a number"))?,
    };
    draft.host.device_requests.get_or_insert_default().push(DeviceRequest {
        count: Some(count),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    });
    Ok(())
}

fn log_driver(draft: &mut Draft, text: &str) -> Result<(), String> {
    // Its options are the new driver's, those of the old one would be refused.
    draft.host.log_config = Some(HostConfigLogConfig { typ: Some(text.to_owned()), config: None });
    Ok(())
}

fn log_option(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (name, value) = pair(text)?;
    let config = draft.host.log_config.get_or_insert_with(HostConfigLogConfig::default);
    config.config.get_or_insert_default().insert(name, value);
    Ok(())
}

fn publish_port(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (inside, binding) = publish(text)?;
    let host = binding.host_port.unwrap_or_default().parse().unwrap_or(0);
    crate::body::publish(draft, &binding.host_ip.unwrap_or_default(), host, &inside);
    Ok(())
}

fn security(draft: &mut Draft, text: &str) -> Result<(), String> {
    let profile = text.strip_prefix("seccomp=").or_else(|| text.strip_prefix("seccomp:"));
    if profile.is_some_and(|profile| profile != "unconfined" && !profile.starts_with('{')) {
        return Err("a seccomp profile is given as its JSON, or unconfined; the engine reads no file".into());
    }
    draft.host.security_opt.get_or_insert_default().push(text.to_owned());
    Ok(())
}

fn set_ulimit(draft: &mut Draft, text: &str) -> Result<(), String> {
    let limit = ulimit(text)?;
    let all = draft.host.ulimits.get_or_insert_default();
    all.retain(|known| known.name != limit.name);
    all.push(limit);
    Ok(())
}

//! Capabilities, system calls, IPC, resource limits of a task. Pure.

use crate::spec::{DockerSpec, SpecFault};
use plenum_api::mesos::linux_info::IpcMode;
use plenum_api::mesos::r_limit_info::r_limit::Type;
use plenum_api::mesos::{ContainerInfo, LinuxInfo, RLimitInfo};

pub(super) fn apply(container: &ContainerInfo, spec: &mut DockerSpec) -> Result<(), SpecFault> {
    if let Some(linux) = &container.linux_info {
        self::linux(linux, spec)?;
    }
    if let Some(limits) = &container.rlimit_info {
        rlimits(limits, spec)?;
    }
    Ok(())
}

fn linux(linux: &LinuxInfo, spec: &mut DockerSpec) -> Result<(), SpecFault> {
    let fault = |field: &str, why: &str| Err(SpecFault::field(format!("container.linux_info.{field}"), why));
    if linux.effective_capabilities.is_some() {
        return fault("effective_capabilities", "the engine has one set; use `bounding_capabilities`");
    }
    let set = linux.bounding_capabilities.as_ref().or(linux.capability_info.as_ref());
    spec.capabilities =
        set.map(|set| set.capabilities().map(|capability| capability.as_str_name().to_owned()).collect());
    if let Some(seccomp) = &linux.seccomp {
        if seccomp.profile_name.is_some() {
            return fault("seccomp.profile_name", "the engine has its own profile; leave it out");
        }
        spec.seccomp_unconfined = seccomp.unconfined();
    }
    spec.ipc = match linux.ipc_mode() {
        IpcMode::Unknown => None,
        IpcMode::Private => Some("private".into()),
        // The parent of a task's container is the agent, which lives in the host's.
        IpcMode::ShareParent => Some("host".into()),
    };
    spec.shm_bytes = linux.shm_size.map(|mib| u64::from(mib) << 20);
    spec.host_pids = linux.share_pid_namespace();
    Ok(())
}

fn rlimits(info: &RLimitInfo, spec: &mut DockerSpec) -> Result<(), SpecFault> {
    let fault = |why: &str| Err(SpecFault::field("container.rlimit_info", why));
    for limit in &info.rlimits {
        let name = match limit.r#type() {
            Type::RlmtCpu => "cpu",
            Type::RlmtFsize => "fsize",
            Type::RlmtData => "data",
            Type::RlmtStack => "stack",
            Type::RlmtCore => "core",
            Type::RlmtRss => "rss",
            Type::RlmtNproc => "nproc",
            Type::RlmtNofile => "nofile",
            Type::RlmtMemlock => "memlock",
            Type::RlmtLocks => "locks",
            Type::RlmtSigpending => "sigpending",
            Type::RlmtMsgqueue => "msgqueue",
            Type::RlmtNice => "nice",
            Type::RlmtRtprio => "rtprio",
            Type::RlmtRttime => "rttime",
            Type::RlmtAs => {
                return fault("the engine cannot limit address space (RLMT_AS); limit memory instead");
            }
            Type::Unknown => return fault("a limit has no type that is known"),
        };
        let number = |value: u64| i64::try_from(value).unwrap_or(-1);
        let (soft, hard) = match (limit.soft, limit.hard) {
            (Some(soft), Some(hard)) if soft <= hard => (number(soft), number(hard)),
            (None, None) => (-1, -1),
            _ => {
                return fault(
                    "a limit needs both `soft` and `hard`, the first not above the second, or neither",
                );
            }
        };
        spec.ulimits.push((name.into(), soft, hard));
    }
    Ok(())
}

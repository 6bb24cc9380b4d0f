//! Small conveniences on the wire types.

use plenum_api::Millis;
use plenum_api::mesos::framework_info::capability::Type as Capability;
use plenum_api::mesos::{DurationInfo, FrameworkInfo, KillPolicy, TaskInfo, TaskState};

/// Longest id that fits a file name.
const MAX_ID: usize = 255;

/// Whether an id can be a folder's name, which sandboxes make of it.
pub(crate) fn check_id(what: &str, id: &str) -> Result<(), String> {
    let bad = id.is_empty()
        || id.len() > MAX_ID
        || id == "."
        || id == ".."
        || id.chars().any(|letter| letter == '/' || letter.is_control());
    if bad {
        return Err(format!(
            "the {what} id must have 1 to {MAX_ID} bytes, no '/' and no control characters, and not be '.' or '..'"
        ));
    }
    Ok(())
}

/// Id of a framework, as its info carries it.
pub(crate) fn framework_id(info: &FrameworkInfo) -> &str {
    info.id.as_ref().map_or("", |id| id.value.as_str())
}

/// Whether a framework has a capability.
pub(crate) fn capable(info: &FrameworkInfo, what: Capability) -> bool {
    info.capabilities.iter().any(|capability| capability.r#type() == what)
}

/// Whether nothing comes after this state.
pub(crate) fn terminal(state: TaskState) -> bool {
    !matches!(
        state,
        TaskState::TaskStaging
            | TaskState::TaskStarting
            | TaskState::TaskRunning
            | TaskState::TaskKilling
            | TaskState::TaskUnreachable
            | TaskState::TaskUnknown
    )
}

/// A duration; negative is zero.
pub(crate) fn duration(info: &DurationInfo) -> Millis {
    Millis::from_nanos(info.nanoseconds)
}

/// A duration for the wire.
pub(crate) fn duration_info(wait: Millis) -> DurationInfo {
    DurationInfo { nanoseconds: wait.as_nanos() }
}

/// The grace period of a policy, if it names one.
pub(crate) fn grace(policy: Option<&KillPolicy>) -> Option<Millis> {
    policy.and_then(|policy| policy.grace_period.as_ref()).map(duration)
}

/// A task's info for a tombstone: without what only the launch needed.
pub(crate) fn slim(info: &TaskInfo) -> TaskInfo {
    TaskInfo { data: None, command: None, executor: None, ..info.clone() }
}

/// `Terminated`, `Killed`: what `strsignal` says.
pub(crate) fn signal_name(signal: i32) -> String {
    let known = [
        (1, "Hangup"),
        (2, "Interrupt"),
        (3, "Quit"),
        (4, "Illegal instruction"),
        (5, "Trace/breakpoint trap"),
        (6, "Aborted"),
        (7, "Bus error"),
        (8, "Floating point exception"),
        (9, "Killed"),
        (10, "User defined signal 1"),
        (11, "Segmentation fault"),
        (12, "User defined signal 2"),
        (13, "Broken pipe"),
        (14, "Alarm clock"),
        (15, "Terminated"),
        (24, "CPU time limit exceeded"),
        (25, "File size limit exceeded"),
        (31, "Bad system call"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(|| format!("Unknown signal {signal}"), |(_, name)| (*name).to_owned())
}

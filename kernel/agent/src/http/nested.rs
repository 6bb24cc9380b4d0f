//! Containers inside of containers, by the operator API: starting commands, waiting for them, signals, forgetting them.
//!
//! A nested container is a command in its parent's namespaces, as its parent's user, within its parent's limits; it ends with its
//! parent and with the agent. Only what is asked is here: the table is `shell::sessions`, streams are in `sessions` and `attach`.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use plenum_api::agent::{Call, Response as Said, call::Type as Asked, response, response::Type as Told};
use plenum_api::codec;
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{CommandInfo, ContainerId, ContainerInfo, TaskState};
use plenum_containers::{Exit, ExitReason, ExitStatus, Open, RuntimeError, Size};

use super::{Http, reply_encoding, sessions, text};
use crate::core::View;
use crate::shell::plan;
use crate::shell::sessions::{End, OpenError, SIGKILL, key};

/// Bytes of one part of an id.
const ID: usize = 255;
/// Parts of an id.
const DEPTH: usize = 16;

/// A container that commands can be run in.
#[derive(Debug)]
pub(super) struct Host {
    /// What the runtime calls it.
    pub container: String,
    /// Its sandbox on the machine.
    pub directory: String,
    /// Its user, as its framework named it; empty where nobody did.
    user: String,
}

impl Host {
    /// Commands run as their container's user; another one is refused rather than ignored.
    pub fn check_user(&self, command: Option<&CommandInfo>) -> Result<(), Response> {
        match command.and_then(|command| command.user.as_deref()).filter(|user| *user != self.user) {
            None => Ok(()),
            Some(user) => {
                let own = if self.user.is_empty() { "the agent's own" } else { &self.user };
                Err(bad(&format!(
                    "A nested container runs as its parent's user ({own}), not as {user}; leave 'command.user' out"
                )))
            }
        }
    }
}

/// What an id means here.
#[derive(Debug)]
pub(super) enum Found {
    /// A container of the runtime's.
    Container(Host),
    /// A pod, which has no process of its own; the ids of its containers.
    Pod(Vec<String>),
    /// Nothing that runs.
    Nothing,
}

/// Everything but what is answered with a stream.
pub(super) async fn call(http: &Http, headers: &HeaderMap, call: Call) -> Result<Response, Response> {
    let asked = call.r#type();
    match asked {
        Asked::LaunchNestedContainer => {
            let launch = call.launch_nested_container.ok_or_else(|| missing("launch_nested_container"))?;
            sessions::launch(http, launch.container_id, launch.command, launch.container).await
        }
        Asked::LaunchContainer => {
            let launch = call.launch_container.ok_or_else(|| missing("launch_container"))?;
            if launch.container_id.parent.is_none() {
                let words = "This agent starts containers for tasks, and commands inside containers (an id with a parent); \
                             it does not start containers that belong to nobody.";
                return Err(text(StatusCode::NOT_IMPLEMENTED, words));
            }
            if !launch.resources.is_empty() || !launch.limits.is_empty() {
                return Err(bad(
                    "A nested container shares its parent's resources; leave 'resources' and 'limits' out",
                ));
            }
            sessions::launch(http, launch.container_id, launch.command, launch.container).await
        }
        Asked::WaitNestedContainer => {
            let id = call.wait_nested_container.ok_or_else(|| missing("wait_nested_container"))?.container_id;
            wait(http, headers, &id, true).await
        }
        Asked::WaitContainer => {
            let id = call.wait_container.ok_or_else(|| missing("wait_container"))?.container_id;
            wait(http, headers, &id, false).await
        }
        Asked::KillNestedContainer => {
            let kill = call.kill_nested_container.ok_or_else(|| missing("kill_nested_container"))?;
            end(http, &kill.container_id, kill.signal, true).await
        }
        Asked::KillContainer => {
            let kill = call.kill_container.ok_or_else(|| missing("kill_container"))?;
            end(http, &kill.container_id, kill.signal, false).await
        }
        Asked::RemoveNestedContainer => {
            let id =
                call.remove_nested_container.ok_or_else(|| missing("remove_nested_container"))?.container_id;
            remove(http, &id).await
        }
        _ => {
            let id = call.remove_container.ok_or_else(|| missing("remove_container"))?.container_id;
            remove(http, &id).await
        }
    }
}

pub(super) fn bad(words: &str) -> Response {
    text(StatusCode::BAD_REQUEST, words)
}

pub(super) fn missing(field: &str) -> Response {
    bad(&format!("Expecting '{field}' to be present"))
}

/// Refuses ids that cannot be names of files and parts of a dotted word.
pub(super) fn check_id(id: &ContainerId, nested: bool) -> Result<(), Response> {
    let mut one = Some(id);
    let mut depth = 0;
    while let Some(id) = one {
        depth += 1;
        let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'.' | b'/' | b'\\');
        if id.value.is_empty() || id.value.len() > ID || id.value.bytes().any(odd) || depth > DEPTH {
            return Err(bad(&format!(
                "'container_id' is invalid: each of its at most {DEPTH} parts has 1 to {ID} letters, digits and signs, but no '.', '/', '\\' or space"
            )));
        }
        one = id.parent.as_deref();
    }
    if nested && id.parent.is_none() {
        return Err(bad("Expecting 'container_id.parent' to be present"));
    }
    Ok(())
}

/// What an id means among the agent's own containers.
pub(super) fn find(view: &View, id: &ContainerId) -> Found {
    let executors = view
        .frameworks
        .iter()
        .flat_map(|framework| framework.executors.iter().map(move |executor| (framework, executor)));
    for (framework, executor) in executors.filter(|(_, executor)| !executor.completed) {
        let user = |named: Option<&String>| named.unwrap_or(&framework.info.user).clone();
        let pod = executor.info.r#type() == ExecutorType::Default;
        let live = executor.tasks.iter().filter(|task| matches!(task.stage, "pending" | "launched"));
        match id.parent.as_deref() {
            None if id.value != executor.container => {}
            None if pod => return Found::Pod(live.map(|task| task.container.clone()).collect()),
            None => {
                let (container, directory) = (executor.container.clone(), executor.directory.clone());
                let command = executor.info.command.as_ref();
                let user = user(command.and_then(|command| command.user.as_ref()));
                return Found::Container(Host { container, directory, user });
            }
            Some(parent) if pod && parent.parent.is_none() && parent.value == executor.container => {
                let mut live = live;
                if let Some(task) = live.find(|task| task.container == id.value) {
                    let (container, directory) = (task.container.clone(), task.directory.clone());
                    let user = user(task.task.user.as_ref());
                    return Found::Container(Host { container, directory, user });
                }
            }
            Some(_) => {}
        }
    }
    Found::Nothing
}

/// The container that a nested one is to run in. A parent that is nested itself passes on its own.
pub(super) async fn host_of(http: &Http, id: &ContainerId) -> Result<Host, Response> {
    let (view, _) = http.view().await?;
    forget_ended(http, &view);
    let mut parent = id.parent.as_deref();
    while let Some(one) = parent {
        match find(&view, one) {
            Found::Container(host) => return Ok(host),
            Found::Pod(containers) => {
                return Err(bad(&format!(
                    "Parent container {} is a pod, which has no process of its own; use one of its containers: {}",
                    key(one),
                    containers.join(", ")
                )));
            }
            Found::Nothing if http.sessions.find(one).is_some_and(|one| one.ended().is_none()) => {}
            Found::Nothing => break,
        }
        parent = one.parent.as_deref();
    }
    let parent = id.parent.as_deref().map(key).unwrap_or_default();
    Err(bad(&format!("Parent container {parent} does not exist")))
}

fn forget_ended(http: &Http, view: &View) {
    let executors = view.frameworks.iter().flat_map(|framework| &framework.executors);
    let live: BTreeSet<&str> = executors
        .filter(|executor| !executor.completed)
        .flat_map(|executor| {
            executor.tasks.iter().map(|task| task.container.as_str()).chain([executor.container.as_str()])
        })
        .collect();
    http.sessions.forget_without(&live);
}

/// What to run, from what the call says. Refuses what a command in another's container cannot have.
pub(super) fn to_open(
    command: Option<CommandInfo>,
    container: Option<ContainerInfo>,
) -> Result<Open, Response> {
    let refuse = |what: &str| {
        Err(bad(&format!(
            "The provided ContainerInfo is not supported: a nested container shares its parent's {what}"
        )))
    };
    let info = command.ok_or_else(|| missing("command"))?;
    if !info.uris.is_empty() {
        return Err(bad(
            "A nested container shares its parent's sandbox and fetches nothing; leave 'command.uris' out",
        ));
    }
    let terminal = match container {
        None => None,
        Some(container) => {
            let image = container.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some());
            if container.r#type() != plenum_api::mesos::container_info::Type::Mesos || image {
                return refuse("image");
            }
            if !container.volumes.is_empty() {
                return refuse("volumes");
            }
            if !container.network_infos.is_empty() {
                return refuse("network");
            }
            container.tty_info.map(|tty| size(tty.window_size.as_ref()))
        }
    };
    let mut env = BTreeMap::new();
    plan::environment(&info, &mut env).map_err(|words| bad(&words))?;
    let command = plan::command(&info).map_err(|words| bad(&words))?;
    Ok(Open { command, env, terminal })
}

/// A terminal's size; one that is not said, or beyond what terminals have, is none.
pub(super) fn size(window: Option<&plenum_api::mesos::tty_info::WindowSize>) -> Size {
    let short = |count: u32| u16::try_from(count).unwrap_or(0);
    window.map_or(Size { rows: 0, columns: 0 }, |window| Size {
        rows: short(window.rows),
        columns: short(window.columns),
    })
}

/// A start that failed, as Mesos answers it: what is there already is no error, everything else is the caller's.
pub(super) fn not_started(error: &OpenError) -> Response {
    match error {
        OpenError::Exists => StatusCode::ACCEPTED.into_response(),
        OpenError::Full(words) => text(StatusCode::TOO_MANY_REQUESTS, words),
        OpenError::Late => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        OpenError::Runtime(inner) => bad(&format!("The command cannot be started: {inner}")),
    }
}

/// `WAIT_NESTED_CONTAINER` and `WAIT_CONTAINER`: the answer comes at the end.
async fn wait(http: &Http, headers: &HeaderMap, id: &ContainerId, old: bool) -> Result<Response, Response> {
    check_id(id, old)?;
    let encoding = reply_encoding(headers)?;
    let mut told = match http.sessions.find(id) {
        Some(nested) => termination(nested.wait().await),
        None => {
            let (view, _) = http.view().await?;
            let Found::Container(host) = find(&view, id) else { return Err(unknown(id)) };
            drop(view);
            match http.runtime.wait(&host.container).await {
                Ok(exit) => termination_of(&exit),
                Err(RuntimeError::NotFound(_)) => return Err(unknown(id)),
                Err(error) => return Err(text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            }
        }
    };
    let mut said = Said::default();
    if old {
        said.set_type(Told::WaitNestedContainer);
        said.wait_nested_container = Some(response::WaitNestedContainer {
            exit_status: told.exit_status,
            state: told.state,
            reason: told.reason,
            message: told.message.take(),
            ..Default::default()
        });
    } else {
        said.set_type(Told::WaitContainer);
        said.wait_container = Some(told);
    }
    Ok(([(header::CONTENT_TYPE, encoding.media_type())], codec::encode(encoding, &said)).into_response())
}

fn unknown(id: &ContainerId) -> Response {
    text(StatusCode::NOT_FOUND, &format!("Container {} cannot be found", key(id)))
}

/// As `waitpid` gives it.
fn wait_status(status: ExitStatus) -> Option<i32> {
    match status {
        ExitStatus::Code(code) => Some((code & 0xff) << 8),
        ExitStatus::Signal(signal) => Some(signal & 0x7f),
        ExitStatus::Unknown => None,
    }
}

fn termination(end: End) -> response::WaitContainer {
    let mut told = response::WaitContainer { exit_status: wait_status(end.status), ..Default::default() };
    if end.status == ExitStatus::Unknown {
        told.set_state(TaskState::TaskFailed);
        told.set_reason(Reason::CommandExecutorFailed);
        told.message = end.failure;
    }
    told
}

fn termination_of(exit: &Exit) -> response::WaitContainer {
    let mut told = response::WaitContainer { exit_status: wait_status(exit.status), ..Default::default() };
    match exit.reason {
        ExitReason::Ended => {}
        ExitReason::Killed { .. } => told.set_state(TaskState::TaskKilled),
        ExitReason::OutOfMemory => {
            told.set_state(TaskState::TaskFailed);
            told.set_reason(Reason::ContainerLimitationMemory);
            told.message = Some("Memory limit exceeded".to_owned());
        }
        ExitReason::InitDied | ExitReason::Lost => {
            told.set_state(TaskState::TaskFailed);
            told.set_reason(Reason::ExecutorTerminated);
        }
        #[allow(unreachable_patterns)]
        _ => told.set_state(TaskState::TaskFailed),
    }
    told
}

/// `KILL_NESTED_CONTAINER` and `KILL_CONTAINER`. A container of a task hears the signal too, and its task ends as if it had ended itself.
async fn end(http: &Http, id: &ContainerId, signal: Option<i32>, old: bool) -> Result<Response, Response> {
    check_id(id, old)?;
    let signal = signal.unwrap_or(SIGKILL);
    if !(1..=64).contains(&signal) {
        return Err(bad("'signal' is none that this machine has (1 to 64)"));
    }
    let gone = || {
        let words = format!("Container '{}' cannot be found (or is already killed)", key(id));
        text(StatusCode::NOT_FOUND, &words)
    };
    if let Some(nested) = http.sessions.find(id) {
        return if nested.kill(signal) { Ok(StatusCode::OK.into_response()) } else { Err(gone()) };
    }
    let (view, _) = http.view().await?;
    let Found::Container(host) = find(&view, id) else { return Err(gone()) };
    let sent = match signal {
        SIGKILL => http.runtime.kill(&host.container, SIGKILL, std::time::Duration::ZERO).await,
        _ => http.runtime.signal(&host.container, signal).await,
    };
    match sent {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        Err(RuntimeError::NotFound(_) | RuntimeError::Ended(_)) => Err(gone()),
        Err(error) => Err(text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    }
}

/// `REMOVE_NESTED_CONTAINER` and `REMOVE_CONTAINER`: forgets how it ended. What it wrote stays in the sandbox.
async fn remove(http: &Http, id: &ContainerId) -> Result<Response, Response> {
    check_id(id, true)?;
    if http.sessions.remove(id) {
        return Ok(StatusCode::OK.into_response());
    }
    Err(text(StatusCode::INTERNAL_SERVER_ERROR, "Nested container has not terminated yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_wait_statuses() {
        for (status, want) in [
            (ExitStatus::Code(0), Some(0)),
            (ExitStatus::Code(3), Some(768)),
            (ExitStatus::Signal(9), Some(9)),
            (ExitStatus::Unknown, None),
        ] {
            assert_eq!(wait_status(status), want);
        }
        assert_eq!(
            termination(End { status: ExitStatus::Unknown, failure: None }).state(),
            TaskState::TaskFailed
        );
    }

    #[test]
    fn ids_are_checked() {
        let id = |value: &str| ContainerId { value: value.to_owned(), parent: None };
        for bad in ["", "a.b", "a b", "../x", "a/b", "ä", &"x".repeat(256)] {
            assert!(check_id(&id(bad), false).is_err(), "{bad}");
        }
        assert!(check_id(&id("a"), true).is_err(), "no parent");
        let mut deep = id("a");
        for _ in 0..DEPTH {
            deep = ContainerId { value: "a".to_owned(), parent: Some(Box::new(deep)) };
        }
        assert!(check_id(&deep, false).is_err());
        let child = ContainerId { value: "9b-_a".to_owned(), parent: Some(Box::new(id("p"))) };
        assert!(check_id(&child, true).is_ok());
    }

    #[test]
    fn what_a_nested_container_cannot_have_is_refused() {
        let command =
            || Some(CommandInfo { value: Some("true".to_owned()), shell: Some(true), ..Default::default() });
        let mesos = |change: fn(&mut ContainerInfo)| {
            let mut info = ContainerInfo::default();
            info.set_type(plenum_api::mesos::container_info::Type::Mesos);
            change(&mut info);
            Some(info)
        };
        assert!(to_open(command(), None).unwrap().terminal.is_none());
        let tty = mesos(|info| info.tty_info = Some(Default::default()));
        assert_eq!(to_open(command(), tty).unwrap().terminal, Some(Size { rows: 0, columns: 0 }));
        assert!(to_open(None, None).is_err());
        assert!(to_open(Some(CommandInfo::default()), None).is_err());
        assert!(to_open(command(), mesos(|info| info.volumes = vec![Default::default()])).is_err());
        assert!(to_open(command(), mesos(|info| info.network_infos = vec![Default::default()])).is_err());
        assert!(to_open(command(), Some(ContainerInfo::default())).is_err());
    }
}

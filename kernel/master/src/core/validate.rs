//! Whether what others send makes sense by itself: calls, descriptions, ids. Pure functions of the message.
//!
//! What must agree with the state (duplicate ids, offers, resources at hand) is checked where it is used.

use std::collections::BTreeSet;

use plenum_api::internal::Register;
use plenum_api::mesos::{self, CommandInfo, ExecutorInfo, TaskInfo};
use plenum_api::resources::{Resources, role};
use plenum_api::scheduler::{self, Call};

use super::event::Caller;

type Checked = Result<(), String>;

/// Longest id taken, in bytes: they become names of folders.
const MAX_ID: usize = 255;

/// Checks a scheduler call, and that the caller does not claim another's name.
pub(super) fn call(call: &Call, caller: &Caller) -> Checked {
    use scheduler::call::Type;
    let kind =
        call.r#type.and_then(|kind| Type::try_from(kind).ok()).ok_or("Expecting 'type' to be present")?;
    if kind == Type::Subscribe {
        let subscribe = call.subscribe.as_ref().ok_or("Expecting 'subscribe' to be present")?;
        let info = &subscribe.framework_info;
        let (outer, inner) = (id_text(call.framework_id.as_ref()), id_text(info.id.as_ref()));
        if outer != inner {
            return Err("'framework_id' differs from 'subscribe.framework_info.id'".into());
        }
        if let Some(principal) = &info.principal
            && caller.authenticated
            && **principal != *caller.uid
        {
            return Err(format!(
                "Authenticated principal '{}' does not match principal '{principal}' set in `FrameworkInfo`",
                caller.uid
            ));
        }
        return Ok(());
    }
    if id_text(call.framework_id.as_ref()).is_empty() {
        return Err("Expecting 'framework_id' to be present".into());
    }
    let present = match kind {
        Type::Accept => call.accept.is_some(),
        Type::Decline => call.decline.is_some(),
        Type::AcceptInverseOffers => call.accept_inverse_offers.is_some(),
        Type::DeclineInverseOffers => call.decline_inverse_offers.is_some(),
        Type::Kill => call.kill.is_some(),
        Type::Shutdown => call.shutdown.is_some(),
        Type::Acknowledge => call.acknowledge.is_some(),
        Type::AcknowledgeOperationStatus => call.acknowledge_operation_status.is_some(),
        Type::Reconcile => call.reconcile.is_some(),
        Type::ReconcileOperations => call.reconcile_operations.is_some(),
        Type::Message => call.message.is_some(),
        Type::Request => call.request.is_some(),
        Type::UpdateFramework => call.update_framework.is_some(),
        Type::Subscribe | Type::Teardown | Type::Revive | Type::Suppress | Type::Unknown => true,
    };
    if !present {
        return Err(format!("Expecting '{}' to be present", kind.as_str_name().to_ascii_lowercase()));
    }
    let uuid = match kind {
        Type::Acknowledge => call.acknowledge.as_ref().map(|a| a.uuid.len()),
        Type::AcknowledgeOperationStatus => call.acknowledge_operation_status.as_ref().map(|a| a.uuid.len()),
        _ => None,
    };
    if uuid.is_some_and(|length| length != 16) {
        return Err("Not a valid UUID: 'uuid' must be 16 bytes".into());
    }
    Ok(())
}

fn id_text(id: Option<&mesos::FrameworkId>) -> &str {
    id.map(|id| id.value.as_str()).unwrap_or_default()
}

/// Checks an id: it may become a component of a path.
pub(super) fn id(what: &str, id: &str) -> Checked {
    let wrong = |reason: &str| Err(format!("{what} '{}' {reason}", id.escape_debug()));
    match id {
        "" => Err(format!("{what} must not be empty")),
        "." | ".." => wrong("must not be '.' or '..'"),
        _ if id.len() > MAX_ID => Err(format!("{what} must not be longer than {MAX_ID} bytes")),
        _ if id.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')) => {
            wrong("contains invalid characters")
        }
        _ => Ok(()),
    }
}

/// Checks a framework's description of itself.
pub(super) fn framework_info(info: &mesos::FrameworkInfo) -> Checked {
    let multi_role = super::state::Abilities::of(info).multi_role;
    if multi_role && info.role.is_some() {
        return Err("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable".into());
    }
    if !multi_role && !info.roles.is_empty() {
        return Err(
            "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable".into()
        );
    }
    let mut seen = BTreeSet::new();
    for role in super::frameworks::roles(info) {
        role::validate(&role).map_err(|e| format!("'FrameworkInfo.roles' contains invalid role: {e}"))?;
        if !seen.insert(role.clone()) {
            return Err(format!("'FrameworkInfo.roles' contains duplicate items: {role}"));
        }
    }
    if let Some(given) = info.id.as_ref().filter(|id| !id.value.is_empty()) {
        id("FrameworkID", &given.value)?;
    }
    let timeout = info.failover_timeout.unwrap_or(0.0);
    if !timeout.is_finite() || !(0.0..=9_223_372_036.0).contains(&timeout) {
        return Err(format!("The framework failover_timeout ({timeout}) is invalid"));
    }
    for (role, filters) in &info.offer_filters {
        let quantities =
            filters.min_allocatable_resources.iter().flat_map(|m| &m.quantities).flat_map(|q| &q.quantities);
        for (name, scalar) in quantities {
            if !scalar.value.is_finite() || scalar.value < 0.0 {
                return Err(format!("the offer filter of role '{role}' has an invalid amount of '{name}'"));
            }
        }
    }
    Ok(())
}

/// Checks that suppressed roles and constraints are about roles the framework has.
pub(super) fn roles_subset(
    info: &mesos::FrameworkInfo,
    suppressed: &[String],
    constraints: Option<&scheduler::OfferConstraints>,
) -> Checked {
    let roles: BTreeSet<String> = super::frameworks::roles(info).into_iter().collect();
    if let Some(role) = suppressed.iter().find(|role| !roles.contains(*role)) {
        return Err(format!("Suppressed roles {{ {role} }} are not contained in the set of roles"));
    }
    let constrained = constraints.iter().flat_map(|c| c.role_constraints.keys());
    match constrained.into_iter().find(|role| !roles.contains(*role)) {
        Some(role) => Err(format!(
            "Offer constraints specify `role_constraints` for a role '{role}' not contained in the set of roles"
        )),
        None => Ok(()),
    }
}

/// Checks what an agent says of itself.
pub(super) fn register(register: &Register) -> Checked {
    let info = &register.agent_info;
    if info.hostname.is_empty() {
        return Err("'agent_info.hostname' must not be empty".into());
    }
    Resources::from_mesos(&info.resources).map_err(|e| format!("'agent_info.resources': {e}"))?;
    Resources::from_mesos(&register.checkpointed_resources)
        .map_err(|e| format!("'checkpointed_resources': {e}"))?;
    if let Some(given) = &register.agent_id {
        id("AgentID", &given.value)?;
    }
    for task in &register.tasks {
        Resources::from_mesos(&task.resources)
            .map_err(|e| format!("the resources of task '{}': {e}", task.task_id.value))?;
    }
    for executor in &register.executors {
        let name = &executor.executor_info.executor_id.value;
        Resources::from_mesos(&executor.resources)
            .map_err(|e| format!("the resources of executor '{name}': {e}"))?;
        Resources::from_mesos(&executor.executor_info.resources)
            .map_err(|e| format!("the resources of executor '{name}': {e}"))?;
    }
    Ok(())
}

/// Checks a task by itself.
pub(super) fn task_info(task: &TaskInfo) -> Checked {
    if task.resources.is_empty() {
        return Err("Task uses no resources".into());
    }
    let grace = task.kill_policy.as_ref().and_then(|policy| policy.grace_period.as_ref());
    if grace.is_some_and(|grace| grace.nanoseconds < 0) {
        return Err("Task's 'kill_policy.grace_period' must be non-negative".into());
    }
    if task.max_completion_time.as_ref().is_some_and(|time| time.nanoseconds < 0) {
        return Err("Task's `max_completion_time` must be non-negative".into());
    }
    if let Some(check) = &task.health_check {
        times(
            "health check",
            [check.delay_seconds, check.interval_seconds, check.timeout_seconds, check.grace_period_seconds],
        )?;
        health_check(check)?;
    }
    if let Some(check) = &task.check {
        times("check", [check.delay_seconds, check.interval_seconds, check.timeout_seconds, None])?;
    }
    if let Some(command) = &task.command {
        self::command(command).map_err(|e| format!("Task's `CommandInfo` is invalid: {e}"))?;
    }
    Ok(())
}

fn times(what: &str, times: [Option<f64>; 4]) -> Checked {
    if times.into_iter().flatten().any(|seconds| !seconds.is_finite() || seconds < 0.0) {
        return Err(format!("Task uses invalid {what}: its times must not be negative"));
    }
    Ok(())
}

fn health_check(check: &mesos::HealthCheck) -> Checked {
    use mesos::health_check::Type;
    let complete = match check.r#type.and_then(|kind| Type::try_from(kind).ok()) {
        Some(Type::Command) => check.command.is_some(),
        Some(Type::Http) => check.http.is_some(),
        Some(Type::Tcp) => check.tcp.is_some(),
        Some(Type::Unknown) | None => {
            return Err("Task uses invalid health check: HealthCheck must specify 'type'".into());
        }
    };
    if complete {
        Ok(())
    } else {
        Err("Task uses invalid health check: the field named by 'type' must be set".into())
    }
}

/// Checks a command by itself.
fn command(command: &CommandInfo) -> Checked {
    for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            return Err(format!(
                "the name of environment variable '{}' is invalid",
                variable.name.escape_debug()
            ));
        }
        if variable.value.is_none() && variable.secret.is_none() {
            return Err(format!("Environment variable '{}' must have a value set", variable.name));
        }
    }
    Ok(())
}

/// Checks the limits of a task against what it asks for.
pub(super) fn task_limits(task: &TaskInfo, takes: &Resources) -> Checked {
    for (name, limit) in &task.limits {
        let asked = match name.as_str() {
            "cpus" => takes.cpus(),
            "mem" => takes.mem(),
            _ => return Err("Only cpus and mem may be included in a task's resource limits".into()),
        };
        if asked.as_f64() <= 0.0 {
            return Err(format!("When a limit of {name} is specified, a request must also be specified"));
        }
        if limit.value.is_nan() || limit.value < asked.as_f64() {
            return Err(format!("The limit of {name} must be greater than or equal to the request"));
        }
    }
    Ok(())
}

/// Checks an executor of the given kind by itself.
pub(super) fn executor_info(executor: &ExecutorInfo, kind: mesos::executor_info::Type) -> Checked {
    use mesos::executor_info::Type;
    id("ExecutorID", &executor.executor_id.value)?;
    if executor.r#type.is_some_and(|given| given != kind as i32) {
        return Err(format!("'ExecutorInfo.type' must be '{}'", kind.as_str_name()));
    }
    match (kind, &executor.command) {
        (Type::Custom, None) => return Err("'ExecutorInfo.command' must be set".into()),
        (Type::Default, Some(_)) => {
            return Err("'ExecutorInfo.command' must not be set for 'DEFAULT' executor".into());
        }
        (_, Some(command)) => {
            self::command(command).map_err(|e| format!("Executor's `CommandInfo` is invalid: {e}"))?
        }
        (_, None) => {}
    }
    if executor.shutdown_grace_period.as_ref().is_some_and(|grace| grace.nanoseconds < 0) {
        return Err("ExecutorInfo's 'shutdown_grace_period' must be non-negative".into());
    }
    if executor.resources.iter().any(|resource| resource.shared.is_some()) {
        return Err("Executor resources should not contain any shared resources".into());
    }
    Ok(())
}

//! LAUNCH and LAUNCH_GROUP: tasks are checked, charged to what was offered, recorded, and sent to their agent.

use std::sync::Arc;

use bytes::Bytes;
use plenum_api::internal::{self, master_message::Kind};
use plenum_api::mesos::offer::operation::LaunchGroup;
use plenum_api::mesos::{self, ExecutorInfo, TaskInfo, TaskState, task_status::Reason};
use plenum_api::resources::Resources;

use super::accept::Basket;
use super::state::{Executor, Task};
use super::status::plain_status;
use super::{Master, Turn, validate};

/// A task that may be launched, and what it takes.
struct Checked {
    task: TaskInfo,
    /// What the task itself takes.
    takes: Resources,
    /// What its executor takes, when it is new on the agent.
    executor: Option<Resources>,
}

impl Master {
    /// LAUNCH: each task stands alone; a bad one is answered with TASK_ERROR and the others go on.
    pub(super) fn launch(&mut self, t: &mut Turn<'_>, basket: &mut Basket, tasks: Vec<TaskInfo>) {
        // Neighbours with the same executor (or none) are one message.
        let mut run: Option<internal::RunTasks> = None;
        for task in tasks {
            let id = task.task_id.clone();
            self.share(basket, &task.resources);
            match self.check_task(basket, task) {
                Ok(checked) => {
                    let task = self.record_task(t, basket, checked);
                    if run.as_ref().is_some_and(|run| run.executor != task.executor) {
                        self.send_run(t, basket, run.take());
                    }
                    match &mut run {
                        Some(run) => run.tasks.push(task),
                        None => run = self.run_tasks(t, basket, task),
                    }
                }
                Err(reason) => self.refuse_task(t, basket, &id, Reason::TaskInvalid, &reason),
            }
        }
        self.send_run(t, basket, run);
    }

    /// LAUNCH_GROUP: all tasks on one executor, or none.
    pub(super) fn launch_group(&mut self, t: &mut Turn<'_>, basket: &mut Basket, group: LaunchGroup) {
        let mut executor = group.executor;
        let tasks = group.task_group.tasks;
        for task in &tasks {
            self.share(basket, &task.resources);
        }
        match self.check_group(basket, &mut executor, tasks.clone()) {
            Ok((checked, takes)) => {
                self.record_executor(basket, &executor, takes);
                let mut sent = Vec::with_capacity(checked.len());
                for mut one in checked {
                    one.task.executor = Some(executor.clone());
                    let mut task = self.record_task(t, basket, one);
                    task.executor = None;
                    sent.push(task);
                }
                let Some(info) = self.frameworks.get(&basket.framework).map(|f| (*f.info).clone()) else {
                    return;
                };
                let run = internal::RunTasks {
                    framework_info: info,
                    executor: Some(executor),
                    tasks: sent,
                    is_group: Some(true),
                    launch_id: Bytes::copy_from_slice(&t.ids.uuid()),
                };
                self.tell(t, basket.agent, Kind::RunTasks(run));
            }
            Err(reason) => {
                for task in tasks {
                    self.refuse_task(t, basket, &task.task_id, Reason::TaskGroupInvalid, &reason);
                }
            }
        }
    }

    /// Tasks of one call may share a volume: there is a copy for each that names it. What is not used goes back with the rest.
    fn share(&mut self, basket: &mut Basket, named: &[mesos::Resource]) {
        for resource in named.iter().filter(|resource| resource.shared.is_some()) {
            let Ok(wanted) = Resources::from_mesos([resource]) else { continue };
            let wanted = wanted.allocate(&basket.role);
            if basket.shared.contains(&wanted) {
                self.ledger.hold(&basket.framework_id, &basket.agent_id, &wanted);
                basket.left += &wanted;
            }
        }
    }

    /// Checks a task against everything it must agree with.
    fn check_task(&self, basket: &Basket, mut task: TaskInfo) -> Result<Checked, String> {
        self.check_identity(basket, &task)?;
        validate::task_info(&task)?;
        if task.executor.is_some() == task.command.is_some() {
            return Err(
                "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present".into(),
            );
        }
        let takes = allocate(&mut task.resources, &basket.role)?;
        validate::task_limits(&task, &takes)?;
        let mut executor_takes = None;
        if let Some(mut executor) = task.executor.take() {
            executor_takes =
                self.check_executor(basket, &mut executor, mesos::executor_info::Type::Custom)?;
            task.executor = Some(executor);
        }
        let mut total = takes.clone();
        if let Some(more) = &executor_takes {
            total += more;
        }
        if !basket.left.contains(&total) {
            return Err(format!(
                "Total resources {total} required by task and its executor is more than available {}",
                basket.left
            ));
        }
        Ok(Checked { task, takes, executor: executor_takes })
    }

    fn check_identity(&self, basket: &Basket, task: &TaskInfo) -> Result<(), String> {
        validate::id("TaskID", &task.task_id.value)?;
        let framework = self.frameworks.get(&basket.framework).ok_or("Framework has been removed")?;
        if framework.tasks.contains_key(task.task_id.value.as_str()) {
            return Err(format!("Task has duplicate ID: {}", task.task_id.value));
        }
        if framework.unreachable.contains_key(task.task_id.value.as_str()) {
            return Err(format!("Task reuses the ID of an unreachable task: {}", task.task_id.value));
        }
        if *task.agent_id.value != *basket.agent_id {
            return Err(format!(
                "Task uses invalid agent {} while agent {} is expected",
                task.agent_id.value, basket.agent_id
            ));
        }
        Ok(())
    }

    /// Checks an executor; says what it takes if it is not on the agent yet.
    fn check_executor(
        &self,
        basket: &Basket,
        executor: &mut ExecutorInfo,
        kind: mesos::executor_info::Type,
    ) -> Result<Option<Resources>, String> {
        validate::executor_info(executor, kind)?;
        match &executor.framework_id {
            Some(id) if *id.value != *basket.framework_id => {
                return Err(format!(
                    "ExecutorInfo has an invalid FrameworkID (Actual: {} vs Expected: {})",
                    id.value, basket.framework_id
                ));
            }
            Some(_) => {}
            None => {
                executor.framework_id = Some(mesos::FrameworkId { value: basket.framework_id.to_string() })
            }
        }
        executor.r#type = Some(kind as i32);
        let takes = allocate(&mut executor.resources, &basket.role)?;
        let known = self.agents.get(basket.agent).and_then(|agent| {
            agent.executors.get(&(basket.framework, executor.executor_id.value.as_str().into()))
        });
        match known {
            Some(known) if *known.info != *executor => Err(format!(
                "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID '{}'",
                executor.executor_id.value
            )),
            Some(_) => Ok(None),
            None => Ok(Some(takes)),
        }
    }

    fn check_group(
        &self,
        basket: &Basket,
        executor: &mut ExecutorInfo,
        tasks: Vec<TaskInfo>,
    ) -> Result<(Vec<Checked>, Option<Resources>), String> {
        if tasks.is_empty() {
            return Err("Task group cannot be empty".into());
        }
        let takes = self.check_executor(basket, executor, mesos::executor_info::Type::Default)?;
        let mut total = takes.clone().unwrap_or_default();
        let mut seen = std::collections::BTreeSet::new();
        let mut checked = Vec::with_capacity(tasks.len());
        for mut task in tasks {
            let id = task.task_id.value.clone();
            let wrong = |reason: String| format!("Task '{id}' is invalid: {reason}");
            self.check_identity(basket, &task).map_err(wrong)?;
            validate::task_info(&task).map_err(wrong)?;
            if !seen.insert(task.task_id.value.clone()) {
                return Err(wrong("its ID appears twice in the group".into()));
            }
            if task.executor.as_ref().is_some_and(|own| own.executor_id != executor.executor_id) {
                return Err(wrong("its ExecutorInfo differs from the group's".into()));
            }
            let takes = allocate(&mut task.resources, &basket.role).map_err(wrong)?;
            total += &takes;
            checked.push(Checked { task, takes, executor: None });
        }
        if !basket.left.contains(&total) {
            return Err(format!(
                "Total resources {total} required by the task group and its executor are more than available {}",
                basket.left
            ));
        }
        Ok((checked, takes))
    }

    /// Charges a task (and its executor, if that is new) to the basket and writes it down.
    fn record_task(&mut self, t: &mut Turn<'_>, basket: &mut Basket, checked: Checked) -> TaskInfo {
        let Checked { task, takes, executor } = checked;
        basket.left -= &takes;
        if let Some(info) = &task.executor
            && executor.is_some()
        {
            self.record_executor(basket, info, executor);
        }
        let mut record = Task::new(&describe(&task, basket), basket.framework, basket.agent);
        record.framework_id = Arc::clone(&basket.framework_id);
        record.agent_id = Arc::clone(&basket.agent_id);
        record.held = true;
        let id = Arc::clone(&record.id);
        let key = self.tasks.insert(record);
        if let Some(agent) = self.agents.get_mut(basket.agent) {
            agent.tasks.insert(key);
        }
        if let Some(framework) = self.frameworks.get_mut(&basket.framework) {
            framework.tasks.insert(id, key);
        }
        self.metrics.count("master/tasks_launched");
        self.touch();
        self.publish_task_added(t, key);
        task
    }

    fn record_executor(&mut self, basket: &mut Basket, info: &ExecutorInfo, takes: Option<Resources>) {
        let Some(takes) = takes else { return };
        basket.left -= &takes;
        let record = Executor {
            framework_id: Arc::clone(&basket.framework_id),
            info: Arc::new(info.clone()),
            resources: Arc::new(takes),
        };
        if let Some(agent) = self.agents.get_mut(basket.agent) {
            agent.executors.insert((basket.framework, info.executor_id.value.as_str().into()), record);
        }
        self.touch_framework(basket.framework);
    }

    fn run_tasks(&self, t: &mut Turn<'_>, basket: &Basket, task: TaskInfo) -> Option<internal::RunTasks> {
        let framework = self.frameworks.get(&basket.framework)?;
        Some(internal::RunTasks {
            framework_info: (*framework.info).clone(),
            executor: task.executor.clone(),
            tasks: vec![task],
            is_group: None,
            launch_id: Bytes::copy_from_slice(&t.ids.uuid()),
        })
    }

    fn send_run(&self, t: &mut Turn<'_>, basket: &Basket, run: Option<internal::RunTasks>) {
        if let Some(run) = run {
            self.tell(t, basket.agent, Kind::RunTasks(run));
        }
    }

    fn refuse_task(
        &mut self,
        t: &mut Turn<'_>,
        basket: &Basket,
        id: &mesos::TaskId,
        reason: Reason,
        message: &str,
    ) {
        let mut status = plain_status(t.now, &id.value, TaskState::TaskError, reason, message);
        status.agent_id = Some(mesos::AgentId { value: basket.agent_id.to_string() });
        self.count_end(TaskState::TaskError);
        self.send_update(t, basket.framework, status);
    }
}

/// Marks resources as allocated to the role of the offers, and reads them.
fn allocate(resources: &mut [mesos::Resource], role: &str) -> Result<Resources, String> {
    for resource in resources.iter_mut() {
        let given =
            resource.allocation_info.get_or_insert_default().role.get_or_insert_with(|| role.to_owned());
        if given != role {
            return Err(format!("the resources are allocated to role '{given}', the offers to '{role}'"));
        }
    }
    Resources::from_mesos(resources.iter()).map_err(|e| format!("Task uses invalid resources: {e}"))
}

/// The description of a task that Mesos' `Task` keeps.
fn describe(task: &TaskInfo, basket: &Basket) -> mesos::Task {
    let user = task.command.as_ref().and_then(|command| command.user.clone()).or_else(|| {
        task.executor.as_ref().and_then(|e| e.command.as_ref()).and_then(|command| command.user.clone())
    });
    mesos::Task {
        name: task.name.clone(),
        task_id: task.task_id.clone(),
        framework_id: mesos::FrameworkId { value: basket.framework_id.to_string() },
        executor_id: task.executor.as_ref().map(|executor| executor.executor_id.clone()),
        agent_id: task.agent_id.clone(),
        state: TaskState::TaskStaging as i32,
        resources: task.resources.clone(),
        labels: task.labels.clone(),
        discovery: task.discovery.clone(),
        container: task.container.clone(),
        health_check: task.health_check.clone(),
        kill_policy: task.kill_policy,
        user,
        limits: task.limits.clone(),
        ..Default::default()
    }
}

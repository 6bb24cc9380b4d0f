//! Launching: what is refused, what is written down first, what the container is told.

use bytes::Bytes;
use plenum_api::Millis;
use plenum_api::internal::RunTasks;
use plenum_api::mesos::task_status::{Reason, Source};
use plenum_api::mesos::{CommandInfo, ExecutorInfo, FrameworkInfo, TaskInfo, TaskState};

use super::checks::Checker;
use super::event::{Effect, ExecutorKey, Launch, Level, Pod, TaskKey};
use super::gpus;
use super::model::{Executor, ExecutorPhase, Framework, Phase, Task};
use super::pods::{container_info, is_pod, task_sandbox};
use super::status::{News, lost_or};
use super::{Agent, Cx, Owner, wire};

/// What the tasks of one order have in common.
struct Order<'a> {
    launch_id: &'a Bytes,
    framework: &'a FrameworkInfo,
    group: bool,
    /// GPUs of all of them.
    gpus: usize,
}

impl Agent {
    pub(super) fn run_tasks(&mut self, run: RunTasks, cx: &mut Cx<'_>) {
        let framework = wire::framework_id(&run.framework_info).to_owned();
        if let Err(words) = wire::check_id("framework", &framework) {
            cx.report(Level::Warn, format!("A launch was ignored: {words}"));
            return;
        }
        let group = run.is_group.unwrap_or(false);
        let mut fresh = Vec::new();
        let mut gpus = 0;
        for info in run.tasks {
            let key = TaskKey { framework: framework.clone(), task: info.task_id.value.clone() };
            if self.seen(&key, &run.launch_id, &run.framework_info, &info, cx) {
                continue;
            }
            let executor = info.executor.clone().or_else(|| run.executor.clone());
            let news = self.refusal(&key, &run.framework_info, &info, executor.as_ref(), group);
            let news = news.or_else(|| self.lacks_gpus(&key, &info, executor.as_ref(), gpus));
            if news.is_none() {
                gpus += gpus::count(&info.resources);
            }
            fresh.push((key, info, executor, news));
        }
        // A group is launched whole or not at all.
        let first = fresh.iter().find_map(|(key, .., news)| Some((key.task.clone(), news.clone()?)));
        let all = first.filter(|_| group).map(|(task, news)| {
            let words = format!(
                "Task {task} of the same group is refused: {}",
                news.message.clone().unwrap_or_default()
            );
            News { message: Some(words), ..news }
        });
        for (key, info, executor, news) in fresh {
            match news.or_else(|| all.clone()) {
                Some(news) => self.refuse(&key, info, run.launch_id.clone(), news, &run.framework_info, cx),
                None => {
                    let (launch_id, framework) = (&run.launch_id, &run.framework_info);
                    let order = Order { launch_id, framework, group, gpus };
                    self.accept(key, info, executor, &order, cx);
                }
            }
        }
    }

    /// An id that was used is never launched again. A repeated order is silent, another order with the id is answered.
    fn seen(
        &mut self,
        key: &TaskKey,
        launch_id: &Bytes,
        framework: &FrameworkInfo,
        info: &TaskInfo,
        cx: &mut Cx<'_>,
    ) -> bool {
        #[cfg(feature = "deliberate-bugs")]
        if self.settings.deliberate_second_launch {
            self.tasks.remove(key);
            return false;
        }
        let before = self.tasks.get(key).map(|task| (&task.launch_id, false));
        let before = before.or_else(|| self.tombstones.get(key).map(|stone| (&stone.launch_id, true)));
        let Some((before, ended)) = before else { return false };
        let text = format!("Task {} of framework {} was already launched here", key.task, key.framework);
        if before == launch_id || !ended {
            cx.report(Level::Info, format!("{text}; the repeated order is ignored"));
            return true;
        }
        cx.report(Level::Warn, format!("{text} by another order; this one is refused"));
        let news = News::agent(
            TaskState::TaskError,
            Reason::TaskInvalid,
            format!("{text}; a task id is launched at most once, use a new one"),
        );
        self.refuse(key, info.clone(), launch_id.clone(), news, framework, cx);
        true
    }

    /// Why a task cannot be taken, if it cannot.
    fn refusal(
        &self,
        key: &TaskKey,
        framework: &FrameworkInfo,
        info: &TaskInfo,
        executor: Option<&ExecutorInfo>,
        group: bool,
    ) -> Option<News> {
        let invalid = |words: String| Some(News::agent(TaskState::TaskError, Reason::TaskInvalid, words));
        let dropped = |reason, words: &str| {
            Some(News::agent(lost_or(Some(framework), TaskState::TaskDropped), reason, words))
        };
        if let Err(words) = wire::check_id("task", &key.task) {
            return invalid(words);
        }
        let pod = executor.is_some_and(is_pod);
        if group && !pod {
            let words = "A task group needs an executor of the type DEFAULT";
            return Some(News::agent(TaskState::TaskError, Reason::TaskGroupInvalid, words));
        }
        if info.agent_id.value != self.agent_id {
            return invalid(format!(
                "The task is for agent {}, this is {}",
                info.agent_id.value, self.agent_id
            ));
        }
        if self.stopping {
            return dropped(Reason::AgentRemoved, "The agent is shutting down");
        }
        if self.draining.is_some() {
            return dropped(Reason::AgentDraining, "The agent is draining");
        }
        if self.frameworks.get(&key.framework).is_some_and(|framework| framework.terminating) {
            return dropped(Reason::FrameworkRemoved, "The framework is being removed from this agent");
        }
        match (executor, &info.command) {
            (None, None) => return invalid("The task has neither a command nor an executor".to_owned()),
            (Some(_), Some(_)) if info.executor.is_some() && !pod => {
                return invalid("The task has both a command and an executor".to_owned());
            }
            (Some(executor), _) => {
                if let Err(words) = wire::check_id("executor", &executor.executor_id.value) {
                    return invalid(words);
                }
                if let Some(words) = unfit(executor, info) {
                    return invalid(words);
                }
                let id = ExecutorKey {
                    framework: key.framework.clone(),
                    executor: executor.executor_id.value.clone(),
                };
                let known = self.executors.get(&id);
                if known.is_some_and(|known| known.is_pod() != pod) {
                    return invalid("An executor of that id and of another type is here".to_owned());
                }
                if known.is_some_and(|known| known.phase == ExecutorPhase::Terminating) {
                    return dropped(Reason::ExecutorTerminated, "The executor is shutting down");
                }
            }
            (None, Some(_)) => {}
        }
        if let Some(words) = self.missing_volume(info, executor) {
            return invalid(words);
        }
        let checks = info.health_check.as_ref().map(|check| Checker::health(check, Default::default()));
        let generic = info.check.as_ref().map(|check| Checker::generic(check, Default::default()));
        for words in checks.into_iter().chain(generic).filter_map(Result::err) {
            if executor.is_none() || pod {
                return invalid(words);
            }
        }
        None
    }

    /// Answers a launch that does not happen. The answer lives in memory only: nothing was written down about the task.
    fn refuse(
        &mut self,
        key: &TaskKey,
        info: TaskInfo,
        launch_id: Bytes,
        news: News,
        framework: &FrameworkInfo,
        cx: &mut Cx<'_>,
    ) {
        let words = news.message.clone().unwrap_or_default();
        cx.report(
            Level::Warn,
            format!("Task {} of framework {} is refused: {words}", key.task, key.framework),
        );
        let mut task = Task::new(&key.framework, info, launch_id);
        task.volatile = true;
        self.tombstones.remove(key);
        self.tasks.insert(key.clone(), Box::new(task));
        self.frameworks.entry(key.framework.clone()).or_insert_with(|| Framework {
            info: framework.clone(),
            terminating: false,
            durable: false,
        });
        self.say(key, news, cx);
    }

    /// An update about a task this agent knows nothing of.
    pub(super) fn say_of_unknown(&mut self, key: &TaskKey, news: News, cx: &mut Cx<'_>) {
        if wire::check_id("task", &key.task).is_err() || wire::check_id("framework", &key.framework).is_err()
        {
            return;
        }
        let info = TaskInfo {
            task_id: key.task.as_str().into(),
            agent_id: self.agent_id.as_str().into(),
            ..Default::default()
        };
        let mut task = Task::new(&key.framework, info, Bytes::new());
        task.volatile = true;
        self.tasks.insert(key.clone(), Box::new(task));
        self.say(key, news, cx);
    }

    /// Writes the intent down; the launch follows when it is on the disk.
    fn accept(
        &mut self,
        key: TaskKey,
        info: TaskInfo,
        executor: Option<ExecutorInfo>,
        order: &Order<'_>,
        cx: &mut Cx<'_>,
    ) {
        self.remember_framework(&key.framework, order.framework, cx);
        let mut task = Task::new(&key.framework, info, order.launch_id.clone());
        match executor {
            None => {
                task.gpus = self.take_gpus(gpus::count(&task.info.resources));
                task.container = cx.uuid_text();
                task.directory = self.sandbox(&key.framework, &key.task, &task.container);
                self.containers.insert(task.container.clone(), Owner::Task(key.clone()));
            }
            Some(executor) => {
                let id = ExecutorKey {
                    framework: key.framework.clone(),
                    executor: executor.executor_id.value.clone(),
                };
                task.executor = Some(id.executor.clone());
                task.pod = is_pod(&executor);
                task.group = order.group;
                if !self.executors.contains_key(&id) {
                    let gpus = if task.pod { 0 } else { order.gpus + gpus::count(&executor.resources) };
                    self.add_executor(&id, executor, gpus, cx);
                }
                if let Some(executor) = self.executors.get(&id) {
                    task.directory = executor.directory.clone();
                }
                if task.pod {
                    task.gpus = self.take_gpus(gpus::count(&task.info.resources));
                    task.directory = task_sandbox(&task.directory, &key.task);
                    task.container = cx.uuid_text();
                    self.containers.insert(task.container.clone(), Owner::Task(key.clone()));
                }
            }
        }
        task.revision = 1;
        self.tasks.insert(key.clone(), Box::new(task));
        cx.save.insert(key);
    }

    fn remember_framework(&mut self, id: &str, info: &FrameworkInfo, cx: &mut Cx<'_>) {
        let known = self.frameworks.get(id);
        if known.is_none_or(|known| known.info != *info || !known.durable) {
            let durable = known.is_some_and(|known| known.durable);
            let framework = Framework { info: info.clone(), terminating: false, durable };
            self.frameworks.insert(id.to_owned(), framework);
            cx.save_frameworks.insert(id.to_owned());
        }
    }

    fn add_executor(&mut self, key: &ExecutorKey, info: ExecutorInfo, gpus: usize, cx: &mut Cx<'_>) {
        let container = cx.uuid_text();
        let directory = self.sandbox(&key.framework, &key.executor, &container);
        let token = format!("{}{}", cx.uuid_text(), cx.uuid_text()).replace('-', "");
        if !is_pod(&info) {
            self.containers.insert(container.clone(), Owner::Executor(key.clone()));
        }
        let gpus = self.take_gpus(gpus);
        let executor = Executor { gpus, ..Executor::new(info, container, directory, token) };
        self.executors.insert(key.clone(), executor);
        cx.save_executors.insert(key.clone());
    }

    fn sandbox(&self, framework: &str, executor: &str, container: &str) -> String {
        let (work, agent) = (&self.settings.work_dir, &self.agent_id);
        format!("{work}/slaves/{agent}/frameworks/{framework}/executors/{executor}/runs/{container}")
    }

    /// The intent is on the disk.
    pub(super) fn intent_written(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if let Some(kill) = task.kill {
            let words = "The task was killed before it was launched";
            let news = News { source: Source::Agent, ..Self::killed(kill) };
            self.say(key, news.reason(Reason::TaskKilledDuringLaunch).message(words), cx);
            return;
        }
        if !task.ours() {
            task.phase = Phase::Queued;
            self.offer_to_executor(key, cx);
            return;
        }
        let pod = task.pod;
        task.phase = Phase::Launching;
        // Mesos' default executor always says it.
        if self.settings.send_starting || pod {
            self.say(key, News::executor(TaskState::TaskStarting), cx);
        }
        if let Some(launch) = self.task_launch(key) {
            cx.out.push(Effect::Launch(Box::new(launch)));
        }
    }

    /// The intent could not be written: the task was never launched, and nothing remembers it.
    pub(super) fn intent_refused(&mut self, key: &TaskKey, error: &str, cx: &mut Cx<'_>) {
        let pod = self.pod_of(key);
        let Some(task) = self.tasks.remove(key) else { return };
        self.containers.remove(&task.container);
        if let Some(pod) = pod {
            self.pod_idle(&pod, cx);
        }
        let Some(framework) = self.frameworks.get(&key.framework).map(|framework| framework.info.clone())
        else {
            return;
        };
        let words = format!(
            "The agent cannot write the launch down ({error}), so it does not launch; \
             free space on the agent's disk, or try another agent"
        );
        let state = lost_or(Some(&framework), TaskState::TaskDropped);
        let news = News::agent(state, Reason::ContainerLaunchFailed, words);
        self.refuse(key, task.info, task.launch_id, news, &framework, cx);
    }

    fn task_launch(&self, key: &TaskKey) -> Option<Launch> {
        let task = self.tasks.get(key)?;
        let framework = &self.frameworks.get(&key.framework)?.info;
        let command = task.info.command.clone()?;
        let mut env = self.common_env(key, task.executor_id(), &task.container, &task.directory);
        env.push(("MESOS_TASK_ID".to_owned(), key.task.clone()));
        let pod = self.pod_of(key).and_then(|id| self.executors.get(&id));
        Some(Launch {
            container: task.container.clone(),
            framework: key.framework.clone(),
            executor: task.executor_id().to_owned(),
            user: user(&command, framework),
            user_named: command.user.is_some(),
            pod: pod.map(|pod| Pod {
                container: pod.container.clone(),
                directory: pod.directory.clone(),
                volumes: self.volumes_of_pod(key),
                linux: pod.info.container.as_ref().and_then(|info| info.linux_info.clone()),
            }),
            command,
            container_info: match pod {
                Some(pod) => container_info(task.info.container.as_ref(), &pod.info),
                None => task.info.container.clone(),
            },
            resources: task.info.resources.clone(),
            limits: task.info.limits.iter().map(|(name, value)| (name.clone(), value.value)).collect(),
            directory: task.directory.clone(),
            env,
            task: Some(Box::new(task.info.clone())),
            gpus: task.gpus.clone(),
        })
    }

    /// What a custom executor's container is told. Its cgroup starts with the executor's resources and those of the tasks that wait.
    pub(super) fn executor_launch(&self, id: &ExecutorKey) -> Option<Launch> {
        let executor = self.executors.get(id)?;
        let framework = &self.frameworks.get(&id.framework)?.info;
        let command = executor.info.command.clone()?;
        let key = TaskKey { framework: id.framework.clone(), task: String::new() };
        let mut env = self.common_env(&key, &id.executor, &executor.container, &executor.directory);
        let seconds = |millis: Millis| format!("{}secs", millis.as_secs_f64());
        let grace = self.executor_grace(&executor.info);
        let recovery = self.settings.recovery_timeout;
        for (name, value) in [
            ("MESOS_CHECKPOINT", "1".to_owned()),
            ("MESOS_RECOVERY_TIMEOUT", seconds(recovery)),
            ("MESOS_SUBSCRIPTION_BACKOFF_MAX", seconds(Millis(2_000))),
            ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", seconds(grace)),
            ("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", executor.token.clone()),
        ] {
            env.push((name.to_owned(), value));
        }
        let mut resources = executor.info.resources.clone();
        let waiting = self
            .tasks
            .values()
            .filter(|task| task.framework == id.framework && task.executor.as_ref() == Some(&id.executor));
        for task in waiting.filter(|task| task.phase != Phase::Ended) {
            resources.extend(task.info.resources.iter().cloned());
        }
        Some(Launch {
            container: executor.container.clone(),
            framework: id.framework.clone(),
            executor: id.executor.clone(),
            task: None,
            user: user(&command, framework),
            user_named: command.user.is_some(),
            pod: None,
            command,
            container_info: executor.info.container.clone(),
            resources,
            limits: Vec::new(),
            directory: executor.directory.clone(),
            env,
            gpus: executor.gpus.clone(),
        })
    }

    fn common_env(
        &self,
        key: &TaskKey,
        executor: &str,
        container: &str,
        directory: &str,
    ) -> Vec<(String, String)> {
        let endpoint = format!("{}:{}", self.settings.ip, self.settings.port);
        [
            ("MESOS_FRAMEWORK_ID", key.framework.as_str()),
            ("MESOS_EXECUTOR_ID", executor),
            ("MESOS_SLAVE_ID", &self.agent_id),
            ("MESOS_AGENT_ENDPOINT", &endpoint),
            ("MESOS_CONTAINER_ID", container),
            ("MESOS_DIRECTORY", directory),
            ("MESOS_SANDBOX", directory),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }
}

fn user(command: &CommandInfo, framework: &FrameworkInfo) -> String {
    command.user.clone().unwrap_or_else(|| framework.user.clone())
}

/// Why an executor cannot run a task, from what both say of themselves.
fn unfit(executor: &ExecutorInfo, task: &TaskInfo) -> Option<String> {
    let words = match (is_pod(executor), &executor.command, &task.command) {
        (false, None, _) => "The executor has no command",
        (true, Some(_), _) => "An executor of the type DEFAULT has no command of its own",
        (true, None, None) => "A task of the default executor needs a command",
        (true, None, Some(_)) if executor.container.as_ref().is_some_and(has_image) => {
            "An executor of the type DEFAULT has no image of its own; give each task its image"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

fn has_image(info: &plenum_api::mesos::ContainerInfo) -> bool {
    info.docker.is_some() || info.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some())
}

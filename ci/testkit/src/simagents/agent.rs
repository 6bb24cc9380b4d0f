//! One simulated agent, without a socket: what it answers to each message of the master, what it repeats, and when its tasks end. A health
//! check passes as soon as its task runs.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plenum_api::internal::{
    self, agent_message::Kind as Say, master_message::Kind as Hear, master_message::Kind::*,
};
use plenum_api::mesos::network_info::IpAddress;
use plenum_api::mesos::task_status::Source;
use plenum_api::mesos::{ContainerStatus, NetworkInfo, TaskState, TaskStatus};
use plenum_api::resources::Resources;
use tokio::time::Instant;

/// The first pause before an update is repeated; it doubles up to [`LONGEST`], as a real agent's does.
const FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(600);

/// What every agent of a fleet has.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Resources of each, in the text form `cpus:4;mem:1024`.
    pub resources: String,
    /// When a task is FINISHED by itself; none: it runs until it is killed.
    pub lifetime: Option<Duration>,
}

/// An update that waits for its acknowledgement.
#[derive(Debug)]
struct Update {
    update: internal::StatusUpdate,
    again: Instant,
    pause: Duration,
}

/// A task and its updates that are not acknowledged; the first one is on its way.
#[derive(Debug, Default)]
struct Task {
    framework: String,
    updates: VecDeque<Update>,
    ends: Option<Instant>,
    ended: bool,
}

/// What an agent is told apart by.
#[derive(Debug)]
pub struct SimAgent {
    number: u32,
    shape: Shape,
    id: Option<String>,
    updates: u64,
    tasks: BTreeMap<String, Task>,
    /// No task needs anything before this time.
    next: Option<Instant>,
    /// Updates that were sent again.
    pub repeated: u64,
    /// Tasks that were started.
    pub started: u64,
}

impl SimAgent {
    /// The agent of this number; it has not dialled.
    #[must_use]
    pub fn new(number: u32, shape: Shape) -> Self {
        let tasks = BTreeMap::new();
        Self { number, shape, id: None, updates: 0, tasks, next: None, repeated: 0, started: 0 }
    }

    /// Whether the master has taken it in.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.id.is_some()
    }

    /// The first thing to say on a connection.
    #[must_use]
    pub fn hello(&self) -> Say {
        Say::Hello(internal::Hello { version_min: 1, version_max: 1, ..Default::default() })
    }

    /// The registration: a new agent without tasks.
    ///
    /// # Errors
    /// When the resources of the shape do not parse.
    pub fn register(&self) -> Result<Say, String> {
        let resources = Resources::parse(&self.shape.resources, "*").map_err(|e| e.to_string())?.to_mesos();
        let hostname = format!("node-{}.sim", self.number);
        let agent_info =
            plenum_api::mesos::AgentInfo { hostname, port: Some(5051), resources, ..Default::default() };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let boot_id = Some(format!("boot-{}", self.number));
        Ok(Say::Register(internal::Register { agent_info, version, boot_id, ..Default::default() }))
    }

    /// A message of the master. What is to be answered is appended; an error ends the connection.
    ///
    /// # Errors
    /// The master's farewell, or what it should not have said.
    pub fn hear(&mut self, kind: Hear, now: Instant, out: &mut Vec<Say>) -> Result<(), String> {
        match kind {
            Registered(registered) => self.id = Some(registered.agent_id.value),
            Goodbye(goodbye) => return Err(goodbye.message.unwrap_or_default()),
            ShutdownAgent(why) => return Err(why.message.unwrap_or_default()),
            Ping(ping) => out.push(Say::Pong(internal::Pong { seq: ping.seq })),
            RunTasks(run) => self.run(run, now, out),
            AcknowledgeStatus(ack) => self.acknowledged(&ack, now, out),
            KillTask(kill) => {
                self.end(&kill.task_id.value, &kill.framework_id.value, TaskState::TaskKilled, now, out);
            }
            ShutdownFramework(gone) => self.tasks.retain(|_, task| task.framework != gone.framework_id.value),
            Hello(_) | UpdateFramework(_) => {}
            other => return Err(format!("a simulated agent has no answer to {other:?}")),
        }
        Ok(())
    }

    /// When [`SimAgent::tick`] is to be called.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Repeats what was not acknowledged in time, and ends tasks whose time has come.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Say>) {
        let over: Vec<(String, String)> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.ends.is_some_and(|ends| ends <= now))
            .map(|(id, task)| (id.clone(), task.framework.clone()))
            .collect();
        for (id, framework) in over {
            self.end(&id, &framework, TaskState::TaskFinished, now, out);
        }
        for task in self.tasks.values_mut() {
            if let Some(first) = task.updates.front_mut()
                && first.again <= now
            {
                first.pause = (first.pause * 2).min(LONGEST);
                first.again = now + first.pause;
                self.repeated += 1;
                out.push(Say::StatusUpdate(first.update.clone()));
            }
        }
        let due =
            |task: &Task| task.updates.front().map(|first| first.again).into_iter().chain(task.ends).min();
        self.next = self.tasks.values().filter_map(due).min();
    }

    fn wake(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn run(&mut self, run: internal::RunTasks, now: Instant, out: &mut Vec<Say>) {
        let framework = run.framework_info.id.map(|id| id.value).unwrap_or_default();
        for info in run.tasks {
            let id = info.task_id.value;
            if self.tasks.contains_key(&id) {
                continue;
            }
            self.started += 1;
            let ends = self.shape.lifetime.map(|lifetime| now + lifetime);
            if let Some(ends) = ends {
                self.wake(ends);
            }
            let task = Task { framework: framework.clone(), ends, ..Default::default() };
            self.tasks.insert(id.clone(), task);
            self.say(&id, &framework, (TaskState::TaskRunning, None), now, out);
            if info.health_check.is_some() {
                self.say(&id, &framework, (TaskState::TaskRunning, Some(true)), now, out);
            }
        }
    }

    /// Ends a task; of one that is not here it says that it is lost.
    fn end(&mut self, id: &str, framework: &str, state: TaskState, now: Instant, out: &mut Vec<Say>) {
        let known = match self.tasks.get_mut(id) {
            Some(task) if task.ended => return,
            Some(task) => {
                (task.ended, task.ends) = (true, None);
                true
            }
            None => {
                let task = Task { framework: framework.to_owned(), ended: true, ..Default::default() };
                self.tasks.insert(id.to_owned(), task);
                false
            }
        };
        self.say(id, framework, (if known { state } else { TaskState::TaskLost }, None), now, out);
    }

    /// Queues an update of a task, with what its health check says; it leaves at once when nothing is before it.
    fn say(
        &mut self,
        id: &str,
        framework: &str,
        (state, healthy): (TaskState, Option<bool>),
        now: Instant,
        out: &mut Vec<Say>,
    ) {
        self.updates += 1;
        // Unique in the fleet, and different after each update.
        let uuid = (u128::from(self.number) << 64 | u128::from(self.updates)).to_be_bytes();
        let address = IpAddress {
            ip_address: Some(format!("10.0.{}.{}", self.number >> 8 & 255, self.number & 255)),
            ..Default::default()
        };
        let network = NetworkInfo { ip_addresses: vec![address], ..Default::default() };
        let container = ContainerStatus {
            container_id: Some(format!("{id}.{:x}", self.updates).as_str().into()),
            network_infos: vec![network],
            executor_pid: Some(1),
            ..Default::default()
        };
        let mut status = TaskStatus {
            task_id: id.into(),
            agent_id: self.id.as_deref().map(Into::into),
            executor_id: Some(id.into()),
            timestamp: Some(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()),
            uuid: Some(uuid.to_vec().into()),
            container_status: Some(container),
            healthy,
            ..Default::default()
        };
        status.set_state(state);
        status.set_source(Source::Executor);
        let Some(task) = self.tasks.get_mut(id) else { return };
        let update = internal::StatusUpdate {
            framework_id: framework.into(),
            status,
            latest_state: Some(state as i32),
            executor_id: Some(id.into()),
        };
        let again = now + FIRST;
        if task.updates.is_empty() {
            out.push(Say::StatusUpdate(update.clone()));
        } else {
            for waiting in &mut task.updates {
                waiting.update.latest_state = Some(state as i32);
            }
        }
        task.updates.push_back(Update { update, again, pause: FIRST });
        self.wake(again);
    }

    fn acknowledged(&mut self, ack: &internal::AcknowledgeStatus, now: Instant, out: &mut Vec<Say>) {
        let Some(task) = self.tasks.get_mut(&ack.task_id.value) else { return };
        let first = task.updates.front().and_then(|first| first.update.status.uuid.as_ref());
        if first != Some(&ack.uuid) {
            return;
        }
        task.updates.pop_front();
        if let Some(next) = task.updates.front_mut() {
            next.again = now + FIRST;
            out.push(Say::StatusUpdate(next.update.clone()));
        } else if task.ended {
            self.tasks.remove(&ack.task_id.value);
        } else {
            task.updates.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(out: &mut Vec<Say>) -> Vec<(TaskState, bytes_of::Uuid)> {
        out.drain(..)
            .map(|say| match say {
                Say::StatusUpdate(update) => (update.status.state(), update.status.uuid.unwrap().to_vec()),
                other => panic!("an update, not {other:?}"),
            })
            .collect()
    }

    mod bytes_of {
        pub type Uuid = Vec<u8>;
    }

    fn run() -> Hear {
        let framework_info = plenum_api::mesos::FrameworkInfo { id: Some("f".into()), ..Default::default() };
        let task = plenum_api::mesos::TaskInfo { task_id: "t".into(), ..Default::default() };
        RunTasks(internal::RunTasks { framework_info, tasks: vec![task], ..Default::default() })
    }

    fn ack(uuid: &[u8]) -> Hear {
        let (framework_id, task_id, uuid) = ("f".into(), "t".into(), uuid.to_vec().into());
        AcknowledgeStatus(internal::AcknowledgeStatus { framework_id, task_id, uuid })
    }

    #[test]
    fn a_health_check_passes_after_running_is_acknowledged() {
        let shape = Shape { resources: "cpus:1".into(), lifetime: None };
        let (mut agent, mut out, start) = (SimAgent::new(7, shape), Vec::new(), Instant::now());
        let RunTasks(mut tasks) = run() else { panic!("tasks to run") };
        tasks.tasks[0].health_check = Some(Default::default());
        let healthy = |out: &mut Vec<Say>| match out.pop() {
            Some(Say::StatusUpdate(update)) => (update.status.healthy, update.status.uuid.unwrap().to_vec()),
            other => panic!("an update, not {other:?}"),
        };
        agent.hear(RunTasks(tasks), start, &mut out).unwrap();
        let (first, uuid) = healthy(&mut out);
        assert_eq!((first, out.len()), (None, 0));
        agent.hear(ack(&uuid), start, &mut out).unwrap();
        assert_eq!(healthy(&mut out).0, Some(true));
    }

    #[test]
    fn updates_are_in_order_and_repeated_until_acknowledged() {
        let shape = Shape { resources: "cpus:1".into(), lifetime: Some(Duration::from_secs(60)) };
        let (mut agent, mut out, start) = (SimAgent::new(7, shape), Vec::new(), Instant::now());
        agent.hear(run(), start, &mut out).unwrap();
        let first = states(&mut out);
        assert_eq!(first[0].0, TaskState::TaskRunning);
        agent.hear(run(), start, &mut out).unwrap();
        assert!(out.is_empty(), "a launch that comes twice is obeyed once");
        assert_eq!(agent.due(), Some(start + FIRST));
        agent.tick(start + FIRST, &mut out);
        assert_eq!((states(&mut out), agent.repeated), (first.clone(), 1));
        // Its time comes before RUNNING is acknowledged: FINISHED waits.
        let later = start + Duration::from_secs(61);
        agent.tick(later, &mut out);
        assert_eq!(states(&mut out), first);
        agent.hear(ack(&[0; 16]), later, &mut out).unwrap();
        assert!(out.is_empty(), "another update's acknowledgement");
        agent.hear(ack(&first[0].1), later, &mut out).unwrap();
        let last = states(&mut out);
        assert_eq!(last[0].0, TaskState::TaskFinished);
        assert_ne!(last[0].1, first[0].1);
        agent.hear(ack(&last[0].1), later, &mut out).unwrap();
        agent.tick(later + LONGEST, &mut out);
        assert!(out.is_empty() && agent.due().is_none() && agent.tasks.is_empty());
    }

    #[test]
    fn kills_are_answered() {
        let shape = Shape { resources: "cpus:1".into(), lifetime: None };
        let (mut agent, mut out, now) = (SimAgent::new(7, shape), Vec::new(), Instant::now());
        let kill = || {
            let (framework_id, task_id) = ("f".into(), "t".into());
            KillTask(internal::KillTask { framework_id, task_id, kill_policy: None })
        };
        agent.hear(kill(), now, &mut out).unwrap();
        let lost = states(&mut out);
        assert_eq!(lost[0].0, TaskState::TaskLost);
        agent.hear(ack(&lost[0].1), now, &mut out).unwrap();
        agent.hear(run(), now, &mut out).unwrap();
        let running = states(&mut out);
        agent.hear(ack(&running[0].1), now, &mut out).unwrap();
        agent.hear(kill(), now, &mut out).unwrap();
        agent.hear(kill(), now, &mut out).unwrap();
        assert_eq!(states(&mut out)[0].0, TaskState::TaskKilled);
        assert!(agent.hear(Ping(internal::Ping { seq: 3, connected: None }), now, &mut out).is_ok());
        assert!(matches!(out[..], [Say::Pong(internal::Pong { seq: 3 })]));
        assert!(agent.hear(Goodbye(internal::Goodbye::default()), now, &mut out).is_err());
    }
}

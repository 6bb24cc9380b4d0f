//! A stage for the core: a fake clock, seeded ids, a disk that can be full, a master that can be away.

use plenum_api::ids::SeededIds;
use plenum_api::internal::{
    self, MasterFrame, MasterMessage, agent_message::Kind as Say, master_message::Kind as Hear,
};
use plenum_api::mesos::framework_info::{Capability, capability::Type as CapabilityType};
use plenum_api::mesos::task_status::{Reason, Source};
use plenum_api::mesos::{CommandInfo, FrameworkInfo, KillPolicy, TaskInfo, TaskState, TaskStatus};
use plenum_api::{Millis, Now};
use std::collections::BTreeMap;

use crate::core::*;

/// An agent on a stage.
pub struct Stage {
    pub agent: Agent,
    pub now: Now,
    pub ids: SeededIds,
    /// Records that reached the disk.
    pub disk: BTreeMap<String, Vec<u8>>,
    /// Writes fail with this.
    pub full: Option<String>,
    /// Checkpoints wait here instead of being answered at once.
    pub hold: bool,
    pub held: Vec<(u64, Vec<RecordWrite>)>,
    pub settings: Settings,
    pub conn: u64,
    pub term: u64,
    /// Everything that came out but checkpoints and reports.
    pub out: Vec<Effect>,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(Settings {
            work_dir: "/w".to_owned(),
            boot_id: "boot-1".to_owned(),
            // Most stories are not about a silent master.
            master_silence: Millis(u64::MAX / 2),
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Self {
        let mut stage = Self {
            agent: Agent::new(settings.clone()),
            now: Now { mono: Millis(1_000), wall: Millis(1_700_000_000_000) },
            ids: SeededIds::new(7),
            disk: BTreeMap::new(),
            full: None,
            hold: false,
            held: Vec::new(),
            settings,
            conn: 0,
            term: 1,
            out: Vec::new(),
        };
        stage.event(Event::Recovered(Recovery::default()));
        stage
    }

    /// A stage whose agent is registered as `S`.
    pub fn registered() -> Self {
        let mut stage = Self::new();
        stage.register();
        stage.out.clear();
        stage
    }

    pub fn register(&mut self) {
        self.conn += 1;
        let conn = self.conn;
        self.event(Event::Connected { conn });
        self.master(vec![Hear::Hello(internal::Hello {
            version_min: 1,
            version_max: 1,
            ..Default::default()
        })]);
        self.master(vec![Hear::Registered(internal::Registered {
            agent_id: "S".into(),
            ..Default::default()
        })]);
    }

    /// Restarts the agent: only what is on the disk survives.
    pub fn restart(&mut self, containers: Vec<Found>) {
        self.restart_with(containers, &[]);
    }

    pub fn restart_with(&mut self, containers: Vec<Found>, damaged: &[&str]) {
        self.hold = false;
        self.agent = Agent::new(self.settings.clone());
        self.held.clear();
        self.out.clear();
        self.now.mono = Millis(1_000);
        let mut records: Vec<(String, Vec<u8>)> = self.disk.clone().into_iter().collect();
        for (key, body) in &mut records {
            if damaged.contains(&key.as_str()) {
                body.truncate(20);
            }
        }
        self.event(Event::Recovered(Recovery { records, containers }));
    }

    pub fn master(&mut self, messages: Vec<Hear>) {
        let messages = messages.into_iter().map(|kind| MasterMessage { kind: Some(kind) }).collect();
        let frame = MasterFrame { term: self.term, messages };
        let conn = self.conn;
        self.event(Event::Master { conn, frame });
    }

    pub fn event(&mut self, event: Event) {
        let effects = self.agent.handle(event, self.now, &mut self.ids);
        for effect in effects {
            match effect {
                Effect::Checkpoint { token, writes } if self.hold => self.held.push((token, writes)),
                Effect::Checkpoint { token, writes } => self.write(token, writes),
                Effect::Report { .. } => {}
                other => self.out.push(other),
            }
        }
    }

    fn write(&mut self, token: u64, writes: Vec<RecordWrite>) {
        let result = match &self.full {
            Some(error) => Err(error.clone()),
            None => {
                for write in writes {
                    match write.body {
                        Some(body) => drop(self.disk.insert(write.key, body)),
                        None => drop(self.disk.remove(&write.key)),
                    }
                }
                Ok(())
            }
        };
        self.event(Event::Checkpointed { token, result });
    }

    /// Lets what was held back reach the disk.
    pub fn release(&mut self) {
        self.hold = false;
        for (token, writes) in std::mem::take(&mut self.held) {
            self.write(token, writes);
        }
    }

    /// Lets time pass, ticking when the agent wants it.
    pub fn pass(&mut self, wait: u64) {
        let end = self.now.mono + Millis(wait);
        for _ in 0..10_000 {
            match self.agent.next_wake() {
                Some(at) if at <= end => {
                    let step = at.max(self.now.mono) - self.now.mono;
                    self.now.mono = self.now.mono + step;
                    self.now.wall = self.now.wall + step;
                    self.event(Event::Tick);
                }
                _ => break,
            }
        }
        assert!(self.agent.next_wake().is_none_or(|at| at > end), "the agent spins");
        let step = end - self.now.mono;
        self.now.mono = end;
        self.now.wall = self.now.wall + step;
    }

    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Statuses sent to the master since the last look.
    pub fn updates(&mut self) -> Vec<TaskStatus> {
        let mut updates = Vec::new();
        self.out.retain(|effect| {
            if let Effect::Send(kind) = effect
                && let Say::StatusUpdate(update) = kind.as_ref()
            {
                updates.push(update.status.clone());
                return false;
            }
            true
        });
        updates
    }

    /// The only update since the last look, in short.
    pub fn update(&mut self) -> Short {
        let updates = self.updates();
        assert_eq!(updates.len(), 1, "{updates:?}");
        short(&updates[0])
    }

    /// Acknowledges the newest update seen of a task.
    pub fn acknowledge(&mut self, status: &TaskStatus) {
        let uuid = status.uuid.clone().expect("an update to acknowledge has an id");
        let (framework_id, task_id) = ("F".into(), status.task_id.clone());
        self.master(vec![Hear::AcknowledgeStatus(internal::AcknowledgeStatus {
            framework_id,
            task_id,
            uuid,
        })]);
    }

    /// Takes one update, checks it, acknowledges it.
    pub fn expect(&mut self, expect: Short) -> TaskStatus {
        let updates = self.updates();
        assert_eq!(updates.iter().map(short).collect::<Vec<_>>(), vec![expect]);
        self.acknowledge(&updates[0]);
        updates[0].clone()
    }

    pub fn run(&mut self, task: TaskInfo) {
        self.run_as(framework(&[]), task, b"launch");
    }

    pub fn run_as(&mut self, framework_info: FrameworkInfo, task: TaskInfo, launch: &'static [u8]) {
        self.master(vec![Hear::RunTasks(internal::RunTasks {
            framework_info,
            tasks: vec![task],
            launch_id: bytes::Bytes::from_static(launch),
            ..Default::default()
        })]);
    }

    pub fn kill(&mut self, task: &str, grace: Option<u64>) {
        let kill_policy = grace.map(policy);
        let (framework_id, task_id) = ("F".into(), task.into());
        self.master(vec![Hear::KillTask(internal::KillTask { framework_id, task_id, kill_policy })]);
    }

    /// The container that was to be launched.
    pub fn launch(&mut self) -> Launch {
        let at = self.out.iter().position(|effect| matches!(effect, Effect::Launch(_)));
        match self.out.remove(at.expect("something is launched")) {
            Effect::Launch(launch) => *launch,
            _ => unreachable!(),
        }
    }

    pub fn launched(&mut self, container: &str) {
        let started = Started { pid: Some(42), ..Started::default() };
        self.event(Event::Launched { container: container.to_owned(), started });
    }

    pub fn exited(&mut self, container: &str, status: ExitStatus) {
        let exit = Exit { status, oom: false, abnormal: false, message: String::new() };
        self.event(Event::Exited { container: container.to_owned(), exit });
    }

    /// Runs a task up to its acknowledged TASK_RUNNING; gives its container.
    pub fn running(&mut self, task: TaskInfo) -> String {
        self.run(task);
        let container = self.launch().container;
        self.launched(&container);
        self.expect(say(TaskState::TaskRunning));
        self.out.clear();
        container
    }
}

/// What tests look at in a status.
#[derive(Debug, Clone, PartialEq)]
pub struct Short {
    pub state: TaskState,
    pub source: Source,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    pub healthy: Option<bool>,
}

pub fn short(status: &TaskStatus) -> Short {
    Short {
        state: status.state(),
        source: status.source(),
        reason: status.reason.map(|_| status.reason()),
        message: status.message.clone(),
        healthy: status.healthy,
    }
}

pub fn say(state: TaskState) -> Short {
    Short { state, source: Source::Executor, reason: None, message: None, healthy: None }
}

impl Short {
    pub fn agent(self) -> Self {
        Self { source: Source::Agent, ..self }
    }
    pub fn reason(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }
    pub fn message(self, message: &str) -> Self {
        Self { message: Some(message.to_owned()), ..self }
    }
    pub fn healthy(self, healthy: bool) -> Self {
        Self { healthy: Some(healthy), ..self }
    }
}

pub fn framework(capabilities: &[CapabilityType]) -> FrameworkInfo {
    let one = |kind: &CapabilityType| Capability { r#type: Some(*kind as i32) };
    FrameworkInfo {
        user: "root".to_owned(),
        name: "test".to_owned(),
        id: Some("F".into()),
        capabilities: capabilities.iter().map(one).collect(),
        ..Default::default()
    }
}

pub fn task(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.to_owned(),
        task_id: id.into(),
        agent_id: "S".into(),
        command: Some(CommandInfo { value: Some("sleep 9".to_owned()), ..Default::default() }),
        ..Default::default()
    }
}

pub fn policy(grace: u64) -> KillPolicy {
    KillPolicy {
        grace_period: Some(plenum_api::mesos::DurationInfo { nanoseconds: Millis(grace).as_nanos() }),
    }
}

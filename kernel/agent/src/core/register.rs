//! The connection to the master: hello, registration, terms, identity, and what each of its messages sets in motion.

use plenum_api::Millis;
use plenum_api::internal::{
    self, MasterFrame, agent_message::Kind as Say, goodbye::Code, master_message::Kind as Hear,
};
use plenum_api::mesos::agent_info::capability::Type as Capability;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{AgentInfo, FrameworkInfo, TaskState, agent_info};

use super::event::{Effect, ExecutorKey, Level, TaskKey};
use super::model::{KillCause, Mark};
use super::records::{self, AgentRecord, TermRecord};
use super::status::{News, lost_or};
use super::{Agent, Cx, Waiting, updates, view, wire};

/// Version of the agent protocol spoken.
pub(crate) const PROTOCOL: u32 = 1;
/// A master is silent after this many of its intervals: as many as it gives an agent.
const MISSED: u64 = 4;

/// Where the connection is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Link {
    Down,
    /// Hello was said.
    Greeting(Conn),
    /// Register was said.
    Registering(Conn),
    /// The master knows us.
    Up(Conn),
}

/// A connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conn {
    pub id: u64,
    pub last_heard: Millis,
    pub silence: Millis,
    /// Frames that wait until the term or the identity is on the disk.
    pub held: Option<Vec<MasterFrame>>,
}

impl Link {
    fn conn(&mut self, id: u64) -> Option<&mut Conn> {
        match self {
            Self::Greeting(conn) | Self::Registering(conn) | Self::Up(conn) if conn.id == id => Some(conn),
            _ => None,
        }
    }

    fn any(&mut self) -> Option<&mut Conn> {
        match self {
            Self::Greeting(conn) | Self::Registering(conn) | Self::Up(conn) => Some(conn),
            Self::Down => None,
        }
    }
}

impl Agent {
    pub(super) fn connected(&mut self, id: u64, cx: &mut Cx<'_>) {
        if self.stopping {
            return;
        }
        let silence = self.settings.master_silence;
        self.link = Link::Greeting(Conn { id, last_heard: cx.now.mono, silence, held: None });
        let cluster = if self.cluster_id.is_empty() { &self.settings.cluster_id } else { &self.cluster_id };
        cx.send(Say::Hello(internal::Hello {
            version_min: PROTOCOL,
            version_max: PROTOCOL,
            features: Vec::new(),
            cluster_id: Some(cluster.clone()),
            program_version: Some(self.settings.version.clone()),
        }));
        let at = cx.after(silence);
        self.mark(at, Mark::Master);
    }

    pub(super) fn disconnected(&mut self, id: u64) {
        if self.link.conn(id).is_some() {
            self.link = Link::Down;
        }
    }

    /// The master has been silent for too long, or not.
    pub(super) fn master_due(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        let Some(conn) = self.link.any() else { return };
        let at = conn.last_heard + conn.silence;
        if at > now {
            self.mark(at, Mark::Master);
            return;
        }
        let seconds = conn.silence.0 / 1000;
        self.hang_up(Some(Code::Timeout), format!("the master has said nothing for {seconds} s"), cx);
    }

    fn hang_up(&mut self, code: Option<Code>, reason: String, cx: &mut Cx<'_>) {
        if let Some(code) = code {
            let mut goodbye = internal::Goodbye { message: Some(reason.clone()), ..Default::default() };
            goodbye.set_code(code);
            cx.send(Say::Goodbye(goodbye));
        }
        self.link = Link::Down;
        cx.out.push(Effect::Disconnect { reason });
    }

    /// A frame: terms first, then its messages in order.
    pub(super) fn master_frame(&mut self, id: u64, frame: MasterFrame, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        let known = self.term;
        let busy = self.operations.busy();
        let Some(conn) = self.link.conn(id) else { return };
        conn.last_heard = now;
        if let Some(held) = &mut conn.held {
            held.push(frame);
            return;
        }
        if busy {
            conn.held = Some(vec![frame]);
            return;
        }
        #[cfg(feature = "deliberate-bugs")]
        let known = if self.settings.deliberate_old_term { known.min(frame.term) } else { known };
        if frame.term < known {
            let words = format!("term {} is over: this agent has obeyed term {known}", frame.term);
            self.hang_up(Some(Code::StaleTerm), words, cx);
            return;
        }
        if frame.term > known {
            let term = frame.term;
            conn.held = Some(vec![frame]);
            let writes = vec![records::put("term".to_owned(), &TermRecord { term })];
            let token = self.token(Waiting::Link { conn: id, term });
            cx.out.push(Effect::Checkpoint { token, writes });
            return;
        }
        self.obey(id, frame, cx);
    }

    /// The term or the identity is on the disk, or is not.
    pub(super) fn link_written(&mut self, id: u64, term: u64, result: Result<(), String>, cx: &mut Cx<'_>) {
        if result.is_ok() {
            self.term = self.term.max(term);
            self.identity_durable = !self.agent_id.is_empty();
        }
        let Some(conn) = self.link.conn(id) else { return };
        let held = conn.held.take().unwrap_or_default();
        if let Err(error) = result {
            let words = format!("what the master said could not be written down: {error}");
            cx.report(Level::Warn, words.clone());
            self.hang_up(Some(Code::Closing), words, cx);
            return;
        }
        for frame in held {
            // Goes through the front door again: a frame may be held once more.
            self.master_frame(id, frame, cx);
        }
    }

    /// What the master says from now on waits for the disk.
    pub(super) fn hold_frames(&mut self) {
        if let Some(conn) = self.link.any() {
            conn.held.get_or_insert_default();
        }
    }

    /// The disk is through: what waited for it goes on.
    pub(super) fn release_frames(&mut self, cx: &mut Cx<'_>) {
        let Some(conn) = self.link.any() else { return };
        let (id, held) = (conn.id, conn.held.take().unwrap_or_default());
        for frame in held {
            self.master_frame(id, frame, cx);
        }
    }

    fn obey(&mut self, id: u64, frame: MasterFrame, cx: &mut Cx<'_>) {
        let term = frame.term;
        let mut messages = frame.messages.into_iter();
        while let Some(message) = messages.next() {
            if let Some(kind) = message.kind {
                self.hear(kind, cx);
            }
            // A message may hang up, or make the rest wait for the disk.
            let Some(conn) = self.link.conn(id) else { return };
            if let Some(held) = &mut conn.held {
                held.insert(0, MasterFrame { term, messages: messages.collect() });
                return;
            }
        }
    }

    fn hear(&mut self, message: Hear, cx: &mut Cx<'_>) {
        match message {
            Hear::Hello(hello) => self.greeted(&hello, cx),
            Hear::Goodbye(goodbye) => self.dismissed(&goodbye, cx),
            Hear::Registered(new) => {
                self.registered(&new.agent_id.value, new.heartbeat_interval_ms, Vec::new(), cx);
            }
            Hear::Reregistered(again) => {
                let frameworks = again.frameworks;
                self.registered(&again.agent_id.value, again.heartbeat_interval_ms, frameworks, cx);
                for reconcile in again.reconciliations {
                    self.reconcile(&reconcile, cx);
                }
            }
            Hear::Ping(ping) => cx.send(Say::Pong(internal::Pong { seq: ping.seq })),
            _ if !matches!(self.link, Link::Up(_)) => {
                let words = "the master gave an order before the registration was through".to_owned();
                self.hang_up(Some(Code::Protocol), words, cx);
            }
            Hear::RunTasks(run) => self.run_tasks(run, cx),
            Hear::KillTask(kill) => {
                let key = TaskKey { framework: kill.framework_id.value, task: kill.task_id.value };
                self.kill_task(&key, wire::grace(kill.kill_policy.as_ref()), KillCause::Framework, cx);
            }
            Hear::AcknowledgeStatus(ack) => {
                let key = TaskKey { framework: ack.framework_id.value, task: ack.task_id.value };
                self.acknowledged(&key, &ack.uuid, cx);
            }
            Hear::FrameworkMessage(message) => {
                let key = ExecutorKey {
                    framework: message.framework_id.value,
                    executor: message.executor_id.value,
                };
                self.message_to_executor(&key, message.data, cx);
            }
            Hear::ShutdownFramework(which) => self.shutdown_framework(&which.framework_id.value, cx),
            Hear::ShutdownExecutor(which) => {
                let key =
                    ExecutorKey { framework: which.framework_id.value, executor: which.executor_id.value };
                self.shutdown_executor_or_task(&key, cx);
            }
            Hear::UpdateFramework(update) => self.update_framework(update.framework_info, cx),
            Hear::ReconcileTasks(which) => self.reconcile(&which, cx),
            Hear::ApplyOperation(apply) => self.apply_operation(apply, cx),
            Hear::AcknowledgeOperation(which) => self.operation_acknowledged(&which, cx),
            Hear::ShutdownAgent(order) => self.shutdown_agent(order.message.unwrap_or_default(), cx),
            Hear::DrainAgent(drain) => self.drain(&drain.config, cx),
            Hear::ResumeAgent(_) => self.resume(cx),
            Hear::Overlay(news) => self.overlay(news, cx),
        }
    }

    fn greeted(&mut self, hello: &internal::Hello, cx: &mut Cx<'_>) {
        let Link::Greeting(conn) = &self.link else { return };
        if hello.version_min > PROTOCOL || hello.version_max < PROTOCOL {
            let words = format!(
                "the master speaks versions {} to {} of the agent protocol, this agent {PROTOCOL}",
                hello.version_min, hello.version_max
            );
            self.hang_up(Some(Code::Version), words, cx);
            return;
        }
        let theirs = hello.cluster_id.clone().unwrap_or_default();
        let ours = if self.cluster_id.is_empty() { &self.settings.cluster_id } else { &self.cluster_id };
        if !ours.is_empty() && !theirs.is_empty() && *ours != theirs {
            let words = format!("this agent belongs to cluster {ours}, the master to {theirs}");
            cx.report(Level::Warn, words.clone());
            self.hang_up(Some(Code::Cluster), words, cx);
            return;
        }
        if self.cluster_id.is_empty() {
            self.cluster_id = theirs;
        }
        self.link = Link::Registering(conn.clone());
        let register = self.register_message();
        cx.send(Say::Register(register));
    }

    fn dismissed(&mut self, goodbye: &internal::Goodbye, cx: &mut Cx<'_>) {
        let words = goodbye.message.clone().unwrap_or_default();
        match goodbye.code() {
            Code::Gone => {
                cx.report(Level::Warn, format!("The master says that this agent is gone for good: {words}"));
                self.shutdown_agent(words, cx);
            }
            code => {
                self.hang_up(None, format!("the master said goodbye ({}): {words}", code.as_str_name()), cx)
            }
        }
    }

    /// Everything this agent has.
    fn register_message(&self) -> internal::Register {
        let used = |id: &str| {
            self.tasks.iter().any(|(key, task)| key.framework == id && !task.volatile)
                || self.executors.keys().any(|key| key.framework == id)
        };
        let frameworks =
            self.frameworks.iter().filter(|(id, _)| used(id)).map(|(_, framework)| framework.info.clone());
        let live = || self.tasks.iter().filter(|(_, task)| !task.volatile);
        internal::Register {
            agent_info: self.agent_info(),
            agent_id: (!self.agent_id.is_empty()).then(|| self.agent_id.as_str().into()),
            version: self.settings.version.clone(),
            capabilities: capabilities(),
            frameworks: frameworks.collect(),
            executors: self.executors.iter().map(|(key, executor)| executor.for_register(key)).collect(),
            tasks: live().map(|(key, task)| view::to_task(&self.agent_id, key, task)).collect(),
            pending_updates: live().flat_map(|(key, task)| updates::pending_updates(key, task)).collect(),
            highest_term: Some(self.term),
            boot_id: Some(self.settings.boot_id.clone()),
            checkpointed_resources: self.operations.total.to_mesos(),
            operations: self.operations.pending(),
            url: Some(self.settings.url.clone()),
            draining: self.draining.map(|draining| draining.config()),
            overlay: self.settings.overlay.clone(),
        }
    }

    /// This agent as offers show it.
    pub(super) fn agent_info(&self) -> AgentInfo {
        AgentInfo {
            hostname: self.settings.hostname.clone(),
            resources: self.settings.resources.clone(),
            attributes: self.settings.attributes.clone(),
            id: (!self.agent_id.is_empty()).then(|| self.agent_id.as_str().into()),
            port: Some(i32::from(self.settings.port)),
            domain: self.settings.domain.clone(),
        }
    }

    fn registered(
        &mut self,
        agent_id: &str,
        interval: Option<u64>,
        frameworks: Vec<FrameworkInfo>,
        cx: &mut Cx<'_>,
    ) {
        let Link::Registering(conn) = &self.link else { return };
        let mut conn = conn.clone();
        if !self.agent_id.is_empty() && self.agent_id != agent_id {
            self.become_another(agent_id, cx);
        }
        if let Err(words) = wire::check_id("agent", agent_id) {
            self.hang_up(Some(Code::Protocol), words, cx);
            return;
        }
        if let Some(interval) = interval.filter(|interval| *interval > 0) {
            conn.silence = Millis(interval.saturating_mul(MISSED));
            self.mark(Millis(conn.last_heard.0.saturating_add(conn.silence.0)), Mark::Master);
        }
        if self.agent_id != agent_id || !self.identity_durable {
            self.identity_durable = false;
            self.agent_id = agent_id.to_owned();
            let record = AgentRecord {
                agent_id: agent_id.to_owned(),
                cluster_id: self.cluster_id.clone(),
                hostname: self.settings.hostname.clone(),
            };
            let token = self.token(Waiting::Link { conn: conn.id, term: self.term });
            let writes = vec![records::put("agent".to_owned(), &record)];
            cx.out.push(Effect::Checkpoint { token, writes });
            conn.held = Some(Vec::new());
        }
        cx.report(Level::Info, format!("Registered as {agent_id} in term {}", self.term));
        self.link = Link::Up(conn);
        for info in frameworks {
            self.update_framework(info, cx);
        }
        self.resend_all(cx);
        self.resend_operations(cx);
    }

    /// The master does not know the old identity any more: what ran under it is nobody's.
    fn become_another(&mut self, agent_id: &str, cx: &mut Cx<'_>) {
        let old = std::mem::take(&mut self.agent_id);
        cx.report(
            Level::Warn,
            format!(
                "The master gave a new identity, {agent_id}; everything of the old one, {old}, is killed"
            ),
        );
        self.abandon_everything(cx);
    }

    /// Says what is known about tasks that the master asks for.
    fn reconcile(&mut self, which: &internal::ReconcileTasks, cx: &mut Cx<'_>) {
        for task_id in &which.task_ids {
            let key = TaskKey { framework: which.framework_id.value.clone(), task: task_id.value.clone() };
            if let Some(status) = self.last_status(&key, cx) {
                let executor = status.executor_id.clone().map_or_else(String::new, |id| id.value);
                let state = status.state();
                cx.send(Say::StatusUpdate(updates::status_update(&key, &executor, status, state)));
                continue;
            }
            let known = self.frameworks.get(&key.framework).map(|framework| &framework.info);
            let state = lost_or(which.framework_info.as_ref().or(known), TaskState::TaskDropped);
            let words = "The task is not known to this agent";
            self.say_of_unknown(&key, News::agent(state, Reason::Reconciliation, words), cx);
        }
    }

    /// The newest status of a task, alive or remembered, without an id: nobody need acknowledge it.
    fn last_status(&self, key: &TaskKey, cx: &Cx<'_>) -> Option<plenum_api::mesos::TaskStatus> {
        let mut status = match self.tasks.get(key) {
            Some(task) => task.latest.clone().unwrap_or_else(|| {
                self.make_status(key, News::agent(TaskState::TaskStaging, Reason::Reconciliation, ""), cx)
            }),
            None => self.tombstones.get(key)?.task.statuses.last()?.clone(),
        };
        status.uuid = None;
        status.set_reason(Reason::Reconciliation);
        status.message = Some("Reconciliation: latest state known to the agent".to_owned());
        Some(status)
    }

    fn update_framework(&mut self, info: FrameworkInfo, cx: &mut Cx<'_>) {
        let id = wire::framework_id(&info).to_owned();
        if let Some(framework) = self.frameworks.get_mut(&id)
            && framework.info != info
        {
            framework.info = info;
            cx.save_frameworks.insert(id);
        }
    }
}

fn capabilities() -> Vec<agent_info::Capability> {
    [
        Capability::MultiRole,
        Capability::HierarchicalRole,
        Capability::ReservationRefinement,
        Capability::AgentOperationFeedback,
        Capability::ResizeVolume,
        Capability::AgentDraining,
        Capability::TaskResourceLimits,
    ]
    .into_iter()
    .map(|kind| agent_info::Capability { r#type: Some(kind as i32) })
    .collect()
}

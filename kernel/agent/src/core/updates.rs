//! Status update streams: one per task, in order, written down before they are sent, sent again until acknowledged.

use bytes::Bytes;
use plenum_api::Millis;
use plenum_api::internal::{self, agent_message::Kind};
use plenum_api::mesos::{TaskState, TaskStatus};

use super::event::{Effect, Level, TaskKey};
use super::model::{Mark, Pending, Phase, Stream, Task};
use super::register::Link;
use super::{Agent, Cx, Waiting, wire};

/// Wait before a failed write is tried again.
const REWRITE: Millis = Millis(5_000);
/// Acknowledgements are written down together, after this wait.
const FLUSH: Millis = Millis(1_000);
/// How often a last word of a torn-down framework is said before the agent moves on; the next registration tells it anyway.
const TEARDOWN_ATTEMPTS: u32 = 4;
/// Acknowledged executor updates that are recognised when they are repeated.
const KNOWN_UUIDS: usize = 32;

impl Agent {
    /// Appends an update to its task's stream. It is sent when its record is on the disk.
    pub(super) fn forward(&mut self, key: &TaskKey, mut status: TaskStatus, cx: &mut Cx<'_>) {
        self.drained_status(&key.framework, &mut status);
        let Some(task) = self.tasks.get_mut(key) else { return };
        if status.uuid.as_ref().is_none_or(|uuid| uuid.len() != 16) {
            status.uuid = Some(Bytes::copy_from_slice(&cx.ids.uuid()));
        }
        task.revision += 1;
        let revision = task.revision;
        let state = status.state();
        let ended = wire::terminal(state);
        task.latest = Some(status.clone());
        task.stream.pending.push_back(Pending { status, revision });
        if ended {
            task.phase = Phase::Ended;
            task.finished_at = cx.now.wall;
            task.checks.clear();
            task.completes_by = None;
        }
        if task.volatile {
            task.durable_revision = revision;
            self.pump(key, cx);
        } else {
            cx.save.insert(key.clone());
        }
        if ended {
            self.group_fell(key, state, cx);
        }
    }

    /// A checkpoint came back.
    pub(super) fn checkpointed(&mut self, token: u64, result: Result<(), String>, cx: &mut Cx<'_>) {
        match self.waiting.remove(&token) {
            Some(Waiting::Link { conn, term }) => self.link_written(conn, term, result, cx),
            Some(Waiting::Operation) => self.operation_step(token, result, cx),
            Some(Waiting::Tasks { tasks, executors, frameworks }) => {
                if result.is_ok() {
                    for id in frameworks {
                        if let Some(framework) = self.frameworks.get_mut(&id) {
                            framework.durable = true;
                        }
                    }
                    for key in executors {
                        self.executor_written(&key, cx);
                    }
                    for (key, revision) in tasks {
                        self.task_written(&key, revision, cx);
                    }
                } else if let Err(error) = result {
                    cx.report(Level::Warn, format!("Records could not be written: {error}"));
                    for (key, _) in tasks {
                        self.task_not_written(&key, &error, cx);
                    }
                    for key in executors {
                        self.executor_not_written(&key, &error, cx);
                    }
                }
            }
            None => {}
        }
    }

    fn task_written(&mut self, key: &TaskKey, revision: u64, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.durable_revision = task.durable_revision.max(revision);
        let fresh = task.phase == Phase::Intent;
        if fresh {
            self.intent_written(key, cx);
        }
        self.acknowledge_to_executor(key, cx);
        self.release(key, cx);
        self.pump(key, cx);
        if let Some(pod) = self.pod_of(key) {
            self.pod_idle(&pod, cx);
        }
    }

    /// The end is on the disk: what the runtime remembers is no longer needed.
    fn release(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let ended = task.phase == Phase::Ended && task.durable_revision >= task.revision;
        if ended && !task.released && task.ours() && !task.container.is_empty() {
            task.released = true;
            let container = task.container.clone();
            self.containers.remove(&container);
            cx.out.push(Effect::Release { container });
        }
    }

    fn task_not_written(&mut self, key: &TaskKey, error: &str, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.phase == Phase::Intent {
            self.intent_refused(key, error, cx);
            return;
        }
        let at = cx.after(REWRITE);
        task.rewrite_at = Some(at);
        self.mark(at, Mark::Task(key.clone()));
    }

    pub(super) fn rewrite_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.rewrite_at.is_some_and(|at| at <= cx.now.mono) {
            task.rewrite_at = None;
            cx.save.insert(key.clone());
        }
    }

    /// Sends the oldest update if it may be sent and was not, or is due again.
    pub(super) fn pump(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        let (min, max) = (self.settings.retry_min, self.settings.retry_max);
        let Some(task) = self.tasks.get_mut(key) else { return };
        let latest = task.state();
        let durable = task.durable_revision;
        let executor = task.executor_id().to_owned();
        let stream = &mut task.stream;
        let Some(first) = stream.pending.front() else { return };
        if first.revision > durable || stream.retry_at.is_some_and(|at| at > cx.now.mono) {
            return;
        }
        stream.backoff = if stream.attempts == 0 { min } else { (stream.backoff + stream.backoff).min(max) };
        stream.attempts = stream.attempts.saturating_add(1);
        let at = cx.after(stream.backoff);
        stream.retry_at = Some(at);
        let update = status_update(key, &executor, first.status.clone(), latest);
        self.mark(at, Mark::Task(key.clone()));
        #[cfg(feature = "deliberate-bugs")]
        let forgotten =
            self.settings.deliberate_lost_acknowledgement.then(|| update.status.uuid.clone()).flatten();
        cx.send(Kind::StatusUpdate(update));
        #[cfg(feature = "deliberate-bugs")]
        if let Some(uuid) = forgotten {
            self.acknowledged(key, &uuid, cx);
        }
    }

    pub(super) fn retry_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let gone = self.frameworks.get(&key.framework).is_none_or(|framework| framework.terminating);
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.stream.retry_at.is_none_or(|at| at > cx.now.mono) {
            return;
        }
        let tired = gone && task.phase == Phase::Ended && task.stream.attempts >= TEARDOWN_ATTEMPTS;
        if tired && matches!(self.link, Link::Up(_)) {
            task.stream.pending.clear();
            self.conclude(key, cx);
            return;
        }
        if matches!(self.link, Link::Up(_)) {
            self.pump(key, cx);
        } else {
            task.stream.retry_at = None;
        }
    }

    /// The framework has the update with this id.
    pub(super) fn acknowledged(&mut self, key: &TaskKey, uuid: &[u8], cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let first = task.stream.pending.front();
        let fits = first.is_some_and(|first| first.status.uuid.as_deref() == Some(uuid));
        if !fits {
            return;
        }
        task.stream.pending.pop_front();
        task.stream.retry_at = None;
        task.stream.attempts = 0;
        task.revision += 1;
        if task.phase == Phase::Ended && task.stream.pending.is_empty() {
            self.conclude(key, cx);
            return;
        }
        if !task.volatile {
            // The next update waits until the disk knows of this acknowledgement: after a restart the framework would otherwise be told
            // the older state again, behind the newer one.
            let revision = task.revision;
            match task.stream.pending.front_mut() {
                Some(next) => {
                    next.revision = revision;
                    cx.save.insert(key.clone());
                }
                None => self.save_lazily(key, cx),
            }
        } else {
            self.pump(key, cx);
        }
    }

    pub(super) fn save_lazily(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        self.lazy.insert(key.clone());
        if self.flush_at.is_none() {
            let at = cx.after(FLUSH);
            self.flush_at = Some(at);
            self.mark(at, Mark::Flush);
        }
    }

    pub(super) fn flush_due(&mut self, cx: &mut Cx<'_>) {
        if self.flush_at.is_some_and(|at| at <= cx.now.mono) {
            self.flush_at = None;
            for key in std::mem::take(&mut self.lazy) {
                if self.tasks.contains_key(&key) {
                    cx.save.insert(key);
                } else if let Some(write) = self.tombstone_record(&key) {
                    cx.writes.push(write);
                }
            }
        }
    }

    /// Every stream starts anew: a (new) master listens.
    pub(super) fn resend_all(&mut self, cx: &mut Cx<'_>) {
        let keys: Vec<TaskKey> = self
            .tasks
            .iter()
            .filter(|(_, task)| !task.stream.pending.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if let Some(task) = self.tasks.get_mut(&key) {
                task.stream.retry_at = None;
                task.stream.attempts = 0;
            }
            self.pump(&key, cx);
        }
    }

    /// Tells a custom executor which of its updates are safe now.
    fn acknowledge_to_executor(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get(key) else { return };
        let Some(executor) = task.executor.clone() else { return };
        let durable = task.durable_revision;
        let safe: Vec<Bytes> = task
            .stream
            .pending
            .iter()
            .filter(|pending| pending.revision <= durable)
            .filter_map(|pending| pending.status.uuid.clone())
            .filter(|uuid| task.unconfirmed.contains(uuid))
            .collect();
        for uuid in safe {
            if let Some(task) = self.tasks.get_mut(key) {
                task.unconfirmed.retain(|known| *known != uuid);
            }
            self.confirm_update(key, &executor, uuid, cx);
        }
    }

    /// Remembers an update id of an executor; false when it was known.
    pub(super) fn remember_uuid(task: &mut Task, uuid: &Bytes) -> bool {
        if task.known_uuids.contains(uuid) {
            return false;
        }
        task.known_uuids.push_back(uuid.clone());
        while task.known_uuids.len() > KNOWN_UUIDS {
            task.known_uuids.pop_front();
        }
        true
    }
}

/// An update for the wire.
pub(crate) fn status_update(
    key: &TaskKey,
    executor: &str,
    status: TaskStatus,
    latest: TaskState,
) -> internal::StatusUpdate {
    let mut update = internal::StatusUpdate {
        framework_id: key.framework.as_str().into(),
        status,
        executor_id: Some(executor.into()),
        ..Default::default()
    };
    update.set_latest_state(latest);
    update
}

/// All that is pending of a stream, for a registration.
pub(crate) fn pending_updates(key: &TaskKey, task: &Task) -> Vec<internal::StatusUpdate> {
    let Stream { pending, .. } = &task.stream;
    let one =
        |pending: &Pending| status_update(key, task.executor_id(), pending.status.clone(), task.state());
    pending.iter().filter(|pending| pending.revision <= task.durable_revision).map(one).collect()
}

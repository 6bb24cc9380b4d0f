//! RESERVE, UNRESERVE, CREATE, DESTROY and the resizing of volumes: what they make of the configured resources, written down before it is
//! said, and said until somebody takes note.
//!
//! One operation is under way at a time, and what the master says after it waits for it: a task that is launched on a volume finds it.
//! Making: folders, then the record. Destroying: the record, then folders. A restart after the record does the rest.

use std::collections::{BTreeSet, VecDeque};

use plenum_api::Millis;
use plenum_api::internal::{self, agent_message::Kind as Say};
use plenum_api::mesos::offer::operation::Type;
use plenum_api::mesos::resource::disk_info::source::Type as Source;
use plenum_api::mesos::{self, ExecutorInfo, OperationState, OperationStatus, Resource, TaskInfo};
use plenum_api::resources::{Item, Resources, unallocated};

use super::event::{Effect, Level, RecordWrite, TaskKey};
use super::model::{Mark, Phase};
use super::records::{self, OperationRecord, RECORD, ResourcesRecord};
use super::register::Link;
use super::{Agent, Cx, Waiting, wire};

/// Operations that are remembered after somebody took note: a repeated order gets the same answer.
const REMEMBERED: usize = 64;

/// Everything about operations.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// What the agent has: as configured, and what operations made of it.
    pub total: Resources,
    /// Carried out or refused, oldest first.
    known: VecDeque<Known>,
    busy: Option<Busy>,
    /// The master may believe what did not happen: after each operation it is told what there is.
    resync: bool,
}

/// An operation that is through.
#[derive(Debug)]
struct Known {
    /// With its last status.
    operation: mesos::Operation,
    acknowledged: bool,
    attempts: u32,
    backoff: Millis,
    retry_at: Option<Millis>,
}

/// What the disk is working on.
#[derive(Debug)]
struct Busy {
    /// Comes back.
    token: u64,
    step: Step,
    /// Absent while a restart looks after the folders.
    under_way: Option<UnderWay>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Folders are made.
    Make,
    /// The record is written.
    Record,
    /// Folders are taken away.
    Remove,
    /// The record of a failure is written.
    Sorry,
}

#[derive(Debug)]
struct UnderWay {
    operation: mesos::Operation,
    /// What the agent has once it is through.
    after: Resources,
    /// Volumes that go.
    remove: Vec<Resource>,
}

impl Operations {
    /// Before anything is known but the configuration.
    pub fn new(configured: &[Resource]) -> Self {
        // They were read by the same rules.
        Self { total: Resources::from_mesos(configured).unwrap_or_default(), ..Self::default() }
    }

    /// Whether the disk is working on something that what comes next has to wait for.
    pub fn busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Operations whose result nobody has taken note of.
    pub fn pending(&self) -> Vec<mesos::Operation> {
        let pending = self.known.iter().filter(|known| !known.acknowledged);
        pending.map(|known| known.operation.clone()).collect()
    }

    fn record(&self, total: &Resources, newest: Option<&mesos::Operation>) -> RecordWrite {
        let one = |operation: &mesos::Operation, acknowledged| OperationRecord {
            operation: Some(operation.clone()),
            acknowledged,
        };
        let known = self.known.iter().map(|known| one(&known.operation, known.acknowledged));
        let record = ResourcesRecord {
            resources: total.made_by_operations().to_mesos(),
            operations: known.chain(newest.map(|newest| one(newest, false))).collect(),
        };
        records::put(RECORD.to_owned(), &record)
    }

    fn forget_old(&mut self) {
        let acknowledged = |known: &&Known| known.acknowledged;
        let mut over = self.known.iter().filter(acknowledged).count().saturating_sub(REMEMBERED);
        self.known.retain(|known| {
            let goes = over > 0 && known.acknowledged;
            over -= usize::from(goes);
            !goes
        });
    }
}

/// Checks that the resources of a configuration still hold what operations made of them, for a start that must not lose any of it.
///
/// # Errors
/// A sentence that says what to do.
pub fn check_resources(configured: &[Resource], records: &[(String, Vec<u8>)]) -> Result<(), String> {
    let Some((_, body)) = records.iter().find(|(key, _)| key == RECORD) else { return Ok(()) };
    let record: ResourcesRecord = records::open(body).map_err(|error| {
        format!(
            "the record of reservations and volumes, meta/{RECORD}, cannot be used: {error}; restore it, or delete it to give them up \
             (what is in the volumes stays on the disk)"
        )
    })?;
    restored(configured, &record).map(|_| ())
}

fn restored(configured: &[Resource], record: &ResourcesRecord) -> Result<Resources, String> {
    let error = |error: plenum_api::resources::ResourceError| error.to_string();
    let configured = Resources::from_mesos(configured).map_err(error)?;
    let made = Resources::from_mesos(&record.resources).map_err(error)?;
    configured.with_made(&made).map_err(|_| {
        format!(
            "the agent has reservations and volumes ({made}) that its resources ({configured}) do not hold any more; configure at least \
             as much as before, or delete meta/{RECORD} in the working folder to give them up (what is in the volumes stays on the disk)"
        )
    })
}

impl Agent {
    /// The master orders an operation.
    pub(super) fn apply_operation(&mut self, apply: internal::ApplyOperation, cx: &mut Cx<'_>) {
        let mut operation = apply.operation;
        let uuid = operation.uuid.value.clone();
        if let Some(known) = self.operations.known.iter_mut().find(|known| known.operation.uuid.value == uuid)
        {
            (known.acknowledged, known.attempts, known.retry_at) = (false, 0, None);
            self.pump_operations(cx);
            return;
        }
        operation.framework_id = apply.framework_id.or(operation.framework_id);
        operation.agent_id = Some(self.agent_id.as_str().into());
        let judged = self.judge(&operation.info);
        let mut status = OperationStatus {
            operation_id: operation.info.id.clone(),
            uuid: Some(cx.ids.uuid().into()),
            agent_id: operation.agent_id.clone(),
            ..Default::default()
        };
        status.set_state(OperationState::OperationFinished);
        operation.latest_status = status;
        let (before, after) = match judged {
            Ok(after) => (self.operations.total.clone(), after),
            Err(words) => {
                let after = self.operations.total.clone();
                self.failed(UnderWay { operation, after, remove: Vec::new() }, words, cx);
                return;
            }
        };
        let make = volumes_missing_in(&before, &after);
        let remove = volumes_missing_in(&after, &before);
        let under_way = UnderWay { operation, after, remove };
        if make.is_empty() {
            self.write_operation(under_way, Step::Record, cx);
        } else {
            let token = self.token(Waiting::Operation);
            cx.out.push(Effect::Volumes { token, make, remove: Vec::new() });
            self.busy_with(token, Step::Make, Some(under_way));
        }
    }

    fn busy_with(&mut self, token: u64, step: Step, under_way: Option<UnderWay>) {
        self.operations.busy = Some(Busy { token, step, under_way });
        self.hold_frames();
    }

    fn write_operation(&mut self, under_way: UnderWay, step: Step, cx: &mut Cx<'_>) {
        let token = self.token(Waiting::Operation);
        let writes = vec![self.operations.record(&under_way.after, Some(&under_way.operation))];
        cx.out.push(Effect::Checkpoint { token, writes });
        self.busy_with(token, step, Some(under_way));
    }

    /// It was not carried out: that is written down and said.
    fn failed(&mut self, mut under_way: UnderWay, words: String, cx: &mut Cx<'_>) {
        cx.report(Level::Warn, format!("An operation on resources is refused: {words}"));
        under_way.operation.latest_status.set_state(OperationState::OperationFailed);
        under_way.operation.latest_status.message = Some(words);
        under_way.after = self.operations.total.clone();
        self.operations.resync = true;
        self.write_operation(under_way, Step::Sorry, cx);
    }

    /// The disk is through with a step.
    pub(super) fn operation_step(&mut self, token: u64, result: Result<(), String>, cx: &mut Cx<'_>) {
        if self.operations.busy.as_ref().is_none_or(|busy| busy.token != token) {
            return;
        }
        let Some(Busy { step, under_way, .. }) = self.operations.busy.take() else { return };
        let Some(mut under_way) = under_way else {
            if let Err(error) = result {
                cx.report(Level::Warn, format!("Persistent volumes are not as they should be: {error}"));
            }
            self.release_frames(cx);
            return;
        };
        match (step, result) {
            (Step::Make, Ok(())) => self.write_operation(under_way, Step::Record, cx),
            (Step::Record, Ok(())) if !under_way.remove.is_empty() => {
                let token = self.token(Waiting::Operation);
                let remove = under_way.remove.clone();
                cx.out.push(Effect::Volumes { token, make: Vec::new(), remove });
                self.busy_with(token, Step::Remove, Some(under_way));
            }
            (Step::Record | Step::Remove | Step::Sorry, Ok(())) => self.operation_done(under_way, cx),
            (Step::Make | Step::Remove, Err(error)) => self.failed(under_way, error, cx),
            (Step::Record | Step::Sorry, Err(error)) => {
                // Nothing changed on the disk. It is said all the same: that the disk is full helps more than silence.
                under_way.after = self.operations.total.clone();
                self.operations.resync = true;
                let status = &mut under_way.operation.latest_status;
                if status.state() != OperationState::OperationFailed {
                    status.set_state(OperationState::OperationFailed);
                    status.message = Some(format!("The agent cannot write the operation down: {error}"));
                }
                self.operation_done(under_way, cx);
            }
        }
    }

    fn operation_done(&mut self, under_way: UnderWay, cx: &mut Cx<'_>) {
        let UnderWay { operation, after, .. } = under_way;
        self.operations.total = after;
        let (attempts, backoff) = (0, self.settings.retry_min);
        self.operations.known.push_back(Known {
            operation,
            acknowledged: false,
            attempts,
            backoff,
            retry_at: None,
        });
        if self.operations.resync && matches!(self.link, Link::Up(_)) {
            let total = self.operations.total.to_mesos();
            cx.send(Say::ResourcesChanged(internal::ResourcesChanged { total }));
        }
        self.pump_operations(cx);
        self.release_frames(cx);
    }

    /// What the agent has once the operation is through, or why it cannot be.
    fn judge(&self, info: &mesos::offer::Operation) -> Result<Resources, String> {
        let known = [
            Type::Reserve,
            Type::Unreserve,
            Type::Create,
            Type::Destroy,
            Type::GrowVolume,
            Type::ShrinkVolume,
        ];
        if !known.contains(&info.r#type()) {
            return Err(format!("This agent does not carry out {}", info.r#type().as_str_name()));
        }
        let info = unallocated(info);
        let total = &self.operations.total;
        let needs = Resources::used_up_by(&info).map_err(|error| error.to_string())?;
        let used = self.resources_in_use();
        let free = total - &used.filter(|item| !item.is_shared());
        let shared_in_use = needs.iter().any(|item| item.is_shared() && used.contains_item(item));
        if total.contains(&needs) && (shared_in_use || !free.contains(&needs)) {
            return Err(format!("{needs} is in use by a task of this agent"));
        }
        let after = total.apply(&info).map_err(|error| error.to_string())?;
        if info.r#type() == Type::Create {
            check_volumes(&after)?;
        }
        Ok(after)
    }

    /// What tasks and executors hold that have not ended.
    fn resources_in_use(&self) -> Resources {
        let live = self.tasks.values().filter(|task| task.phase != Phase::Ended && !task.volatile);
        let tasks = live.flat_map(|task| &task.info.resources);
        let executors = self.executors.values().flat_map(|executor| &executor.info.resources);
        // One by one: what makes no sense hides nothing else.
        let mut used = Resources::new();
        for resource in tasks.chain(executors) {
            used += Resources::from_mesos([resource]).unwrap_or_default();
        }
        used.unallocate()
    }

    /// Persistent volumes of the pod that a task is part of.
    pub(super) fn volumes_of_pod(&self, key: &TaskKey) -> Vec<Resource> {
        let Some(pod) = self.pod_of(key) else { return Vec::new() };
        let own = self.executors.get(&pod).into_iter().flat_map(|executor| &executor.info.resources);
        let tasks = self.tasks.iter().filter(|(one, task)| {
            one.framework == pod.framework && task.pod && task.executor.as_ref() == Some(&pod.executor)
        });
        let all = own.chain(tasks.flat_map(|(_, task)| &task.info.resources));
        all.filter(|one| one.disk.as_ref().is_some_and(|disk| disk.persistence.is_some())).cloned().collect()
    }

    /// The persistent volume that a task wants and this agent does not have, in words.
    pub(super) fn missing_volume(&self, info: &TaskInfo, executor: Option<&ExecutorInfo>) -> Option<String> {
        let wire = info.resources.iter().chain(executor.into_iter().flat_map(|one| &one.resources));
        let volumes: Vec<&Resource> =
            wire.filter(|one| one.disk.as_ref().is_some_and(|disk| disk.persistence.is_some())).collect();
        if volumes.is_empty() {
            return None;
        }
        let volumes = match Resources::from_mesos(volumes) {
            Ok(volumes) => volumes.unallocate(),
            Err(error) => return Some(format!("The task's volumes make no sense: {error}")),
        };
        let missing = volumes.iter().find(|volume| !self.operations.total.contains_item(volume))?;
        Some(format!("The persistent volume {missing} does not exist on this agent"))
    }

    /// Somebody took note of a result.
    pub(super) fn operation_acknowledged(
        &mut self,
        acknowledge: &internal::AcknowledgeOperation,
        cx: &mut Cx<'_>,
    ) {
        let status = &acknowledge.status_uuid;
        let known = self.operations.known.iter_mut();
        let Some(known) =
            known.into_iter().find(|known| known.operation.latest_status.uuid.as_ref() == Some(status))
        else {
            return;
        };
        if known.acknowledged {
            return;
        }
        (known.acknowledged, known.retry_at) = (true, None);
        self.operations.forget_old();
        // At once, not with the other records: an operation that follows in the same frame writes the same record.
        let writes = vec![self.operations.record(&self.operations.total, None)];
        let (tasks, executors, frameworks) = Default::default();
        let token = self.token(Waiting::Tasks { tasks, executors, frameworks });
        cx.out.push(Effect::Checkpoint { token, writes });
    }

    /// Says results that nobody has taken note of, if they are due.
    pub(super) fn pump_operations(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        let (min, max) = (self.settings.retry_min, self.settings.retry_max);
        let now = cx.now.mono;
        let mut next: Option<Millis> = None;
        let mut due = Vec::new();
        for known in self.operations.known.iter_mut().filter(|known| !known.acknowledged) {
            if known.retry_at.is_none_or(|at| at <= now) {
                known.backoff =
                    if known.attempts == 0 { min } else { (known.backoff + known.backoff).min(max) };
                known.attempts = known.attempts.saturating_add(1);
                known.retry_at = Some(cx.after(known.backoff));
                due.push(known.operation.clone());
            }
            next = next.into_iter().chain(known.retry_at).min();
        }
        for operation in due {
            cx.send(Say::OperationUpdate(internal::OperationUpdate {
                framework_id: operation.framework_id,
                status: operation.latest_status.clone(),
                latest_status: Some(operation.latest_status),
                operation_uuid: operation.uuid,
            }));
        }
        if let Some(at) = next {
            self.mark(at, Mark::Operations);
        }
    }

    /// A (new) master listens, and was told what there is.
    pub(super) fn resend_operations(&mut self, cx: &mut Cx<'_>) {
        self.operations.resync = false;
        for known in &mut self.operations.known {
            (known.attempts, known.retry_at) = (0, None);
        }
        self.pump_operations(cx);
    }

    /// The record of a start.
    pub(super) fn read_resources(&mut self, record: ResourcesRecord, cx: &mut Cx<'_>) {
        match restored(&self.settings.resources, &record) {
            Ok(total) => self.operations.total = total,
            Err(reason) => {
                // Looked at before the start; should it come this far, nothing is given away that somebody has reserved.
                self.stopping = true;
                cx.out.push(Effect::Stop { reason });
                return;
            }
        }
        for OperationRecord { operation, acknowledged } in record.operations {
            let Some(operation) = operation else { continue };
            let (attempts, backoff) = (0, self.settings.retry_min);
            let known = Known { operation, acknowledged, attempts, backoff, retry_at: None };
            self.operations.known.push_back(known);
        }
    }

    /// Folders as the record wants them: the agent may have ended between the two.
    pub(super) fn recover_volumes(&mut self, cx: &mut Cx<'_>) {
        if self.stopping {
            return;
        }
        let make = volumes_missing_in(&Resources::new(), &self.operations.total);
        // Only the newest can be half done.
        let newest = self.operations.known.back().map(|known| &known.operation);
        let destroyed = newest
            .filter(|operation| operation.latest_status.state() == OperationState::OperationFinished)
            .map(|operation| unallocated(&operation.info))
            .and_then(|info| Resources::from_mesos(&info.destroy?.volumes).ok())
            .unwrap_or_default();
        let remove = volumes_missing_in(&self.operations.total, &destroyed);
        if make.is_empty() && remove.is_empty() {
            return;
        }
        let token = self.token(Waiting::Operation);
        cx.out.push(Effect::Volumes { token, make, remove });
        self.busy_with(token, Step::Remove, None);
    }
}

/// What names a volume on an agent.
fn name(item: &Item) -> Option<(String, String)> {
    let id = item.meta()?.persistence_id()?;
    Some((item.reservation_role()?.to_owned(), id.to_owned()))
}

/// Volumes of `of` that `within` has not.
fn volumes_missing_in(within: &Resources, of: &Resources) -> Vec<Resource> {
    let there: BTreeSet<_> = within.iter().filter_map(name).collect();
    of.filter(|item| name(item).is_some_and(|name| !there.contains(&name))).to_mesos()
}

/// The rules for volumes that must hold whatever a master lets through, as their ids become folders.
fn check_volumes(total: &Resources) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for item in total.iter().filter(|item| item.is_persistent_volume()) {
        let Some(name) = name(item) else {
            return Err(format!("{item} is not reserved: a persistent volume is made of reserved disk"));
        };
        wire::check_id("persistence", &name.1)?;
        let disk = item.meta().and_then(|meta| meta.disk.as_ref());
        if let Some(source) = disk.and_then(|disk| disk.source.as_ref())
            && !matches!(source.r#type(), Source::Path | Source::Mount)
        {
            return Err(format!("{item}: this agent has no volumes of that kind of disk"));
        }
        if !seen.insert(name.clone()) {
            return Err(format!("role {} has a volume '{}' on this agent already", name.0, name.1));
        }
    }
    Ok(())
}

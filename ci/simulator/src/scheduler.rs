//! A framework: it launches tasks from offers, sometimes late or twice, kills some, acknowledges updates, falls silent and comes back.

use std::collections::BTreeMap;

use plenum_api::mesos::{
    CommandInfo, Filters, FrameworkId, FrameworkInfo, Offer, OperationStatus, TaskInfo, TaskState,
    TaskStatus, framework_info, offer,
};
use plenum_api::resources::Resources;
use plenum_api::scheduler::call::{self, Type as CallType};
use plenum_api::scheduler::event::Type;
use plenum_api::scheduler::{Call, Event};

use crate::check::{Violation, terminal};
use crate::random::Random;
use crate::world::{Happens, World};

/// One framework.
pub struct Framework {
    id: Option<String>,
    /// The stream it has, as far as it knows.
    pub stream: Option<u64>,
    failover_timeout: f64,
    partition_aware: bool,
    dead: bool,
    number: u64,
    tasks: BTreeMap<String, TaskState>,
    next: u64,
    wanted: u64,
}

impl Framework {
    /// A framework of some temper.
    pub fn new(random: &mut Random) -> Self {
        Self {
            id: None,
            stream: None,
            failover_timeout: if random.chance(850) { 86_400.0 } else { 5.0 },
            partition_aware: random.chance(500),
            dead: false,
            number: random.any(),
            tasks: BTreeMap::new(),
            next: 0,
            wanted: random.between(5, 60),
        }
    }

    /// Its id, while its tasks and updates are still its own.
    pub fn living(&self) -> Option<String> {
        self.id.clone().filter(|_| !self.dead && self.stream.is_some())
    }

    /// The call by which it subscribes; nothing once it is dead.
    pub fn subscribe(&self) -> Option<Call> {
        if self.dead {
            return None;
        }
        let id = self.id.as_deref().map(FrameworkId::from);
        let capabilities = if self.partition_aware {
            vec![framework_info::Capability {
                r#type: Some(framework_info::capability::Type::PartitionAware as i32),
            }]
        } else {
            Vec::new()
        };
        let info = FrameworkInfo {
            user: "root".to_owned(),
            name: format!("framework-{}", self.number),
            role: Some(self.role()),
            id: id.clone(),
            failover_timeout: Some(self.failover_timeout),
            checkpoint: Some(true),
            capabilities,
            ..Default::default()
        };
        let subscribe = call::Subscribe { framework_info: info, ..Default::default() };
        Some(Call { framework_id: id, subscribe: Some(subscribe), ..self.call(CallType::Subscribe) })
    }

    /// Two frameworks may share one.
    fn role(&self) -> String {
        format!("role-{}", self.number % 2)
    }

    fn call(&self, kind: CallType) -> Call {
        Call {
            r#type: Some(kind as i32),
            framework_id: self.id.as_deref().map(FrameworkId::from),
            ..Default::default()
        }
    }

    /// Tasks for an offer: as many as fit and are wanted.
    fn tasks_for(&mut self, offer: &Offer, random: &mut Random) -> Vec<TaskInfo> {
        let Ok(mut left) = Resources::from_mesos(&offer.resources) else { return Vec::new() };
        left = left.to_unreserved().unallocate();
        let mut tasks = Vec::new();
        while self.wanted > 0 && tasks.len() < 3 {
            let asked =
                Resources::cpus_mem(random.between(1, 20) as f64 / 10.0, random.between(1, 8) as f64 * 64.0);
            if !left.contains(&asked) {
                break;
            }
            left -= &asked;
            self.wanted -= 1;
            self.next += 1;
            let id = format!("task-{}-{}", self.number, self.next);
            self.tasks.insert(id.clone(), TaskState::TaskStaging);
            tasks.push(TaskInfo {
                name: id.clone(),
                task_id: id.as_str().into(),
                agent_id: offer.agent_id.clone(),
                resources: asked.to_mesos(),
                command: Some(CommandInfo { value: Some("true".to_owned()), ..Default::default() }),
                ..Default::default()
            });
        }
        tasks
    }

    fn accept(
        &self,
        offer: &Offer,
        mut operations: Vec<offer::Operation>,
        tasks: Vec<TaskInfo>,
        refuse: f64,
    ) -> Call {
        let launch = offer::operation::Launch { task_infos: tasks };
        let operation = offer::Operation {
            r#type: Some(offer::operation::Type::Launch as i32),
            launch: Some(launch),
            ..Default::default()
        };
        operations.push(operation);
        let accept = call::Accept {
            offer_ids: vec![offer.id.clone()],
            operations,
            filters: Some(Filters { refuse_seconds: Some(refuse) }),
        };
        Call { accept: Some(accept), ..self.call(CallType::Accept) }
    }

    fn decline(&self, offer: &Offer, refuse: f64) -> Call {
        let filters = Some(Filters { refuse_seconds: Some(refuse) });
        let decline = call::Decline { offer_ids: vec![offer.id.clone()], filters };
        Call { decline: Some(decline), ..self.call(CallType::Decline) }
    }

    fn acknowledge(&self, status: &TaskStatus) -> Option<Call> {
        let acknowledge = call::Acknowledge {
            agent_id: status.agent_id.clone()?,
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone()?,
        };
        Some(Call { acknowledge: Some(acknowledge), ..self.call(CallType::Acknowledge) })
    }
}

impl World {
    /// Whether the store says that a framework is removed.
    pub(crate) fn removed(&self, framework: &str) -> bool {
        self.frameworks.iter().any(|one| one.id.as_deref() == Some(framework) && one.dead)
            || self.store.removed(framework)
    }

    fn send(&mut self, framework: usize, call: Call) {
        if let Some(stream) = self.frameworks[framework].stream {
            self.soon(Happens::Call { framework, stream, call: Box::new(call) });
        }
    }

    /// A stream has ended: the framework comes back after a while.
    pub(crate) fn stream_ends(&mut self, framework: usize, stream: u64) {
        if self.frameworks[framework].stream == Some(stream) {
            self.frameworks[framework].stream = None;
            let away = self.random.between(10, 20_000);
            self.later(away, Happens::Subscribes { framework });
        }
    }

    pub(crate) fn at_framework(
        &mut self,
        framework: usize,
        stream: u64,
        event: Event,
    ) -> Result<(), Violation> {
        if self.frameworks[framework].stream != Some(stream) {
            return Ok(());
        }
        match event.r#type() {
            Type::Subscribed => {
                self.frameworks[framework].id =
                    event.subscribed.map(|subscribed| subscribed.framework_id.value);
            }
            Type::Offers => {
                for offer in event.offers.into_iter().flat_map(|offers| offers.offers) {
                    self.consider(framework, &offer);
                }
            }
            Type::Update => {
                if let Some(update) = event.update {
                    self.updated(framework, &update.status)?;
                }
            }
            Type::UpdateOperationStatus => {
                if let Some(update) = event.update_operation_status {
                    self.operation_updated(framework, &update.status)?;
                }
            }
            Type::Error => {
                self.frameworks[framework].dead = true;
                self.frameworks[framework].stream = None;
            }
            _ => {}
        }
        Ok(())
    }

    fn consider(&mut self, framework: usize, offer: &Offer) {
        let lazy = self.random.chance(100);
        let tasks = match lazy || !self.stormy() {
            true => Vec::new(),
            false => self.frameworks[framework].tasks_for(offer, &mut self.random),
        };
        let refuse = self.random.between(0, 20) as f64;
        if self.stormy()
            && self.random.chance(300)
            && let Some(call) = self.work_on_volumes(framework, offer, refuse)
        {
            self.send(framework, call);
            return;
        }
        let call = if tasks.is_empty() {
            self.frameworks[framework].decline(offer, refuse)
        } else {
            self.frameworks[framework].accept(offer, Vec::new(), tasks, refuse)
        };
        if self.random.chance(50) {
            // A client that got no answer says it again.
            self.send(framework, call.clone());
        }
        self.send(framework, call);
    }

    /// Reserves, creates, destroys, and starts tasks on volumes.
    fn work_on_volumes(&mut self, framework: usize, offer: &Offer, refuse: f64) -> Option<Call> {
        let offered = Resources::from_mesos(&offer.resources).ok()?.unallocate();
        let principal = format!("framework-{framework}");
        let this = &mut self.frameworks[framework];
        let plan = self.deeds.plan(&offered, (&this.role(), &principal), &mut self.random)?;
        let tasks = plan.task.map(|volume| {
            this.next += 1;
            let id = format!("task-{}-{}", this.number, this.next);
            this.tasks.insert(id.clone(), TaskState::TaskStaging);
            let mut resources = Resources::cpus_mem(0.1, 32.0).to_mesos();
            resources.push(volume);
            TaskInfo {
                name: id.clone(),
                task_id: id.as_str().into(),
                agent_id: offer.agent_id.clone(),
                resources,
                command: Some(CommandInfo { value: Some("true".to_owned()), ..Default::default() }),
                ..Default::default()
            }
        });
        Some(this.accept(offer, plan.operations, tasks.into_iter().collect(), refuse))
    }

    fn operation_updated(&mut self, framework: usize, status: &OperationStatus) -> Result<(), Violation> {
        self.deeds.told(status)?;
        if self.random.chance(950)
            && let (Some(uuid), Some(operation_id)) = (&status.uuid, &status.operation_id)
        {
            let acknowledge = call::AcknowledgeOperationStatus {
                agent_id: status.agent_id.clone(),
                uuid: uuid.value.clone(),
                operation_id: operation_id.clone(),
                ..Default::default()
            };
            let this = &self.frameworks[framework];
            let call = Call {
                acknowledge_operation_status: Some(acknowledge),
                ..this.call(CallType::AcknowledgeOperationStatus)
            };
            self.send(framework, call);
        }
        Ok(())
    }

    fn updated(&mut self, framework: usize, status: &TaskStatus) -> Result<(), Violation> {
        self.seen.told(status)?;
        let state = status.state();
        self.frameworks[framework].tasks.insert(status.task_id.value.clone(), state);
        // Now and then an acknowledgement is forgotten: the update comes again.
        if self.random.chance(950)
            && let Some(call) = self.frameworks[framework].acknowledge(status)
        {
            self.send(framework, call);
        }
        Ok(())
    }

    /// Kills something, revives, suppresses, reconciles, or leaves for good.
    pub(crate) fn whim(&mut self, framework: usize) {
        if !self.stormy() {
            return;
        }
        let pause = self.random.between(500, 15_000);
        self.later(pause, Happens::Whim { framework });
        let pick = self.random.any();
        let this = &self.frameworks[framework];
        if this.id.is_none() || this.stream.is_none() {
            return;
        }
        let call = match pick % 20 {
            0..=7 => {
                let live: Vec<&String> =
                    this.tasks.iter().filter(|(_, state)| !terminal(**state)).map(|(task, _)| task).collect();
                let Some(task) = live.get((pick / 20) as usize % live.len().max(1)) else { return };
                let kill = call::Kill { task_id: task.as_str().into(), ..Default::default() };
                Call { kill: Some(kill), ..this.call(CallType::Kill) }
            }
            8..=13 => this.call(CallType::Revive),
            14 => this.call(CallType::Suppress),
            15..=18 => Call { reconcile: Some(call::Reconcile::default()), ..this.call(CallType::Reconcile) },
            _ if pick % 200 == 19 => this.call(CallType::Teardown),
            _ => return,
        };
        if call.r#type() == CallType::Teardown {
            self.frameworks[framework].dead = true;
        }
        self.send(framework, call);
    }
}

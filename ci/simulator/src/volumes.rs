//! Reservations and persistent volumes: what frameworks and operators do to them, and what must hold of the data in them, whatever dies.

use std::collections::{BTreeMap, BTreeSet};

use plenum_agent::core::Event;
use plenum_api::master;
use plenum_api::mesos::offer::{Operation, operation};
use plenum_api::mesos::resource::DiskInfo;
use plenum_api::mesos::resource::disk_info::Persistence;
use plenum_api::mesos::{self, OperationState, OperationStatus, Resource, Volume};
use plenum_api::resources::{Amount, Item, Meta, Name, Reservation, Resources, Value};

use crate::check::Violation;
use crate::random::Random;
use crate::world::{Happens, World};

/// Every volume is so large (MiB).
const SIZE: f64 = 10.0;

/// What the outside knows of volumes and operations. Ids of volumes are used once in a world.
#[derive(Default)]
pub struct Deeds {
    next: u64,
    /// Tasks that have written into each volume, in order.
    written: BTreeMap<String, Vec<String>>,
    /// Volumes that somebody has ordered to be destroyed.
    doomed: BTreeSet<String>,
    /// What frameworks were told of operations: the agent's word, or that it was dropped.
    told: BTreeMap<String, OperationState>,
    /// Volumes that were made on a disk.
    pub made: u64,
    /// Volumes that were found again with data in them.
    pub found: u64,
}

/// The id of a volume.
fn id(resource: &Resource) -> Option<String> {
    Some(resource.disk.as_ref()?.persistence.as_ref()?.id.clone())
}

fn disk(reservations: Vec<Reservation>, volume: Option<(&str, &str)>) -> Resource {
    let disk = volume.map(|(id, principal)| DiskInfo {
        persistence: Some(Persistence { id: id.to_owned(), principal: Some(principal.to_owned()) }),
        volume: Some(Volume { container_path: "data".to_owned(), ..Default::default() }),
        source: None,
    });
    let meta = Meta { reservations, disk, ..Meta::default() };
    let item = Item::new(Name::DISK, Value::Scalar(Amount::from_f64(SIZE)), meta);
    [item].into_iter().collect::<Resources>().to_mesos().remove(0)
}

/// What a framework wants to do with an offer besides launching: operations, and resources for a task that uses them.
pub struct Plan {
    pub operations: Vec<Operation>,
    pub task: Option<Resource>,
}

impl Deeds {
    fn operation(&mut self, kind: operation::Type, random: &mut Random) -> Operation {
        self.next += 1;
        let mut made = Operation::default();
        made.set_type(kind);
        // Half of them ask for feedback.
        made.id = random.chance(500).then(|| format!("operation-{}", self.next).as_str().into());
        made
    }

    fn create(
        &mut self,
        stack: &[Reservation],
        principal: &str,
        random: &mut Random,
    ) -> (Operation, Resource) {
        let mut create = self.operation(operation::Type::Create, random);
        let volume = disk(stack.to_vec(), Some((&format!("volume-{}", self.next), principal)));
        create.create = Some(operation::Create { volumes: vec![volume.clone()] });
        (create, volume)
    }

    /// Something to do with what is offered to a role.
    pub fn plan(
        &mut self,
        offered: &Resources,
        (role, principal): (&str, &str),
        random: &mut Random,
    ) -> Option<Plan> {
        let disks = || offered.iter().filter(|item| *item.name() == Name::DISK);
        let large = |item: &&Item| item.amount().is_some_and(|amount| amount.as_f64() >= SIZE);
        if let Some(volume) = disks().find(|item| item.is_persistent_volume()) {
            let wire: Resource = [volume.clone()].into_iter().collect::<Resources>().to_mesos().remove(0);
            if random.chance(700) {
                return Some(Plan { operations: Vec::new(), task: Some(wire) });
            }
            self.doomed.extend(id(&wire));
            let mut destroy = self.operation(operation::Type::Destroy, random);
            destroy.destroy = Some(operation::Destroy { volumes: vec![wire] });
            return Some(Plan { operations: vec![destroy], task: None });
        }
        if let Some(reserved) = disks().filter(large).find(|item| !item.reservations().is_empty()) {
            if random.chance(700) {
                let (create, volume) = self.create(reserved.reservations(), principal, random);
                return Some(Plan { operations: vec![create], task: random.chance(700).then_some(volume) });
            }
            let mut undo = self.operation(operation::Type::Unreserve, random);
            let resources = vec![disk(reserved.reservations().to_vec(), None)];
            undo.unreserve = Some(operation::Unreserve { resources });
            return Some(Plan { operations: vec![undo], task: None });
        }
        disks().filter(large).find(|item| item.reservations().is_empty())?;
        let stack = vec![Reservation::dynamic(role, None)];
        let mut reserve = self.operation(operation::Type::Reserve, random);
        reserve.reserve =
            Some(operation::Reserve { resources: vec![disk(stack.clone(), None)], source: vec![] });
        let (create, volume) = self.create(&stack, principal, random);
        Some(Plan { operations: vec![reserve, create], task: random.chance(700).then_some(volume) })
    }

    /// A framework is told how an operation went. An agent's word and a dropped order contradict each other.
    pub fn told(&mut self, status: &OperationStatus) -> Result<(), Violation> {
        let dropped = status.state() == OperationState::OperationDropped;
        let Some(id) = status.operation_id.as_ref().filter(|_| status.uuid.is_some() || dropped) else {
            return Ok(());
        };
        match self.told.insert(id.value.clone(), status.state()) {
            Some(before) if before != status.state() => {
                Err(format!("operation {} was told {before:?}, then {:?}", id.value, status.state()))
            }
            _ => Ok(()),
        }
    }
}

impl World {
    /// An agent's disk is to change; it does now or when the agent is told, and not at all if the agent dies before.
    pub(crate) fn volumes_change(
        &mut self,
        agent: usize,
        token: u64,
        make: Vec<Resource>,
        remove: Vec<Resource>,
    ) -> Result<(), Violation> {
        let life = self.nodes[agent].life();
        let (make, remove) = if self.random.chance(500) {
            self.change_volumes(agent, &make, &remove)?;
            (Vec::new(), Vec::new())
        } else {
            (make, remove)
        };
        if self.stormy() && self.random.chance(100) {
            // In the middle of it: seldom by chance, and the worst moment.
            self.later(0, Happens::AgentDies { agent, life });
        }
        self.soon(Happens::VolumesDone { agent, life, token, make, remove });
        Ok(())
    }

    pub(crate) fn volumes_done(
        &mut self,
        agent: usize,
        life: u64,
        token: u64,
        change: (&[Resource], &[Resource]),
    ) -> Result<(), Violation> {
        if !self.nodes[agent].lives(life) {
            return Ok(());
        }
        self.change_volumes(agent, change.0, change.1)?;
        self.agent_feed(agent, Event::VolumesDone { token, result: Ok(()) })
    }

    fn change_volumes(
        &mut self,
        agent: usize,
        make: &[Resource],
        remove: &[Resource],
    ) -> Result<(), Violation> {
        for id in make.iter().filter_map(id) {
            let written = self.deeds.written.get(&id).cloned().unwrap_or_default();
            let data = self.nodes[agent].volumes.entry(id.clone()).or_insert_with(|| {
                self.deeds.made += 1;
                Vec::new()
            });
            if *data != written {
                return Err(format!("agent {agent} makes volume {id} anew: what {written:?} wrote is lost"));
            }
        }
        for id in remove.iter().filter_map(id) {
            if !self.deeds.doomed.contains(&id) {
                return Err(format!("agent {agent} removes volume {id}, and nobody has asked for it"));
            }
            self.nodes[agent].volumes.remove(&id);
        }
        Ok(())
    }

    /// A task starts and writes into its volumes.
    pub(crate) fn volumes_used(
        &mut self,
        agent: usize,
        task: &str,
        resources: &[Resource],
    ) -> Result<(), Violation> {
        for id in resources.iter().filter_map(id) {
            let written = self.deeds.written.entry(id.clone()).or_default();
            let Some(data) = self.nodes[agent].volumes.get_mut(&id) else {
                return Err(format!("task {task} starts on volume {id}, which agent {agent} does not have"));
            };
            if data != written {
                return Err(format!("task {task} finds {data:?} in volume {id}, where {written:?} wrote"));
            }
            self.deeds.found += u64::from(!data.is_empty());
            data.push(task.to_owned());
            written.push(task.to_owned());
        }
        Ok(())
    }

    /// Now and then the operator reserves something, or takes it back.
    pub(crate) fn operator_resources(&mut self, agent_id: mesos::AgentId) -> master::Call {
        use master::call::{ReserveResources, Type, UnreserveResources};
        let role = format!("role-{}", self.random.between(0, 2));
        let resources = vec![disk(vec![Reservation::dynamic(role, Some("operator".to_owned()))], None)];
        let mut asked = master::Call::default();
        if self.random.chance(600) {
            asked.set_type(Type::ReserveResources);
            asked.reserve_resources = Some(ReserveResources { agent_id, resources, source: vec![] });
        } else {
            asked.set_type(Type::UnreserveResources);
            asked.unreserve_resources = Some(UnreserveResources { agent_id, resources });
        }
        asked
    }

    /// After a long quiet time: master and agents agree about what there is, and so do the disks.
    pub(crate) fn volumes_settled(&mut self) -> Result<(), Violation> {
        let state = self.leading().and_then(|master| self.masters[master].state());
        for (agent, node) in self.nodes.iter().enumerate() {
            let Some((agent_id, total)) = node.total_now()? else { continue };
            if let Some(known) = state.as_ref().and_then(|s| s.agents.iter().find(|one| *one.id == *agent_id))
                && known.active()
                && *known.total != total
            {
                return Err(format!("agent {agent} has {total}, and the master believes {}", known.total));
            }
            let volumes: BTreeSet<String> =
                total.persistent_volumes().to_mesos().iter().filter_map(id).collect();
            if let Some(lost) = volumes.iter().find(|id| !node.volumes.contains_key(*id)) {
                return Err(format!("agent {agent} has volume {lost}, and its disk has not"));
            }
            let orphan = node.volumes.iter().find(|(id, data)| !data.is_empty() && !volumes.contains(*id));
            if let Some((id, data)) = orphan {
                return Err(format!("agent {agent} has forgotten volume {id} with what {data:?} wrote"));
            }
        }
        Ok(())
    }
}

//! ACCEPT: several offers of one agent become tasks, reservations, and a rest that goes back.
//!
//! Owns the order: offers are checked, taken, operations applied to what they held, the rest returned. Launching is in `launch`,
//! the other operations in `operations`.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_allocator::Holding;
use plenum_api::mesos::offer::{Operation, operation::Type};
use plenum_api::mesos::{self, TaskState, task_status::Reason};
use plenum_api::resources::Resources;
use plenum_api::scheduler::call;

use super::offers::refuse_for;
use super::state::{AgentKey, FrameworkKey, Offer};
use super::status::plain_status;
use super::{Master, Turn};

/// What an ACCEPT works with.
pub(super) struct Basket {
    pub framework: FrameworkKey,
    pub framework_id: Arc<str>,
    pub agent: AgentKey,
    pub agent_id: Arc<str>,
    /// The role all offers were made to.
    pub role: Arc<str>,
    /// What is left of the offers, allocated to the role.
    pub left: Resources,
    /// Shared volumes that were offered or created: each task of the call may have them.
    pub shared: Resources,
}

impl Basket {
    /// Resources of the basket as the allocator knows them: in use.
    pub fn holding<'a>(&'a self, resources: &'a Resources) -> Holding<'a> {
        Holding {
            framework: &self.framework_id,
            role: &self.role,
            agent: &self.agent_id,
            resources,
            offered: false,
        }
    }
}

impl Master {
    /// ACCEPT. Either all offers are good, or none is used and every task of the call is lost.
    pub(super) fn accept(&mut self, t: &mut Turn<'_>, framework: FrameworkKey, accept: call::Accept) {
        self.metrics.count("master/messages_accept_offers");
        let refuse = refuse_for(accept.filters.as_ref());
        let numbers: Vec<Option<u64>> =
            accept.offer_ids.iter().map(|id| self.offer_number(&id.value)).collect();
        let checked = self.check_offers(framework, &accept.offer_ids, &numbers);
        let mut taken: Vec<Arc<Offer>> = Vec::with_capacity(numbers.len());
        for number in numbers.into_iter().flatten() {
            if self.offer(number).is_some_and(|offer| offer.framework == framework) {
                taken.extend(self.take_offer(number));
            }
        }
        let basket = checked.and_then(|()| self.basket(framework, &taken));
        let mut basket = match basket {
            Ok(basket) => basket,
            Err(reason) => {
                for offer in &taken {
                    self.ledger.unoffer(offer.holding(), None, t.now.mono);
                }
                self.reject_operations(t, framework, &accept.operations, &reason);
                self.allocate_soon(t);
                return;
            }
        };
        for offer in &taken {
            self.ledger.accepted(offer.holding());
        }
        for operation in accept.operations {
            self.apply(t, &mut basket, operation);
        }
        #[cfg(feature = "deliberate-bugs")]
        if self.settings.deliberate_double_offer {
            for offer in &taken {
                self.ledger.unoffer(offer.holding(), None, t.now.mono);
            }
            self.allocate_soon(t);
            return;
        }
        if !basket.left.is_empty() {
            self.ledger.unoffer(basket.holding(&basket.left), Some(refuse), t.now.mono);
        }
        self.allocate_soon(t);
    }

    /// Whether all offers are open, the framework's own, different, and of one agent and role.
    fn check_offers(
        &self,
        framework: FrameworkKey,
        ids: &[mesos::OfferId],
        numbers: &[Option<u64>],
    ) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut first: Option<&Arc<Offer>> = None;
        for (id, number) in ids.iter().zip(numbers) {
            let offer = number
                .and_then(|number| self.offer(number))
                .ok_or_else(|| format!("Offer {} is no longer valid", id.value))?;
            if offer.framework != framework {
                return Err(format!("Offer {} is no longer valid", id.value));
            }
            if !seen.insert(offer.number) {
                return Err(format!("Duplicate offer {} in offer list", id.value));
            }
            let first = first.get_or_insert(offer);
            if first.agent != offer.agent {
                return Err("Aggregated offers must belong to one single agent".into());
            }
            if first.role != offer.role {
                return Err("Aggregated offers must be allocated to the same role".into());
            }
        }
        if first.is_none() {
            return Err("No offers specified".into());
        }
        Ok(())
    }

    fn basket(&self, framework: FrameworkKey, offers: &[Arc<Offer>]) -> Result<Basket, String> {
        let first = offers.first().ok_or("No offers specified")?;
        let mut left = Resources::new();
        for offer in offers {
            left += &*offer.resources;
        }
        Ok(Basket {
            framework,
            framework_id: Arc::clone(&first.framework_id),
            agent: first.agent,
            agent_id: Arc::clone(&first.agent_id),
            role: Arc::clone(&first.role),
            shared: left.shared(),
            left,
        })
    }

    fn apply(&mut self, t: &mut Turn<'_>, basket: &mut Basket, operation: Operation) {
        match operation.r#type.and_then(|kind| Type::try_from(kind).ok()) {
            Some(Type::Launch) => {
                let tasks = operation.launch.map(|launch| launch.task_infos).unwrap_or_default();
                self.launch(t, basket, tasks);
            }
            Some(Type::LaunchGroup) => {
                if let Some(group) = operation.launch_group {
                    self.launch_group(t, basket, group);
                }
            }
            _ => self.apply_operation(t, basket, operation),
        }
    }

    /// The call's offers were no good: nothing of it happens, and each of its tasks is answered for.
    fn reject_operations(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        operations: &[Operation],
        reason: &str,
    ) {
        let aware = self.frameworks.get(&framework).is_some_and(|f| f.abilities.partition_aware);
        let state = if aware { TaskState::TaskDropped } else { TaskState::TaskLost };
        let message = format!("Task launched with invalid offers: {reason}");
        for operation in operations {
            let launched = operation.launch.iter().flat_map(|launch| &launch.task_infos);
            let grouped = operation.launch_group.iter().flat_map(|group| &group.task_group.tasks);
            for task in launched.chain(grouped) {
                let mut status =
                    plain_status(t.now, &task.task_id.value, state, Reason::InvalidOffers, &message);
                status.agent_id = Some(task.agent_id.clone());
                self.count_end(state);
                self.send_update(t, framework, status);
            }
            self.drop_operation(t, framework, operation, reason);
        }
    }
}

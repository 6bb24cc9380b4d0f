//! Operations on resources: out of offers, and what agents answer about them.
//!
//! Each is applied at once, as in Mesos, on agents that say they write the result down (AGENT_OPERATION_FEEDBACK); an agent that could not
//! carry one out says what it has. What may be is in `conversions`, what operators ask for in `changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use plenum_api::internal::{self, OperationUpdate, master_message::Kind};
use plenum_api::mesos::offer::{Operation, operation::Type};
use plenum_api::mesos::{self, FrameworkId, OperationState, OperationStatus};
use plenum_api::resources::{Resources, allocated};
use plenum_api::scheduler::{self, call};

use super::accept::Basket;
use super::conversions::{self, Asker, Stock};
use super::event::{Answer, ReplyId};
use super::lookup::{agent_id, event, framework_id};
use super::state::{Agent, AgentKey, FrameworkKey};
use super::{Master, Turn};

impl Master {
    /// Applies an operation to what is left of the offers.
    pub(super) fn apply_operation(&mut self, t: &mut Turn<'_>, basket: &mut Basket, operation: Operation) {
        let operation = allocated(&operation, &basket.role);
        match self.converted(basket, &operation) {
            Ok(after) => {
                let consumed = &basket.left - &after;
                let produced = &after - &basket.left;
                self.ledger.convert(basket.holding(&consumed), &produced);
                basket.left = after;
                basket.shared = basket.left.shared();
                let mut total =
                    self.agents.get(basket.agent).map(|agent| (*agent.total).clone()).unwrap_or_default();
                let gone = consumed.unallocate();
                total -= &gone;
                total += &produced.unallocate();
                self.set_total(basket.agent, total);
                self.rescind_shared(t, basket.agent, &gone);
                let framework = Some(framework_id(&basket.framework_id));
                self.order_operation(t, basket.agent, framework, operation);
            }
            Err(reason) => {
                t.log(format!("an operation of framework {} is refused: {reason}", basket.framework_id));
                self.answer_operation(
                    t,
                    basket.framework,
                    &operation,
                    OperationState::OperationError,
                    reason,
                );
            }
        }
    }

    fn converted(&self, basket: &Basket, operation: &Operation) -> Result<Resources, String> {
        let agent =
            self.agents.get(basket.agent).filter(|agent| agent.takes_operations()).ok_or_else(|| {
                format!("agent {} does not carry out operations on resources", basket.agent_id)
            })?;
        let info = self.frameworks.get(&basket.framework).map(|framework| Arc::clone(&framework.info));
        let info = info.ok_or("the framework has been removed")?;
        let shared = mesos::framework_info::capability::Type::SharedResources as i32;
        let asker = Asker::Framework {
            role: &basket.role,
            principal: info.principal.as_deref(),
            shares: info.capabilities.iter().any(|capability| capability.r#type == Some(shared)),
        };
        let used = self.used_on(basket.agent);
        let stock = Stock { total: &agent.total, used: &used, resizes: agent.resizes() };
        conversions::check(operation, &stock, asker)?;
        basket.left.apply(operation).map_err(|e| e.to_string())
    }

    /// Others may have been offered a shared volume that is gone.
    fn rescind_shared(&mut self, t: &mut Turn<'_>, key: AgentKey, gone: &Resources) {
        if gone.iter().all(|item| !item.is_shared()) {
            return;
        }
        let offers = self.agents.get(key).map(|agent| agent.offers.clone()).unwrap_or_default();
        for number in offers {
            let offered = self.offer(number).map(|offer| offer.resources.unallocate()).unwrap_or_default();
            if gone.iter().any(|item| item.is_shared() && offered.contains_item(item)) {
                self.rescind(t, number);
            }
        }
    }

    /// What an agent has, in the master's own books; the ledger has been told.
    pub(super) fn set_total(&mut self, key: AgentKey, total: Resources) {
        if let Some(agent) = self.agents.get_mut(key) {
            agent.total = Arc::new(total);
        }
        self.touch();
    }

    /// Sends an operation that is applied already, and keeps it until somebody has taken note of its result.
    pub(super) fn order_operation(
        &mut self,
        t: &mut Turn<'_>,
        key: AgentKey,
        framework: Option<FrameworkId>,
        info: Operation,
    ) {
        let uuid = Bytes::copy_from_slice(&t.ids.uuid());
        let Some(agent) = self.agents.get_mut(key) else { return };
        let operation = mesos::Operation {
            framework_id: framework.clone(),
            agent_id: Some(agent_id(&agent.id)),
            latest_status: operation_status(&info, OperationState::OperationPending, None),
            info,
            statuses: Vec::new(),
            uuid: mesos::Uuid { value: uuid.clone() },
        };
        agent.operations.insert(uuid, Arc::new(operation.clone()));
        let message = internal::ApplyOperation { framework_id: framework, operation };
        self.tell(t, key, Kind::ApplyOperation(message));
        self.touch();
    }

    /// The call's offers were no good: an operation that asked for feedback gets it.
    pub(super) fn drop_operation(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        operation: &Operation,
        reason: &str,
    ) {
        let kind = operation.r#type.and_then(|kind| Type::try_from(kind).ok());
        if !matches!(kind, Some(Type::Launch | Type::LaunchGroup)) {
            let message = format!("the operation's offers are invalid: {reason}");
            self.answer_operation(t, framework, operation, OperationState::OperationError, message);
        }
    }

    /// Feedback is sent for operations with an id only.
    fn answer_operation(
        &self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        operation: &Operation,
        state: OperationState,
        message: String,
    ) {
        if operation.id.is_some() {
            self.send_operation(t, framework, operation_status(operation, state, Some(message)));
        }
    }

    fn send_operation(&self, t: &mut Turn<'_>, framework: FrameworkKey, status: OperationStatus) {
        let mut update = event(scheduler::event::Type::UpdateOperationStatus);
        update.update_operation_status = Some(scheduler::event::UpdateOperationStatus { status });
        self.send(t, framework, update);
    }

    /// An agent says how an operation went.
    pub(super) fn operation_update(&mut self, t: &mut Turn<'_>, agent: AgentKey, update: OperationUpdate) {
        let mut status = update.status;
        let Some(known) = self.agents.get_mut(agent) else { return };
        status.agent_id = Some(agent_id(&known.id));
        let uuid = &update.operation_uuid.value;
        if let Some(operation) = known.operations.get_mut(uuid) {
            let operation = Arc::make_mut(operation);
            operation.statuses.retain(|old| old.uuid != status.uuid);
            operation.statuses.push(status.clone());
            operation.latest_status = update.latest_status.unwrap_or_else(|| status.clone());
        }
        self.touch();
        let framework = update.framework_id.as_ref().and_then(|id| self.framework_key(&id.value));
        match framework.filter(|_| status.operation_id.is_some()) {
            Some(framework) => self.send_operation(t, framework, status),
            // Nobody asked for feedback, so the master takes note for them.
            None => {
                if let Some(status_uuid) = status.uuid {
                    self.take_note(t, agent, &update.operation_uuid, status_uuid);
                }
            }
        }
    }

    /// The agent need not say this result again.
    fn take_note(&mut self, t: &mut Turn<'_>, agent: AgentKey, operation: &mesos::Uuid, status: mesos::Uuid) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.operations.remove(&operation.value);
        }
        self.touch();
        let message =
            internal::AcknowledgeOperation { operation_uuid: operation.clone(), status_uuid: status };
        self.tell(t, agent, Kind::AcknowledgeOperation(message));
    }

    /// ACKNOWLEDGE_OPERATION_STATUS goes to the agent, which knows operations by their own uuid.
    pub(super) fn acknowledge_operation(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        acknowledge: call::AcknowledgeOperationStatus,
    ) {
        let Some((key, agent)) = acknowledge.agent_id.as_ref().and_then(|id| self.agent_by_id(&id.value))
        else {
            return;
        };
        let owner = self.frameworks.get(&framework).map(|framework| &*framework.id);
        let status = mesos::Uuid { value: acknowledge.uuid };
        let operation = agent.operations.values().find(|operation| {
            operation.latest_status.uuid.as_ref() == Some(&status)
                && operation.framework_id.as_ref().map(|id| id.value.as_str()) == owner
        });
        if let Some(uuid) = operation.map(|operation| operation.uuid.clone()) {
            self.take_note(t, key, &uuid, status);
        }
    }

    /// An agent on a new connection says which operations it knows. Those that it never got did not happen.
    pub(super) fn take_operations(
        &mut self,
        t: &mut Turn<'_>,
        agent: AgentKey,
        before: BTreeMap<Bytes, Arc<mesos::Operation>>,
        told: Vec<mesos::Operation>,
    ) {
        let told: BTreeMap<Bytes, Arc<mesos::Operation>> =
            told.into_iter().map(|operation| (operation.uuid.value.clone(), Arc::new(operation))).collect();
        for (uuid, operation) in before {
            if told.contains_key(&uuid)
                || operation.latest_status.state != OperationState::OperationPending as i32
            {
                continue;
            }
            t.log("an operation did not reach its agent and is dropped".to_owned());
            let framework = operation.framework_id.as_ref().and_then(|id| self.framework_key(&id.value));
            if let Some(framework) = framework {
                let message = "The operation did not reach its agent".to_owned();
                self.answer_operation(
                    t,
                    framework,
                    &operation.info,
                    OperationState::OperationDropped,
                    message,
                );
            }
        }
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.operations = told;
        }
    }

    /// An agent is given up with what it was told to do.
    pub(super) fn lose_operations(&self, t: &mut Turn<'_>, agent: &Agent, state: OperationState) {
        for operation in agent.operations.values().filter(|one| one.info.id.is_some()) {
            let pending = operation.latest_status.state == OperationState::OperationPending as i32;
            let framework = operation.framework_id.as_ref().and_then(|id| self.framework_key(&id.value));
            if let Some(framework) = framework.filter(|_| pending) {
                let message = Some(format!(
                    "agent {} is {}",
                    agent.id,
                    match state {
                        OperationState::OperationUnreachable => "unreachable",
                        _ => "gone",
                    }
                ));
                let mut status = operation_status(&operation.info, state, message);
                status.agent_id = Some(agent_id(&agent.id));
                self.send_operation(t, framework, status);
            }
        }
    }

    /// RECONCILE_OPERATIONS: of those named, or of all of the framework's, the newest state. It needs no acknowledgement.
    pub(super) fn reconcile_operations(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        framework: FrameworkKey,
        operations: Vec<call::reconcile_operations::Operation>,
    ) {
        let owner = self.frameworks.get(&framework).map(|framework| framework.id.to_string());
        let mine: Vec<OperationStatus> = self
            .agents
            .iter()
            .flat_map(|(_, agent)| agent.operations.values())
            .filter(|one| {
                one.info.id.is_some() && one.framework_id.as_ref().map(|id| &id.value) == owner.as_ref()
            })
            .map(|one| OperationStatus {
                message: Some("Reconciliation: Latest operation status".into()),
                uuid: None,
                agent_id: one.agent_id.clone(),
                ..one.latest_status.clone()
            })
            .collect();
        let unknown = |operation: call::reconcile_operations::Operation| OperationStatus {
            operation_id: Some(operation.operation_id),
            state: OperationState::OperationUnknown as i32,
            message: Some("Reconciliation: Operation is unknown".into()),
            agent_id: operation.agent_id,
            resource_provider_id: operation.resource_provider_id,
            ..Default::default()
        };
        let known = |operation: &call::reconcile_operations::Operation| {
            mine.iter().find(|status| status.operation_id.as_ref() == Some(&operation.operation_id)).cloned()
        };
        let answers = if operations.is_empty() {
            mine
        } else {
            operations.into_iter().map(|one| known(&one).unwrap_or_else(|| unknown(one))).collect()
        };
        for status in answers {
            self.send_operation(t, framework, status);
        }
        t.reply(reply, Answer::Accepted);
    }

    /// An agent's total changed.
    pub(super) fn resources_changed(
        &mut self,
        t: &mut Turn<'_>,
        agent: AgentKey,
        total: Vec<mesos::Resource>,
    ) {
        let total = match Resources::from_mesos(&total) {
            Ok(total) => total,
            Err(reason) => {
                t.warn(format!("an agent reported resources that make no sense: {reason}"));
                return;
            }
        };
        if self.agents.get(agent).is_none_or(|agent| *agent.total == total) {
            return;
        }
        self.rescind_agent(t, agent);
        self.set_total(agent, total);
        if let Some(agent) = self.agents.get(agent) {
            self.ledger.put_agent(agent, false);
        }
        self.allocate_soon(t);
        self.touch();
    }
}

fn operation_status(
    operation: &Operation,
    state: OperationState,
    message: Option<String>,
) -> OperationStatus {
    OperationStatus { operation_id: operation.id.clone(), state: state as i32, message, ..Default::default() }
}

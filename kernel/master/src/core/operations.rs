//! Operations other than launches: RESERVE and UNRESERVE; the answers of agents about them.
//!
//! Both are applied at once, as in Mesos, on agents that say they write the result down (AGENT_OPERATION_FEEDBACK).
//! Volumes and disks are answered with OPERATION_ERROR: nothing below carries them out yet.

use std::sync::Arc;

use bytes::Bytes;
use plenum_api::internal::{self, OperationUpdate, master_message::Kind};
use plenum_api::mesos::offer::{Operation, operation::Type};
use plenum_api::mesos::{self, OperationState, OperationStatus};
use plenum_api::resources::Resources;
use plenum_api::scheduler::{self, call};

use super::accept::Basket;
use super::event::{Answer, ReplyId};
use super::lookup::{agent_id, event, framework_id};
use super::state::{AgentKey, FrameworkKey};
use super::{Master, Turn};

impl Master {
    /// Applies an operation to what is left of the offers.
    pub(super) fn apply_operation(&mut self, t: &mut Turn<'_>, basket: &mut Basket, operation: Operation) {
        match self.converted(basket, &operation) {
            Ok(after) => {
                let consumed = &basket.left - &after;
                let produced = &after - &basket.left;
                self.ledger.convert(basket.holding(&consumed), &produced);
                basket.left = after;
                if let Some(agent) = self.agents.get_mut(basket.agent) {
                    let mut total = (*agent.total).clone();
                    total -= &consumed.unallocate();
                    total += &produced.unallocate();
                    agent.total = Arc::new(total);
                }
                self.touch();
                let status = operation_status(&operation, OperationState::OperationPending, None);
                let message = mesos::Operation {
                    framework_id: Some(framework_id(&basket.framework_id)),
                    agent_id: Some(agent_id(&basket.agent_id)),
                    info: operation,
                    latest_status: status,
                    statuses: Vec::new(),
                    uuid: mesos::Uuid { value: Bytes::copy_from_slice(&t.ids.uuid()) },
                };
                let id = Some(framework_id(&basket.framework_id));
                self.tell(
                    t,
                    basket.agent,
                    Kind::ApplyOperation(internal::ApplyOperation { framework_id: id, operation: message }),
                );
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
        let kind = operation.r#type.and_then(|kind| Type::try_from(kind).ok()).unwrap_or(Type::Unknown);
        if !self.agents.get(basket.agent).is_some_and(|agent| agent.takes_operations()) {
            return Err(format!("agent {} does not carry out operations on resources", basket.agent_id));
        }
        let resources = match kind {
            Type::Reserve => operation.reserve.as_ref().map(|reserve| &reserve.resources),
            Type::Unreserve => operation.unreserve.as_ref().map(|unreserve| &unreserve.resources),
            other => {
                return Err(format!("operation {} is not supported by this cluster", other.as_str_name()));
            }
        };
        let resources = resources.filter(|r| !r.is_empty()).ok_or("the operation names no resources")?;
        let named = Resources::from_mesos(resources).map_err(|e| e.to_string())?;
        let principal = self.frameworks.get(&basket.framework).and_then(|f| f.info.principal.clone());
        for item in &named {
            let Some(last) = item.reservations().last() else {
                return Err(format!("{item} is not reserved"));
            };
            if kind == Type::Reserve && *last.role != *basket.role {
                return Err(format!(
                    "{item} is to be reserved for role '{}', the offer is for '{}'",
                    last.role, basket.role
                ));
            }
            if kind == Type::Reserve && last.principal.is_some() && last.principal != principal {
                return Err("the reservation names another principal than the framework's".into());
            }
        }
        let mut operation = operation.clone();
        for resource in operation.reserve.iter_mut().flat_map(|r| r.resources.iter_mut().chain(&mut r.source))
        {
            resource
                .allocation_info
                .get_or_insert_default()
                .role
                .get_or_insert_with(|| basket.role.to_string());
        }
        for resource in operation.unreserve.iter_mut().flat_map(|u| u.resources.iter_mut()) {
            resource
                .allocation_info
                .get_or_insert_default()
                .role
                .get_or_insert_with(|| basket.role.to_string());
        }
        basket.left.apply(&operation).map_err(|e| e.to_string())
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
        let framework = update.framework_id.as_ref().and_then(|id| self.framework_key(&id.value));
        match framework.filter(|_| status.operation_id.is_some()) {
            Some(framework) => {
                status.agent_id = self.agents.get(agent).map(|agent| agent_id(&agent.id));
                self.send_operation(t, framework, status);
            }
            // Nobody asked for feedback, so the master takes note for them.
            None => {
                if let Some(status_uuid) = status.uuid {
                    let message =
                        internal::AcknowledgeOperation { operation_uuid: update.operation_uuid, status_uuid };
                    self.tell(t, agent, Kind::AcknowledgeOperation(message));
                }
            }
        }
    }

    /// ACKNOWLEDGE_OPERATION_STATUS goes to the agent. Operations are known there by their own uuid; the framework names only its id, so the
    /// status' uuid stands for both.
    pub(super) fn acknowledge_operation(
        &mut self,
        t: &mut Turn<'_>,
        _framework: FrameworkKey,
        acknowledge: call::AcknowledgeOperationStatus,
    ) {
        let agent =
            acknowledge.agent_id.as_ref().and_then(|id| self.agent_by_id(&id.value)).map(|(key, _)| key);
        if let Some(agent) = agent {
            let uuid = mesos::Uuid { value: acknowledge.uuid };
            let message = internal::AcknowledgeOperation { operation_uuid: uuid.clone(), status_uuid: uuid };
            self.tell(t, agent, Kind::AcknowledgeOperation(message));
        }
    }

    /// RECONCILE_OPERATIONS: the master keeps no operations, so each is unknown here.
    pub(super) fn reconcile_operations(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        framework: FrameworkKey,
        operations: Vec<call::reconcile_operations::Operation>,
    ) {
        for operation in operations {
            let status = OperationStatus {
                operation_id: Some(operation.operation_id),
                state: OperationState::OperationUnknown as i32,
                message: Some("Reconciliation: Operation is unknown".into()),
                agent_id: operation.agent_id,
                resource_provider_id: operation.resource_provider_id,
                ..Default::default()
            };
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
        self.rescind_agent(t, agent);
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.total = Arc::new(total);
        }
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

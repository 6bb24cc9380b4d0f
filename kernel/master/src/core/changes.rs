//! Operators change what an agent has: RESERVE_RESOURCES, UNRESERVE_RESOURCES, CREATE_VOLUMES, DESTROY_VOLUMES, GROW_VOLUME, SHRINK_VOLUME.
//!
//! Only what nobody uses is changed. What is offered is taken back for it; that is all the rudeness there is.

use plenum_api::master::{Call, call::Type};
use plenum_api::mesos::offer::{Operation, operation};
use plenum_api::resources::Resources;

use super::conversions::{self, Asker, Stock};
use super::event::{Answer, Caller, ReplyId};
use super::state::AgentKey;
use super::{Master, Turn};

/// The operation that a call asks for, and on which agent; `None` for other calls and for one without its body.
pub fn operation_of(call: &Call) -> Option<(String, Operation)> {
    let mut made = Operation::default();
    let kind = call.r#type.and_then(|kind| Type::try_from(kind).ok())?;
    let agent = match kind {
        Type::ReserveResources => {
            let body = call.reserve_resources.clone()?;
            made.set_type(operation::Type::Reserve);
            made.reserve = Some(operation::Reserve { source: body.source, resources: body.resources });
            body.agent_id
        }
        Type::UnreserveResources => {
            let body = call.unreserve_resources.clone()?;
            made.set_type(operation::Type::Unreserve);
            made.unreserve = Some(operation::Unreserve { resources: body.resources });
            body.agent_id
        }
        Type::CreateVolumes => {
            let body = call.create_volumes.clone()?;
            made.set_type(operation::Type::Create);
            made.create = Some(operation::Create { volumes: body.volumes });
            body.agent_id
        }
        Type::DestroyVolumes => {
            let body = call.destroy_volumes.clone()?;
            made.set_type(operation::Type::Destroy);
            made.destroy = Some(operation::Destroy { volumes: body.volumes });
            body.agent_id
        }
        Type::GrowVolume => {
            let body = call.grow_volume.clone()?;
            made.set_type(operation::Type::GrowVolume);
            made.grow_volume = Some(operation::GrowVolume { volume: body.volume, addition: body.addition });
            body.agent_id?
        }
        Type::ShrinkVolume => {
            let body = call.shrink_volume.clone()?;
            made.set_type(operation::Type::ShrinkVolume);
            made.shrink_volume =
                Some(operation::ShrinkVolume { volume: body.volume, subtract: body.subtract });
            body.agent_id?
        }
        _ => return None,
    };
    Some((agent.value, made))
}

impl Master {
    /// Carries out an operation that an operator asks for; 202 once the agent is on its way to it.
    pub(super) fn operator_change(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        agent: &str,
        operation: Operation,
        caller: &Caller,
    ) {
        let answer = match self.changed(t, agent, &operation, caller) {
            Ok((key, after)) => {
                self.set_total(key, after);
                self.order_operation(t, key, None, operation);
                self.allocate_soon(t);
                Answer::Accepted
            }
            Err((status, reason)) => Answer::Refused(status, reason),
        };
        t.reply(reply, answer);
    }

    /// Changes the ledger; gives what the agent has then.
    fn changed(
        &mut self,
        t: &mut Turn<'_>,
        id: &str,
        operation: &Operation,
        caller: &Caller,
    ) -> Result<(AgentKey, Resources), (u16, String)> {
        let bad = |reason: String| (400, format!("Invalid operation: {reason}"));
        let conflict = |reason: String| (409, reason);
        let Some((key, agent)) = self.agent_by_id(id) else {
            return Err((400, "No agent found with specified ID".to_owned()));
        };
        if !agent.takes_operations() {
            return Err(conflict(format!("agent {id} does not carry out operations on resources")));
        }
        if agent.conn.is_none() {
            return Err(conflict(format!("agent {id} is not connected; try again when it is back")));
        }
        let (total, resizes) = (std::sync::Arc::clone(&agent.total), agent.resizes());
        let used = self.used_on(key);
        let principal = caller.authenticated.then_some(&*caller.uid);
        let stock = Stock { total: &total, used: &used, resizes };
        conversions::check(operation, &stock, Asker::Operator { principal }).map_err(bad)?;
        let needs = Resources::used_up_by(operation).map_err(|error| bad(error.to_string()))?;
        let after = total.apply(operation).map_err(|error| conflict(error.to_string()))?;
        self.take_back(t, key, &needs);
        let (from, into) = (&*total - &after, &after - &*total);
        if !self.ledger.convert_free(id, &from, &into) {
            return Err(conflict(format!("{needs} of agent {id} is in use")));
        }
        Ok((key, after))
    }

    /// Takes offers of an agent back until `needs` is free, if that helps.
    fn take_back(&mut self, t: &mut Turn<'_>, key: AgentKey, needs: &Resources) {
        let Some(agent) = self.agents.get(key).cloned() else { return };
        for number in &agent.offers {
            let report = self.ledger.allocator().agent_report(&agent.id);
            if report.is_ok_and(|report| report.free.contains(needs) && !needs.iter().any(|i| i.is_shared()))
            {
                return;
            }
            let helps = self.offer(*number).is_some_and(|offer| {
                let offered = offer.resources.unallocate();
                needs.iter().any(|need| {
                    offered.iter().any(|item| item.name() == need.name() && item.meta() == need.meta())
                })
            });
            if helps {
                self.rescind(t, *number);
            }
        }
    }

    /// What tasks and executors of an agent use, allocated to nobody.
    pub(super) fn used_on(&self, key: AgentKey) -> Resources {
        let mut used = Resources::new();
        let Some(agent) = self.agents.get(key) else { return used };
        for task in agent.tasks.iter().filter_map(|task| self.tasks.get(*task)).filter(|task| task.held) {
            used += task.resources();
        }
        for executor in agent.executors.values() {
            used += &*executor.resources;
        }
        used.unallocate()
    }
}

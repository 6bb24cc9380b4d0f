//! An operator, who drains, deactivates and reactivates agents, and what must hold of an agent that is out of service.

use plenum_api::master::{Call, call};
use plenum_api::protobuf::Duration;
use plenum_master::core::{Caller, Event, ReplyId};

use crate::check::Violation;
use crate::world::{Happens, World};

impl World {
    /// The operator does something, and will again.
    pub(crate) fn operator(&mut self) -> Result<(), Violation> {
        let pause = if self.stormy() { self.random.between(5_000, 40_000) } else { 60_000 };
        self.later(pause, Happens::Operator);
        let agent = self.random.between(0, self.nodes.len() as u64) as usize;
        let Some(id) = self.nodes[agent].id().map(str::to_owned) else { return Ok(()) };
        let Some(master) = self.leading() else { return Ok(()) };
        let agent_id = plenum_api::mesos::AgentId { value: id };
        let mut asked = Call::default();
        match self.random.between(0, 10) {
            0..=3 if self.stormy() => {
                let seconds = self.random.between(0, 60) as i64;
                let limited = self.random.chance(700);
                let max_grace_period = limited.then_some(Duration { seconds: Some(seconds), nanos: None });
                asked.set_type(call::Type::DrainAgent);
                asked.drain_agent =
                    Some(call::DrainAgent { agent_id, max_grace_period, mark_gone: Some(false) });
                self.totals.drains += 1;
            }
            4 if self.stormy() => {
                asked.set_type(call::Type::DeactivateAgent);
                asked.deactivate_agent = Some(call::DeactivateAgent { agent_id });
            }
            6 | 7 if self.stormy() => asked = self.operator_resources(agent_id),
            choice => {
                // Now and then a drain is called off half way.
                let cancel_drain = (choice == 5).then_some(true);
                asked.set_type(call::Type::ReactivateAgent);
                asked.reactivate_agent = Some(call::ReactivateAgent { agent_id, cancel_drain });
            }
        }
        self.reply += 1;
        let caller = Caller { uid: "operator".into(), authenticated: true };
        self.master_feed(
            master,
            Event::Operator { reply: ReplyId(self.reply), call: Box::new(asked), caller },
        )
    }

    /// What the store says is drained is empty.
    pub(crate) fn drained_is_empty(&self) -> Result<(), Violation> {
        for (agent, node) in self.nodes.iter().enumerate() {
            let Some(id) = node.id() else { continue };
            if self.store.life(id)?.drain.is_some_and(|drain| drain.drained)
                && let Some(task) = node.living().find(|(framework, _)| !self.removed(framework))
            {
                return Err(format!("agent {agent} is drained, and task {} lives on it", task.1));
            }
        }
        Ok(())
    }
}

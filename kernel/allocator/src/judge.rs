//! The one decision of what a subscription may be offered of an agent, for the cycle and for explanations
//! alike.

use plenum_api::Millis;

use crate::bag::{Amount, Bag};
use crate::kinds::{Amounts, Kind, within};
use crate::ledger::is_limited;
use crate::options::Capabilities;
use crate::state::{Agent, Allocator, meets};
use crate::tree::{RoleId, SubId};

/// Why nothing is offered; in the order in which the rules are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AgentInactive,
    AgentNotAllowed,
    NotSubscribed,
    FrameworkInactive,
    Suppressed,
    GpuAgent,
    RemoteRegion,
    /// Nothing free that this role and framework may have.
    NothingFree,
    /// What is free is under the minimum.
    TooLittle,
    /// What a limit leaves is under the minimum.
    Limit(RoleId),
    Filtered(Millis),
}

impl Allocator {
    /// What a subscription would be offered of an agent now. Roles whose limits cut it are added to `cut`.
    pub(crate) fn judge(
        &self,
        agent: &Agent,
        sub: SubId,
        now: Millis,
        cut: &mut Vec<RoleId>,
    ) -> Result<Bag, Refusal> {
        let s = self.tree.subs.get(sub).filter(|s| s.subscribed).ok_or(Refusal::NotSubscribed)?;
        let framework = self.frameworks.get(s.framework).ok_or(Refusal::NotSubscribed)?;
        let role = self.tree.role(s.role).ok_or(Refusal::NotSubscribed)?;
        let refused = if !agent.active {
            Some(Refusal::AgentInactive)
        } else if !agent.allowed {
            Some(Refusal::AgentNotAllowed)
        } else if !framework.active {
            Some(Refusal::FrameworkInactive)
        } else if s.suppressed {
            Some(Refusal::Suppressed)
        } else if self.filter_gpus && agent.gpus && !framework.capabilities.gpu_resources {
            Some(Refusal::GpuAgent)
        } else if agent.remote && !framework.capabilities.region_aware {
            Some(Refusal::RemoteRegion)
        } else {
            // Offer constraints of the framework belong here: they look at the agent's attributes only.
            None
        };
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        let visible = self.visible(&agent.free, &role.path, framework.capabilities);
        if visible.is_empty() {
            return Err(Refusal::NothingFree);
        }
        let minimum = s.minimum.as_ref().unwrap_or(&self.minimum);
        if !meets(minimum, &self.sums(&visible)) {
            return Err(Refusal::TooLittle);
        }
        let before = cut.len();
        let offer = self.cut_to_limits(visible, s.role, cut);
        let limit = cut.get(before).copied();
        if let Some(limit) = limit
            && (offer.is_empty() || !meets(minimum, &self.sums(&offer)))
        {
            return Err(Refusal::Limit(limit));
        }
        match s.bit.and_then(|bit| agent.filters.holds_back(bit, &offer, now)) {
            Some(until) => Err(Refusal::Filtered(until)),
            None => Ok(offer),
        }
    }

    /// The part of a bag that a role and a framework of such capabilities may have.
    pub(crate) fn visible(&self, free: &Bag, role: &str, capabilities: Capabilities) -> Bag {
        let mut bag = Bag::default();
        for (id, amount) in free.iter() {
            if self.kinds.get(id).is_some_and(|kind| may_see(kind, role, capabilities)) {
                bag.push(id, amount.clone());
            }
        }
        bag
    }

    /// The scalars of a bag by name.
    pub(crate) fn sums(&self, bag: &Bag) -> Amounts {
        let mut sums = Amounts::default();
        for (id, amount) in bag.iter() {
            if let Some(kind) = self.kinds.get(id)
                && let Some(name) = kind.name
            {
                sums.add(name, kind.quantity(amount));
            }
        }
        sums
    }

    /// Leaves of unreserved scalars what every limit at or above the role has room for. What cannot be
    /// divided fits or goes.
    fn cut_to_limits(&self, bag: Bag, role: RoleId, cut: &mut Vec<RoleId>) -> Bag {
        let mut room: Vec<(RoleId, usize, i64)> = Vec::new();
        for (id, role) in self.tree.chain(role) {
            room.extend(role.headroom().map(|(name, left)| (id, name, left)));
        }
        if room.is_empty() {
            return bag;
        }
        let mut rest = Bag::default();
        for (id, amount) in bag.iter() {
            let Some(kind) = self.kinds.get(id) else { continue };
            let (Some(name), true, Amount::Scalar(have)) = (kind.name, is_limited(kind, amount), amount)
            else {
                rest.push(id, amount.clone());
                continue;
            };
            let whole = kind.quantity(amount);
            let mut give = whole;
            for (role, _, left) in room.iter().filter(|(_, n, left)| *n == name && *left < whole) {
                give = give.min((*left).max(0));
                if !cut.contains(role) {
                    cut.push(*role);
                }
            }
            let piece = if kind.whole { kind.piece().max(1) } else { 1 };
            let pieces = if give == whole { *have } else { give / piece };
            give = if give == whole { whole } else { pieces * piece };
            room.iter_mut().filter(|(_, n, _)| *n == name).for_each(|(_, _, left)| *left -= give);
            rest.push(id, Amount::Scalar(pieces));
        }
        rest
    }
}

fn may_see(kind: &Kind, role: &str, capabilities: Capabilities) -> bool {
    kind.reserved.as_ref().is_none_or(|owner| within(role, owner))
        && (!kind.revocable || capabilities.revocable_resources)
        && (!kind.shared || capabilities.shared_resources)
        && (!kind.refined || capabilities.reservation_refinement)
}

//! What the allocator shows of itself: an agent's free and held resources, a role's share, consumption and
//! limits.

use plenum_api::resources::{Quantities, Resources};

use crate::options::AllocatorError;
use crate::state::Allocator;
use crate::tree::Role;

/// What one framework holds of an agent under a role, offered or used.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldingReport {
    /// Framework id.
    pub framework: String,
    /// Role.
    pub role: String,
    /// The resources, allocated to nobody.
    pub resources: Resources,
}

/// An agent's books.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentReport {
    /// Everything it has.
    pub total: Resources,
    /// What may be offered.
    pub free: Resources,
    /// Who holds the rest; shared resources may be held by several and free.
    pub held: Vec<HoldingReport>,
}

/// A role's books.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleReport {
    /// Full path.
    pub role: String,
    /// Weight among its siblings.
    pub weight: f64,
    /// Dominant share divided by the weight, as it orders.
    pub share: f64,
    /// Everything allocated to the role and below.
    pub allocated: Quantities,
    /// All reservations for the role and below.
    pub reserved: Quantities,
    /// What counts against limits.
    pub consumed: Quantities,
    /// Its own limits.
    pub limits: Option<Quantities>,
    /// Frameworks subscribed to it or holding something under it.
    pub frameworks: Vec<String>,
}

impl Allocator {
    /// The books of one agent.
    pub fn agent_report(&self, agent: &str) -> Result<AgentReport, AllocatorError> {
        let unknown = || AllocatorError::UnknownAgent(agent.to_string());
        let row = self.agents.get(self.place(agent)?).ok_or_else(unknown)?;
        let held = row.held.iter().filter_map(|(sub, bag)| {
            let s = self.tree.subs.get(*sub)?;
            Some(HoldingReport {
                framework: self.frameworks.get(s.framework)?.id.to_string(),
                role: self.tree.role(s.role)?.path.to_string(),
                resources: self.kinds.resources(bag),
            })
        });
        Ok(AgentReport {
            total: self.kinds.resources(&row.total),
            free: self.kinds.resources(&row.free),
            held: held.collect(),
        })
    }

    /// All roles about which anything is known, in order of paths.
    pub fn roles(&self) -> Vec<RoleReport> {
        let mut list: Vec<RoleReport> = self.tree.roles().map(|(_, role)| self.role_report(role)).collect();
        list.sort_by(|a, b| a.role.cmp(&b.role));
        list
    }

    fn role_report(&self, role: &Role) -> RoleReport {
        let mut consumed = role.reserved.clone();
        consumed.apply(&role.used, 1);
        let limits = role.limits.as_ref().map(|limits| {
            // A limit of zero is a limit.
            let mut shown = Quantities::new();
            for (name, limit) in limits {
                if let Some(name) = self.kinds.name_of(*name) {
                    shown.set(name.clone(), plenum_api::resources::Amount::from_thousandths(*limit));
                }
            }
            shown
        });
        let framework =
            |sub: &u32| Some(self.frameworks.get(self.tree.subs.get(*sub)?.framework)?.id.to_string());
        RoleReport {
            role: role.path.to_string(),
            weight: role.weight,
            share: role.share.get(),
            allocated: self.kinds.quantities(&role.allocated),
            reserved: self.kinds.quantities(&role.reserved),
            consumed: self.kinds.quantities(&consumed),
            limits,
            frameworks: role.subs.iter().filter_map(framework).collect(),
        }
    }
}

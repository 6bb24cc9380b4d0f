//! Why a framework is, or is not, offered what it needs: per agent, from the rules that decide
//! ([`crate::judge`]).

use plenum_api::Now;
use plenum_api::resources::{Amount, Quantities, Resources};
use serde::Serialize;

use crate::judge::Refusal;
use crate::options::AllocatorError;
use crate::state::{Agent, Allocator};
use crate::tree::{Sub, SubId};

/// Whether an agent helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The shape fits into what may be offered now.
    Fits,
    /// The framework already holds enough here, offered or in use.
    Held,
    /// Something could be offered, but not enough.
    TooLittle,
    /// Nothing can be offered.
    Refused,
}

/// The rule that decided; stable names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Rule {
    /// None stands in the way.
    None,
    /// The agent is deactivated, draining or away.
    AgentInactive,
    /// The operator does not have this agent offered.
    AgentNotAllowed,
    /// The framework is not subscribed to the role.
    NotSubscribed,
    /// The framework is disconnected.
    FrameworkInactive,
    /// The framework asked for no offers in this role.
    Suppressed,
    /// Agents with GPUs go to frameworks that know them.
    GpuResources,
    /// Agents of other regions go to frameworks that know them.
    RegionAware,
    /// The whole agent is smaller than the shape, or reserved for others.
    AgentTooSmall,
    /// Others hold what is missing.
    NotEnoughFree,
    /// What is free is less than an offer must contain.
    MinAllocatable,
    /// A limit on the role or one above it.
    QuotaLimit,
    /// The framework declined this agent a while ago.
    Filtered,
}

/// What one agent has to say to a need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Agent id.
    pub agent: String,
    /// Whether it helps.
    pub verdict: Verdict,
    /// Which rule decided.
    pub rule: Rule,
    /// What was needed, as text: of a shape, the scalars that were short, or all of it.
    pub needed: String,
    /// What there was instead.
    pub had: String,
    /// The smallest change that would help; empty when none is needed.
    pub nearest_fix: String,
}

impl Allocator {
    /// Asks every agent why it is not offered to the framework in this role for something of this shape.
    /// Changes nothing.
    pub fn explain(
        &self,
        framework: &str,
        role: &str,
        shape: &Resources,
        now: Now,
    ) -> Result<Vec<Explanation>, AllocatorError> {
        let key = self.framework(framework)?;
        let sub = self.find_sub(framework, role);
        let mut list = Vec::with_capacity(self.agents.len());
        for (_, agent) in self.agents.iter() {
            let told = match sub.and_then(|sub| Some((sub, self.tree.subs.get(sub)?))) {
                Some((sub, s)) => self.explain_agent(agent, sub, s, role, shape, now),
                None => Told::new(Verdict::Refused, Rule::NotSubscribed)
                    .needed(role)
                    .fix(format!("subscribe the framework to role {role}")),
            };
            list.push(told.of(agent));
        }
        debug_assert!(self.frameworks.get(key).is_some());
        Ok(list)
    }

    fn explain_agent(
        &self,
        agent: &Agent,
        sub: SubId,
        s: &Sub,
        role: &str,
        shape: &Resources,
        now: Now,
    ) -> Told {
        let held = agent.held.get(&sub).map(|bag| self.kinds.resources(bag)).unwrap_or_default();
        let refusal = match self.judge(agent, sub, now.mono, &mut Vec::new()) {
            Ok(offer) => {
                let offer = self.kinds.resources(&offer);
                if offer.find(shape).is_some() {
                    return Told::new(Verdict::Fits, Rule::None).needed(shape).had(&offer);
                }
                return self.explain_shortage(agent, role, shape, &offer, Verdict::TooLittle);
            }
            Err(refusal) => refusal,
        };
        if !shape.is_empty() && held.find(shape).is_some() {
            return Told::new(Verdict::Held, Rule::None)
                .needed(shape)
                .had(&held)
                .fix("use the offer that is open, or release what is held here".to_string());
        }
        self.explain_refusal(agent, s, role, shape, refusal, now)
    }

    fn explain_refusal(
        &self,
        agent: &Agent,
        s: &Sub,
        role: &str,
        shape: &Resources,
        refusal: Refusal,
        now: Now,
    ) -> Told {
        let told = |rule| Told::new(Verdict::Refused, rule);
        let region = |r: &Option<String>| r.clone().unwrap_or_default();
        match refusal {
            Refusal::AgentInactive => told(Rule::AgentInactive).fix("activate the agent".to_string()),
            Refusal::AgentNotAllowed => told(Rule::AgentNotAllowed)
                .had(&agent.hostname)
                .fix("allow the agent's host name".to_string()),
            Refusal::NotSubscribed => {
                told(Rule::NotSubscribed).needed(role).fix(format!("subscribe the framework to role {role}"))
            }
            Refusal::FrameworkInactive => {
                told(Rule::FrameworkInactive).fix("wait for the framework to connect again".to_string())
            }
            Refusal::Suppressed => told(Rule::Suppressed).fix(format!("revive role {role}")),
            Refusal::GpuAgent => told(Rule::GpuResources)
                .needed("the capability GPU_RESOURCES")
                .fix("give the framework the capability, or add an agent without GPUs".to_string()),
            Refusal::RemoteRegion => {
                told(Rule::RegionAware).needed(region(&self.region)).had(region(&agent.region)).fix(
                    "give the framework the capability REGION_AWARE, or add an agent in this region"
                        .to_string(),
                )
            }
            Refusal::Filtered(until) => {
                let left = until.since(now.mono).as_secs_f64();
                told(Rule::Filtered)
                    .needed(shape)
                    .had(format!("declined, for {left} s more"))
                    .fix(format!("revive role {role}, or wait {left} s"))
            }
            Refusal::Limit(id) => {
                let Some(limited) = self.tree.role(id) else { return told(Rule::QuotaLimit) };
                // Nothing left is worth saying, so zeros are kept.
                let mut room = Quantities::new();
                for (name, left) in limited.headroom() {
                    if let Some(name) = self.kinds.name_of(name) {
                        room.set(name.clone(), Amount::from_thousandths(left.max(0)));
                    }
                }
                told(Rule::QuotaLimit)
                    .needed(shape)
                    .had(format!("{room} under the limit of role {}", limited.path))
                    .fix(format!("raise the limit of role {}, or free something in it", limited.path))
            }
            Refusal::NothingFree | Refusal::TooLittle => {
                let path = self.tree.role(s.role).map_or(role, |r| &r.path);
                let capabilities =
                    self.frameworks.get(s.framework).map(|f| f.capabilities).unwrap_or_default();
                let free = self.kinds.resources(&self.visible(&agent.free, path, capabilities));
                if !shape.is_empty() && free.find(shape).is_some() {
                    return told(Rule::MinAllocatable)
                        .needed("the least that is worth an offer")
                        .had(&free)
                        .fix("lower the minimum (offer_filters, or min_allocatable_resources)".to_string());
                }
                self.explain_shortage(agent, path, shape, &free, Verdict::Refused)
            }
        }
    }

    /// The shape is more than there is: of the whole agent, or of what is free.
    fn explain_shortage(
        &self,
        agent: &Agent,
        role: &str,
        shape: &Resources,
        have: &Resources,
        verdict: Verdict,
    ) -> Told {
        let total = self.kinds.resources(&agent.total).allocatable_to(role);
        if total.find(shape).is_none() {
            let (needed, had) = short(shape, &total);
            let fix = format!("ask for no more than {total}, or add a larger agent");
            return Told::new(verdict, Rule::AgentTooSmall).needed(needed).had(had).fix(fix);
        }
        let (needed, had) = short(shape, have);
        let fix = format!("free {} on the agent", missing(shape, have));
        Told::new(verdict, Rule::NotEnoughFree).needed(needed).had(had).fix(fix)
    }
}

/// Scalars of which there are too few, and how many there are; all of both when it is not a matter of
/// scalars.
fn short(shape: &Resources, have: &Resources) -> (String, String) {
    let (mut needed, mut had) = (Quantities::new(), Quantities::new());
    for (name, amount) in shape.quantities().iter().filter(|(n, a)| have.amount(n) < *a) {
        needed.set(name.clone(), amount);
        had.set(name.clone(), have.amount(name));
    }
    if needed.is_empty() {
        (shape.to_string(), have.to_string())
    } else {
        (needed.to_string(), had.to_string())
    }
}

fn missing(shape: &Resources, have: &Resources) -> String {
    let mut missing = Quantities::new();
    for (name, amount) in shape.quantities().iter() {
        let less = amount.less(have.amount(name));
        if less > Amount::ZERO {
            missing.set(name.clone(), less);
        }
    }
    if missing.is_empty() { shape.to_string() } else { missing.to_string() }
}

/// An explanation in the making.
struct Told {
    verdict: Verdict,
    rule: Rule,
    needed: String,
    had: String,
    fix: String,
}

impl Told {
    fn new(verdict: Verdict, rule: Rule) -> Self {
        Told { verdict, rule, needed: String::new(), had: String::new(), fix: String::new() }
    }

    fn needed(self, needed: impl ToString) -> Self {
        Told { needed: needed.to_string(), ..self }
    }

    fn had(self, had: impl ToString) -> Self {
        Told { had: had.to_string(), ..self }
    }

    fn fix(self, fix: String) -> Self {
        Told { fix, ..self }
    }

    fn of(self, agent: &Agent) -> Explanation {
        Explanation {
            agent: agent.id.to_string(),
            verdict: self.verdict,
            rule: self.rule,
            needed: self.needed,
            had: self.had,
            nearest_fix: self.fix,
        }
    }
}

//! Sums over the whole cluster: the DRF order of all subscriptions and what each role consumes.

use std::collections::BTreeMap;

use plenum_api::resources::{Item, Quantities};

use super::Reference;
use crate::kinds::within;
use crate::share::round_total;

pub(super) struct Books {
    /// Frameworks, as they were registered, in roles; first to be offered first.
    pub(super) order: Vec<(usize, String)>,
    /// Of roles with limits: reservations and unreserved allocation, below and in it.
    pub(super) consumed: BTreeMap<String, Quantities>,
}

/// Unreserved scalars that are neither revocable nor shared.
pub(super) fn counts_against_limits(item: &Item) -> bool {
    item.amount().is_some() && item.reservations().is_empty() && !item.is_revocable() && !item.is_shared()
}

/// One role's children and frameworks while the order is made.
#[derive(Default)]
struct Node {
    allocated: Quantities,
    direct: Quantities,
    frameworks: Vec<(f64, usize)>,
    children: BTreeMap<String, Node>,
}

impl Node {
    fn descend(&mut self, path: &str) -> &mut Node {
        path.split('/').fold(self, |node, part| node.children.entry(part.to_string()).or_default())
    }
}

impl Books {
    pub(super) fn of(cluster: &Reference) -> Books {
        let mut totals = Quantities::new();
        let mut by_sub: BTreeMap<(&str, &str), Quantities> = BTreeMap::new();
        let mut consumed: BTreeMap<String, Quantities> = BTreeMap::new();
        for agent in cluster.agents.iter().flatten() {
            totals.add_all(&agent.spec.total.quantities());
            for item in agent.spec.total.iter() {
                if let (Some(owner), Some(amount)) = (item.reservation_role(), item.amount()) {
                    cluster.consume(&mut consumed, owner, item, amount);
                }
            }
            for held in &agent.held {
                let sums = by_sub.entry((&held.framework, &held.role)).or_default();
                for item in held.resources.iter().filter(|i| !i.is_shared()) {
                    let Some(amount) = item.amount() else { continue };
                    sums.add(item.name().clone(), amount);
                    if counts_against_limits(item) {
                        cluster.consume(&mut consumed, &held.role, item, amount);
                    }
                }
            }
        }
        let share = |allocated: &Quantities, weight: f64| {
            let part = |(name, amount): (&_, plenum_api::resources::Amount)| {
                let total = round_total(totals.get(name).thousandths());
                let counts = total > 0 && !cluster.options.excluded_from_fairness.contains(name);
                if counts { amount.thousandths() as f64 / total as f64 } else { 0.0 }
            };
            allocated.iter().map(part).fold(0.0, f64::max) / weight
        };
        let mut root = Node::default();
        for ((_, role), sums) in &by_sub {
            let mut node = &mut root;
            for part in role.split('/') {
                node = node.children.entry(part.to_string()).or_default();
                node.allocated.add_all(sums);
            }
            node.direct.add_all(sums);
        }
        for (seq, framework) in cluster.frameworks.iter().enumerate() {
            for role in &framework.spec.roles {
                let own = by_sub.get(&(framework.id.as_str(), role.as_str())).map_or(0.0, |s| share(s, 1.0));
                root.descend(role).frameworks.push((own, seq));
            }
        }
        let mut order = Vec::new();
        cluster.walk(&mut root, "", &share, &mut order);
        Books { order, consumed }
    }
}

impl Reference {
    fn consume(
        &self,
        consumed: &mut BTreeMap<String, Quantities>,
        role: &str,
        item: &Item,
        amount: plenum_api::resources::Amount,
    ) {
        for limited in self.limits.keys().filter(|limited| within(role, limited)) {
            consumed.entry(limited.clone()).or_default().add(item.name().clone(), amount);
        }
    }

    fn walk(
        &self,
        node: &mut Node,
        path: &str,
        share: &impl Fn(&Quantities, f64) -> f64,
        order: &mut Vec<(usize, String)>,
    ) {
        node.frameworks.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut turns: Vec<(f64, Option<String>)> = vec![(share(&node.direct, 1.0), None)];
        for (name, child) in &node.children {
            let full = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let weight = self.weights.get(&full).copied().unwrap_or(1.0);
            turns.push((share(&child.allocated, weight), Some(name.clone())));
        }
        turns.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        for (_, turn) in turns {
            match turn {
                None => order.extend(node.frameworks.iter().map(|f| (f.1, path.to_string()))),
                Some(name) => {
                    let full = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    if let Some(child) = node.children.get_mut(&name) {
                        self.walk(child, &full, share, order);
                    }
                }
            }
        }
    }
}

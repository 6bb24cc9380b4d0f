//! Does an offer fit an app, what of it is taken, and if not, why not. Pure arithmetic: the decision and its
//! explanation are one piece of code.

use std::sync::Arc;

use serde::Serialize;

use super::constraint::{Constraint, Location, Neighbours};
use super::definition::Definition;
use super::id::InstanceId;
use super::pod::Resources;
use super::volume::{self, Claim};

/// What a node offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The offer's id.
    pub id: String,
    /// The node.
    pub agent: String,
    /// Where it is.
    pub location: Arc<Location>,
    /// The role it is offered to.
    pub role: String,
    /// Planned maintenance is under way.
    pub maintenance: bool,
    /// The resources, in the order the master gave them.
    pub portions: Vec<Portion>,
}

/// A part of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// `cpus`, `mem`, `disk`, `gpus`, `ports`.
    pub name: String,
    /// The role it is reserved for; `*` when it is not.
    pub reserved: String,
    /// How much.
    pub amount: Amount,
    /// Whose it is, where it was reserved for an instance.
    pub claim: Option<Box<Claim>>,
}

impl Portion {
    /// The instance that it was reserved for.
    pub fn owner(&self) -> Option<&InstanceId> {
        self.claim.as_ref().map(|claim| &claim.instance)
    }

    /// The volume that it is.
    pub fn volume(&self) -> Option<&str> {
        self.claim.as_ref()?.volume.as_deref()
    }
}

/// A quantity; thousandths, or inclusive ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Thousandths of the unit.
    Scalar(i64),
    /// Inclusive ranges.
    Ranges(Vec<(u64, u64)>),
}

/// What is taken of one portion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// Which, by its place in [`Offer::portions`].
    pub portion: usize,
    /// How much.
    pub amount: Amount,
}

/// A fit: what is taken, and the host port for each of the app's ports that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The resources.
    pub takes: Vec<Take>,
    /// One an app port.
    pub host_ports: Vec<Option<u16>>,
}

/// Why an offer does not fit. The order is that of Marathon's funnel; `dcos marathon debug` relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Reason {
    /// Offered to another role, or reserved for roles the app does not accept.
    UnfulfilledRole,
    /// A placement rule.
    UnfulfilledConstraint,
    /// A volume's reservation is elsewhere.
    NoCorrespondingReservationFound,
    /// The node is being maintained.
    AgentMaintenance,
    /// Too few cores.
    InsufficientCpus,
    /// Too little memory.
    InsufficientMemory,
    /// Too little disk.
    InsufficientDisk,
    /// Too few graphics processors.
    InsufficientGpus,
    /// Ports are taken.
    InsufficientPorts,
    /// Kept free for apps that need graphics processors.
    DeclinedScarceResources,
}

impl Reason {
    /// Every reason, in order.
    pub const ALL: [Reason; 10] = [
        Reason::UnfulfilledRole,
        Reason::UnfulfilledConstraint,
        Reason::NoCorrespondingReservationFound,
        Reason::AgentMaintenance,
        Reason::InsufficientCpus,
        Reason::InsufficientMemory,
        Reason::InsufficientDisk,
        Reason::InsufficientGpus,
        Reason::InsufficientPorts,
        Reason::DeclinedScarceResources,
    ];

    /// The name clients know.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// One rule an offer broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Marathon's name for the kind of rule.
    pub reason: Reason,
    /// The rule.
    pub rule: String,
    /// What it asks for.
    pub needed: String,
    /// What there was.
    pub had: String,
    /// The nearest change that would help.
    pub fix: String,
}

/// What one instance asks of an offer, prepared once for many offers.
#[derive(Debug)]
pub struct Wish {
    role: String,
    accepted: Vec<String>,
    constraints: Vec<(Constraint, String)>,
    needs: Resources,
    ports: Vec<Option<u16>>,
    /// Disk for volumes, in thousandths of MiB; none for what has none.
    volumes: Option<i64>,
}

impl Wish {
    /// What an instance of `definition` asks for. Its constraints were validated when it was accepted; one that no longer parses is
    /// ignored.
    pub fn new(definition: &Definition) -> Self {
        let rules = definition.constraints();
        let parsed = rules.iter().filter_map(|rule| Some((Constraint::parse(rule).ok()?, rule.join(":"))));
        Self {
            role: definition.role().to_owned(),
            accepted: definition.accepted_roles().to_vec(),
            constraints: parsed.collect(),
            needs: definition.needs(),
            ports: definition.host_ports(),
            volumes: definition.is_resident().then(|| {
                let sizes = definition.volumes().into_iter().map(|(_, size)| volume::mebibytes(size));
                sizes.fold(0, i64::saturating_add)
            }),
        }
    }

    /// What the rules look at of the app's other instances, which are at `placed`.
    pub fn neighbours<'a>(&self, placed: impl Iterator<Item = &'a Location>) -> Neighbours {
        let mut neighbours = Neighbours::new(self.constraints.iter().map(|(constraint, _)| constraint));
        if neighbours.matter() {
            placed.for_each(|at| neighbours.add(at));
        }
        neighbours
    }

    /// How many other instances are in the same groups as `there`, as far as rules spread the app over groups.
    pub fn grouped(&self, there: &Location, neighbours: &Neighbours) -> usize {
        let spreading = self.constraints.iter().filter(|(constraint, _)| constraint.spreads());
        spreading.map(|(constraint, _)| neighbours.beside(constraint, there)).fold(0, usize::saturating_add)
    }

    /// Tries `offer`, with the app's other instances as `neighbours` says. `seed` spreads the choice of dynamic ports.
    ///
    /// # Errors
    /// All rules that are broken, in the order of [`Reason`].
    pub fn fit(
        &self,
        offer: &Offer,
        neighbours: &Neighbours,
        seed: u64,
    ) -> Result<Placement, Vec<Rejection>> {
        let mut broken = Vec::new();
        self.roles(offer, &mut broken);
        self.places(offer, neighbours, &mut broken);
        maintained(offer, &mut broken);
        let mut takes = Vec::new();
        for (name, reason, mut need) in self.scalars() {
            if name == "disk" {
                need = need.saturating_add(self.volumes.unwrap_or(0));
            }
            match take_scalar(&self.portions(offer, name), need) {
                Ok(taken) => takes.extend(taken),
                Err(had) => broken.push(lack(name, reason, need, had)),
            }
        }
        let host_ports = match take_ports(&self.portions(offer, "ports"), &self.ports, seed, &mut takes) {
            Ok(ports) => ports,
            Err(rejection) => {
                broken.push(rejection);
                Vec::new()
            }
        };
        let gpus = offer.portions.iter().any(|p| p.name == "gpus" && p.amount != Amount::Scalar(0));
        if gpus && self.needs.gpus == 0 {
            broken.push(Rejection {
                reason: Reason::DeclinedScarceResources,
                rule: "nodes with GPUs are kept for apps that need them".to_owned(),
                needed: "a node without GPUs".to_owned(),
                had: format!("{} has GPUs", offer.location.host),
                fix: "ask for gpus, or add a node without".to_owned(),
            });
        }
        broken.sort_by_key(|r| r.reason);
        if broken.is_empty() { Ok(Placement { takes, host_ports }) } else { Err(broken) }
    }

    /// What is reserved for an instance belongs to that one. What has volumes reserves only what is everybody's.
    fn accepts(&self, portion: &Portion) -> bool {
        let reserved = portion.reserved.as_str();
        if portion.claim.is_some() {
            return false;
        }
        if self.volumes.is_some() {
            return reserved == "*";
        }
        match self.accepted.as_slice() {
            [] => reserved == "*" || reserved == self.role,
            roles => roles.iter().any(|r| r == reserved),
        }
    }

    fn roles(&self, offer: &Offer, broken: &mut Vec<Rejection>) {
        if offer.role != self.role {
            broken.push(Rejection {
                reason: Reason::UnfulfilledRole,
                rule: "role".to_owned(),
                needed: format!("an offer to the role {}", self.role),
                had: format!("an offer to {}", offer.role),
                fix: format!("wait for an offer to {}, or change the app's role", self.role),
            });
            return;
        }
        let open = || offer.portions.iter().filter(|p| p.claim.is_none());
        if open().next().is_some() && !open().any(|p| self.accepts(p)) {
            let had: std::collections::BTreeSet<&str> = open().map(|p| p.reserved.as_str()).collect();
            let had = had.into_iter().collect::<Vec<_>>().join(", ");
            let resident = self.volumes.is_some();
            let fix = if resident {
                "have resources on the node that are reserved for nobody".to_owned()
            } else {
                format!("add one of {had} to acceptedResourceRoles")
            };
            broken.push(Rejection {
                reason: Reason::UnfulfilledRole,
                rule: "acceptedResourceRoles".to_owned(),
                needed: if resident { "*".to_owned() } else { self.accepted.join(", ") },
                fix,
                had,
            });
        }
    }

    pub(super) fn places(&self, offer: &Offer, neighbours: &Neighbours, broken: &mut Vec<Rejection>) {
        for (constraint, words) in &self.constraints {
            if let Err((needed, had)) = constraint.check(&offer.location, neighbours) {
                broken.push(Rejection {
                    reason: Reason::UnfulfilledConstraint,
                    rule: words.clone(),
                    fix: format!("add a node for which {needed}, or loosen {words}"),
                    needed,
                    had,
                });
            }
        }
    }

    pub(super) fn scalars(&self) -> [(&'static str, Reason, i64); 4] {
        let needs = &self.needs;
        [
            ("cpus", Reason::InsufficientCpus, thousandths(needs.cpus)),
            ("mem", Reason::InsufficientMemory, thousandths(needs.mem)),
            ("disk", Reason::InsufficientDisk, thousandths(needs.disk)),
            ("gpus", Reason::InsufficientGpus, i64::from(needs.gpus).saturating_mul(1000)),
        ]
    }

    /// Reserved portions go first, so that what everybody may use stays.
    fn portions<'o>(&self, offer: &'o Offer, name: &str) -> Vec<(usize, &'o Portion)> {
        let all = offer.portions.iter().enumerate();
        let mut fitting: Vec<_> = all.filter(|(_, p)| p.name == name && self.accepts(p)).collect();
        fitting.sort_by_key(|(_, p)| p.reserved == "*");
        fitting
    }
}

/// So much out of these portions.
///
/// # Errors
/// What there is, if that is less.
pub(super) fn take_scalar(portions: &[(usize, &Portion)], need: i64) -> Result<Vec<Take>, i64> {
    let (mut left, mut takes, mut had) = (need, Vec::new(), 0i64);
    for (portion, p) in portions {
        let Amount::Scalar(there) = p.amount else { continue };
        had = had.saturating_add(there);
        let part = left.min(there);
        if part > 0 {
            takes.push(Take { portion: *portion, amount: Amount::Scalar(part) });
            left = left.saturating_sub(part);
        }
    }
    if left > 0 { Err(had) } else { Ok(takes) }
}

/// A number for each of these ports: chosen where it is 0.
pub(super) fn take_ports(
    portions: &[(usize, &Portion)],
    ports: &[Option<u16>],
    seed: u64,
    takes: &mut Vec<Take>,
) -> Result<Vec<Option<u16>>, Rejection> {
    let mut free: Vec<(usize, u64)> = Vec::new();
    let wanted = ports.iter().flatten().count();
    if wanted == 0 {
        return Ok(ports.iter().map(|_| None).collect());
    }
    let exact: Vec<u64> = ports.iter().flatten().filter(|p| **p != 0).map(|p| u64::from(*p)).collect();
    let mut host_ports = Vec::with_capacity(ports.len());
    let total: u64 = portions.iter().map(|(_, p)| count(&p.amount)).fold(0, u64::saturating_add);
    let mut cursor = if total == 0 { 0 } else { seed % total };
    for port in ports {
        let chosen = match *port {
            None => None,
            Some(0) => Some(
                next_free(portions, total, &mut cursor, &free, &exact).ok_or_else(|| few(wanted, total))?,
            ),
            Some(number) => {
                let number = u64::from(number);
                let holder = portions.iter().find(|(_, p)| contains(&p.amount, number));
                let taken = free.iter().any(|(_, n)| *n == number);
                Some(holder.filter(|_| !taken).map(|(i, _)| (*i, number)).ok_or_else(|| no_port(number))?)
            }
        };
        free.extend(chosen);
        host_ports.push(chosen.and_then(|(_, n)| u16::try_from(n).ok()));
    }
    for (index, _) in portions {
        let mut numbers: Vec<u64> = free.iter().filter(|(i, _)| i == index).map(|(_, n)| *n).collect();
        numbers.sort_unstable();
        if !numbers.is_empty() {
            takes.push(Take { portion: *index, amount: Amount::Ranges(ranges(&numbers)) });
        }
    }
    Ok(host_ports)
}

/// Takes a placement out of an offer.
pub fn subtract(offer: &mut Offer, takes: &[Take]) {
    for take in takes {
        let Some(portion) = offer.portions.get_mut(take.portion) else { continue };
        match (&mut portion.amount, &take.amount) {
            (Amount::Scalar(there), Amount::Scalar(part)) => *there = there.saturating_sub(*part),
            (Amount::Ranges(there), Amount::Ranges(parts)) => {
                for (begin, end) in parts {
                    for number in *begin..=*end {
                        remove(there, number);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What stays of an offer's processors and memory after `takes`, in thousandths of what these take; the larger of the two.
pub fn left_over(offer: &Offer, takes: &[Take]) -> i64 {
    let share = |name: &str| {
        let all = offer.portions.iter().filter(|portion| portion.name == name && portion.claim.is_none());
        let scalar = |amount: &Amount| if let Amount::Scalar(n) = amount { *n } else { 0 };
        let there = all.map(|portion| scalar(&portion.amount)).fold(0, i64::saturating_add);
        let of = |take: &&Take| offer.portions.get(take.portion).is_some_and(|portion| portion.name == name);
        let taken = takes.iter().filter(of).map(|take| scalar(&take.amount)).fold(0, i64::saturating_add);
        there.saturating_sub(taken).saturating_mul(1000).checked_div(taken).unwrap_or(0)
    };
    share("cpus").max(share("mem"))
}

/// Thousandths of a quantity, rounded; the precision Mesos keeps.
pub fn thousandths(n: f64) -> i64 {
    (n * 1000.0).round() as i64
}

fn lack(name: &str, reason: Reason, need: i64, had: i64) -> Rejection {
    let show = |n: i64| n as f64 / 1000.0;
    let unit = if name == "mem" || name == "disk" { " MiB" } else { "" };
    Rejection {
        reason,
        rule: name.to_owned(),
        needed: format!("{}{unit}", show(need)),
        had: format!("{}{unit}", show(had)),
        fix: format!(
            "free {}{unit} of {name} on this node, or lower the app's {name}",
            show(need.saturating_sub(had))
        ),
    }
}

pub(super) fn maintained(offer: &Offer, broken: &mut Vec<Rejection>) {
    if offer.maintenance {
        broken.push(Rejection {
            reason: Reason::AgentMaintenance,
            rule: "node is not in maintenance".to_owned(),
            needed: "a node in service".to_owned(),
            had: format!("{} is in maintenance", offer.location.host),
            fix: "end the node's maintenance, or wait for it to end".to_owned(),
        });
    }
}

fn few(wanted: usize, had: u64) -> Rejection {
    Rejection {
        reason: Reason::InsufficientPorts,
        rule: "ports".to_owned(),
        needed: format!("{wanted} ports"),
        had: format!("{had} ports"),
        fix: "widen the node's port range, or ask for fewer".to_owned(),
    }
}

fn no_port(number: u64) -> Rejection {
    Rejection {
        reason: Reason::InsufficientPorts,
        rule: "ports".to_owned(),
        needed: format!("port {number}"),
        had: "taken, or outside the node's range".to_owned(),
        fix: format!("free port {number} on this node, or let the port be chosen"),
    }
}

fn count(amount: &Amount) -> u64 {
    match amount {
        Amount::Ranges(list) => {
            list.iter().map(|(a, b)| b.saturating_sub(*a).saturating_add(1)).fold(0, u64::saturating_add)
        }
        Amount::Scalar(_) => 0,
    }
}

fn contains(amount: &Amount, number: u64) -> bool {
    matches!(amount, Amount::Ranges(list) if list.iter().any(|(a, b)| (*a..=*b).contains(&number)))
}

/// The port at the cursor, going round, that nobody has and nobody named.
fn next_free(
    portions: &[(usize, &Portion)],
    total: u64,
    cursor: &mut u64,
    taken: &[(usize, u64)],
    exact: &[u64],
) -> Option<(usize, u64)> {
    for _ in 0..total.min(65_536) {
        let at = nth(portions, *cursor)?;
        *cursor = cursor.saturating_add(1) % total;
        let usable = (1..=65_535).contains(&at.1) && !exact.contains(&at.1);
        if usable && !taken.iter().any(|(_, n)| *n == at.1) {
            return Some(at);
        }
    }
    None
}

fn nth(portions: &[(usize, &Portion)], mut n: u64) -> Option<(usize, u64)> {
    for (index, portion) in portions {
        let Amount::Ranges(list) = &portion.amount else { continue };
        for (begin, end) in list {
            let size = end.saturating_sub(*begin).saturating_add(1);
            if n < size {
                return Some((*index, begin.saturating_add(n)));
            }
            n -= size;
        }
    }
    None
}

fn ranges(sorted: &[u64]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for n in sorted {
        match out.last_mut() {
            Some((_, end)) if end.saturating_add(1) == *n => *end = *n,
            _ => out.push((*n, *n)),
        }
    }
    out
}

fn remove(list: &mut Vec<(u64, u64)>, number: u64) {
    let Some(i) = list.iter().position(|(a, b)| (*a..=*b).contains(&number)) else { return };
    let (begin, end) = list.remove(i);
    if number < end {
        list.insert(i, (number.saturating_add(1), end));
    }
    if begin < number {
        list.insert(i, (begin, number.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::app::App;
    use crate::core::id::PathId;

    fn offer(cpus: f64, mem: f64, ports: &[(u64, u64)]) -> Offer {
        let scalar = |name: &str, n: f64| Portion {
            name: name.to_owned(),
            reserved: "*".to_owned(),
            amount: Amount::Scalar(thousandths(n)),
            claim: None,
        };
        let ports = Amount::Ranges(ports.to_vec());
        let ports =
            Portion { name: "ports".to_owned(), reserved: "*".to_owned(), amount: ports, claim: None };
        Offer {
            id: "o".to_owned(),
            agent: "a".to_owned(),
            location: Arc::new(Location { host: "h".to_owned(), ..Location::default() }),
            role: "*".to_owned(),
            maintenance: false,
            portions: vec![scalar("cpus", cpus), scalar("mem", mem), ports],
        }
    }

    fn app(change: impl FnOnce(&mut App)) -> Definition {
        let mut app = App::new(PathId::parse("/a").unwrap(), "*");
        let body = serde_json::json!({"cmd": "x", "cpus": 1, "mem": 100});
        crate::core::update::apply(&mut app, body.as_object().unwrap(), "*").unwrap();
        change(&mut app);
        Definition::App(app)
    }

    #[test]
    fn takes_what_is_asked_and_leaves_the_rest() {
        let mut offer = offer(2.0, 150.0, &[(31000, 31001)]);
        let app = app(|_| {});
        let fit = Wish::new(&app).fit(&offer, &Neighbours::default(), 1).unwrap();
        assert_eq!(fit.host_ports, [Some(31001)]);
        subtract(&mut offer, &fit.takes);
        assert_eq!(offer.portions[0].amount, Amount::Scalar(1000));
        assert_eq!(offer.portions[2].amount, Amount::Ranges(vec![(31000, 31000)]));
        let broken = Wish::new(&app).fit(&offer, &Neighbours::default(), 0).unwrap_err();
        assert_eq!(broken.iter().map(|b| b.reason).collect::<Vec<_>>(), [Reason::InsufficientMemory]);
        assert_eq!((broken[0].needed.as_str(), broken[0].had.as_str()), ("100 MiB", "50 MiB"));
    }

    #[test]
    fn reserved_resources_need_acceptance_and_go_first() {
        let mut offer = offer(1.0, 200.0, &[(1, 9)]);
        offer.portions.push(Portion {
            name: "cpus".to_owned(),
            reserved: "db".to_owned(),
            amount: Amount::Scalar(500),
            claim: None,
        });
        let two = app(|a| a.cpus = 1.5);
        assert!(Wish::new(&two).fit(&offer, &Neighbours::default(), 0).is_err());
        let two =
            app(|a| (a.cpus, a.accepted_resource_roles) = (1.5, Some(vec!["*".to_owned(), "db".to_owned()])));
        let fit = Wish::new(&two).fit(&offer, &Neighbours::default(), 0).unwrap();
        assert_eq!(fit.takes[0], Take { portion: 3, amount: Amount::Scalar(500) });
    }

    #[test]
    fn required_ports_are_had_exactly_or_not_at_all() {
        let app = app(|a| (a.require_ports, a.port_definitions[0].port) = (true, 5));
        assert_eq!(
            Wish::new(&app).fit(&offer(1.0, 100.0, &[(1, 9)]), &Neighbours::default(), 0).unwrap().host_ports,
            [Some(5)]
        );
        let broken =
            Wish::new(&app).fit(&offer(1.0, 100.0, &[(6, 9)]), &Neighbours::default(), 0).unwrap_err();
        assert_eq!(broken[0].needed, "port 5");
    }
}

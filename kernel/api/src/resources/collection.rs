//! The normalised collection and its arithmetic.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::Arc;

use super::{Amount, Item, Meta, Name, Quantities, Ranges, Reservation, Value};

/// Metadata as items hold it.
type Shared = Option<Arc<Meta>>;

/// A normalised collection of resources. Order carries no meaning and follows the order of arrival.
///
/// Collections have few items (an agent's total rarely more than ten), so lookups are linear and addition of plain
/// scalars allocates nothing once the item exists.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub(super) items: Vec<Item>,
}

impl Resources {
    /// Nothing.
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// Plain cpus and mem (MiB), for tests and examples.
    pub fn cpus_mem(cpus: f64, mem: f64) -> Self {
        [Item::scalar(Name::CPUS, Amount::from_f64(cpus)), Item::scalar(Name::MEM, Amount::from_f64(mem))]
            .into_iter()
            .collect()
    }

    /// True without resources.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items.
    pub fn iter(&self) -> std::slice::Iter<'_, Item> {
        self.items.iter()
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Adds one item; empty ones change nothing.
    pub fn add_item(&mut self, item: Item) {
        if item.is_empty() {
            return;
        }
        let shared = item.is_shared();
        let indivisible = item.is_indivisible();
        for mine in &mut self.items {
            if shared {
                if mine.value == item.value && mine.same_kind(&item) {
                    mine.copies = mine.copies.saturating_add(item.copies);
                    return;
                }
            } else if !indivisible && mine.same_kind(&item) {
                mine.value.add(&item.value);
                return;
            }
        }
        self.items.push(item);
    }

    /// Takes one item away; what is not here is ignored, as Mesos does. See [`Resources::checked_sub`].
    pub fn sub_item(&mut self, item: &Item) {
        let Some(position) = self.position_to_subtract(item) else { return };
        let mine = &mut self.items[position];
        if item.is_shared() {
            mine.copies = mine.copies.saturating_sub(item.copies);
        } else {
            mine.value.sub(&item.value);
        }
        if mine.is_empty() {
            self.items.remove(position);
        }
    }

    fn position_to_subtract(&self, item: &Item) -> Option<usize> {
        let whole = item.is_indivisible();
        self.items.iter().position(|mine| mine.same_kind(item) && (!whole || mine.value == item.value))
    }

    /// True when the item, in full, is part of this.
    pub fn contains_item(&self, item: &Item) -> bool {
        if item.is_empty() {
            return true;
        }
        let whole = item.is_indivisible();
        self.items.iter().any(|mine| {
            mine.same_kind(item)
                && mine.copies >= item.copies
                && if whole { mine.value == item.value } else { mine.value.contains(&item.value) }
        })
    }

    /// True when all of `other` is part of this.
    pub fn contains(&self, other: &Resources) -> bool {
        // Divisible items are unique by kind in both, so each can be looked at alone; equal indivisible items (two
        // identical disks) must be counted.
        if !other.items.iter().any(|i| i.is_indivisible() && !i.is_shared()) {
            return other.items.iter().all(|item| self.contains_item(item));
        }
        let mut rest = self.clone();
        other.items.iter().all(|item| {
            let fits = rest.contains_item(item);
            rest.sub_item(item);
            fits
        })
    }

    /// The difference, or `None` when `other` is not part of this.
    pub fn checked_sub(&self, other: &Resources) -> Option<Resources> {
        self.contains(other).then(|| self - other)
    }

    /// The items a condition holds for.
    pub fn filter(&self, mut keep: impl FnMut(&Item) -> bool) -> Resources {
        Resources { items: self.items.iter().filter(|i| keep(i)).cloned().collect() }
    }

    /// Items whose innermost reservation is for exactly this role.
    pub fn reserved(&self, role: &str) -> Resources {
        self.filter(|i| i.reservation_role() == Some(role))
    }

    /// Items with any reservation.
    pub fn all_reserved(&self) -> Resources {
        self.filter(|i| !i.reservations().is_empty())
    }

    /// Items without reservation.
    pub fn unreserved(&self) -> Resources {
        self.filter(|i| i.reservations().is_empty())
    }

    /// Items that tasks of the role may use.
    pub fn allocatable_to(&self, role: &str) -> Resources {
        self.filter(|i| i.is_allocatable_to(role))
    }

    /// Items allocated to exactly this role.
    pub fn allocated_to(&self, role: &str) -> Resources {
        self.filter(|i| i.allocation_role() == Some(role))
    }

    /// Items that may be taken back.
    pub fn revocable(&self) -> Resources {
        self.filter(Item::is_revocable)
    }

    /// Items that may not be taken back.
    pub fn non_revocable(&self) -> Resources {
        self.filter(|i| !i.is_revocable())
    }

    /// Items that several may use.
    pub fn shared(&self) -> Resources {
        self.filter(Item::is_shared)
    }

    /// Persistent volumes.
    pub fn persistent_volumes(&self) -> Resources {
        self.filter(Item::is_persistent_volume)
    }

    /// Scalar items.
    pub fn scalars(&self) -> Resources {
        self.filter(|i| i.amount().is_some())
    }

    fn map_meta(&self, mut change: impl FnMut(&mut Meta)) -> Resources {
        let mut cache: Option<(Shared, Shared)> = None;
        let mut out = Resources { items: Vec::with_capacity(self.items.len()) };
        for item in &self.items {
            // Neighbours mostly share their metadata (or have none); one changed copy serves them all.
            let same = |known: &Shared| match (known, &item.meta) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let meta = match &cache {
                Some((from, to)) if same(from) => to.clone(),
                _ => {
                    let mut meta = item.meta_owned();
                    change(&mut meta);
                    let to = (!meta.is_plain()).then(|| Arc::new(meta));
                    cache = Some((item.meta.clone(), to.clone()));
                    to
                }
            };
            let (name, value, copies) = (item.name.clone(), item.value.clone(), item.copies);
            out.add_item(Item { name, value, meta, copies });
        }
        out
    }

    /// The same without any reservation.
    pub fn to_unreserved(&self) -> Resources {
        if self.items.iter().all(|i| i.reservations().is_empty()) {
            return self.clone();
        }
        self.map_meta(|m| m.reservations.clear())
    }

    /// The same with one more reservation on each stack. The caller has validated it ([`super::validate`]).
    pub fn push_reservation(&self, reservation: &Reservation) -> Resources {
        self.map_meta(|m| m.reservations.push(reservation.clone()))
    }

    /// The same with the innermost reservation taken off; unreserved items stay.
    pub fn pop_reservation(&self) -> Resources {
        self.map_meta(|m| drop(m.reservations.pop()))
    }

    /// The same, allocated to the role.
    pub fn allocate(&self, role: &str) -> Resources {
        if self.items.iter().all(|i| i.allocation_role() == Some(role)) {
            return self.clone();
        }
        self.map_meta(|m| m.allocation = Some(role.to_string()))
    }

    /// The same, allocated to nobody.
    pub fn unallocate(&self) -> Resources {
        if self.items.iter().all(|i| i.allocation_role().is_none()) {
            return self.clone();
        }
        self.map_meta(|m| m.allocation = None)
    }

    /// Roles that something is reserved for (innermost), sorted, without repeats.
    pub fn reservation_roles(&self) -> Vec<&str> {
        let mut roles: Vec<&str> = self.items.iter().filter_map(Item::reservation_role).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// Roles that something is allocated to, sorted, without repeats.
    pub fn allocation_roles(&self) -> Vec<&str> {
        let mut roles: Vec<&str> = self.items.iter().filter_map(Item::allocation_role).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// Sum of the scalars of this name, whatever is said about them; a shared one counts once.
    pub fn amount(&self, name: &Name) -> Amount {
        self.items.iter().filter(|i| i.name == *name).filter_map(Item::amount).sum()
    }

    /// Union of the ranges of this name.
    pub fn ranges(&self, name: &Name) -> Ranges {
        let mut out = Ranges::default();
        for item in &self.items {
            if let Value::Ranges(ranges) = &item.value
                && item.name == *name
            {
                out = out.union(ranges);
            }
        }
        out
    }

    /// Processors.
    pub fn cpus(&self) -> Amount {
        self.amount(&Name::CPUS)
    }

    /// Memory in MiB.
    pub fn mem(&self) -> Amount {
        self.amount(&Name::MEM)
    }

    /// Disk in MiB.
    pub fn disk(&self) -> Amount {
        self.amount(&Name::DISK)
    }

    /// Graphics processors.
    pub fn gpus(&self) -> Amount {
        self.amount(&Name::GPUS)
    }

    /// Ports.
    pub fn ports(&self) -> Ranges {
        self.ranges(&Name::PORTS)
    }

    /// Sums of all scalars by name.
    pub fn quantities(&self) -> Quantities {
        let mut out = Quantities::new();
        for item in &self.items {
            if let Some(amount) = item.amount() {
                out.add(item.name.clone(), amount);
            }
        }
        out
    }

    /// Finds resources here for what a task needs, whatever they are reserved for: of the needed reservation first,
    /// then unreserved, then any other. `None` when there is not enough.
    pub fn find(&self, needed: &Resources) -> Option<Resources> {
        let mut rest = self.clone();
        let mut found = Resources::new();
        for need in &needed.items {
            let got = rest.find_item(need)?;
            rest -= &got;
            found += &got;
        }
        Some(found)
    }

    fn find_item(&self, need: &Item) -> Option<Resources> {
        let role = need.reservation_role();
        let bare = |item: &Item| {
            let mut meta = item.meta_owned();
            meta.reservations.clear();
            item.with_meta(meta)
        };
        let mut left = bare(need);
        let mut found = Resources::new();
        let rank = |item: &Item| match item.reservation_role() {
            r if r.is_some() && r == role => 0,
            None => 1,
            Some(_) => 2,
        };
        let mut candidates: Vec<&Item> = self.items.iter().filter(|i| i.name == need.name).collect();
        candidates.sort_by_key(|i| rank(i));
        for item in candidates {
            if !bare(item).same_kind(&left) {
                continue;
            }
            if item.is_indivisible() {
                if item.value == left.value && item.copies >= left.copies {
                    found.add_item(Item { copies: left.copies, ..item.clone() });
                    return Some(found);
                }
                continue;
            }
            if let Some(common) = item.value.common(&left.value) {
                left.value.sub(&common);
                found.add_item(Item { value: common, ..item.clone() });
            }
            if left.value.is_empty() {
                return Some(found);
            }
        }
        None
    }
}

/// As collections: the same items in any order.
impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.items.len() == other.items.len() && self.contains(other) && other.contains(self)
    }
}

impl Eq for Resources {}

impl AddAssign<&Resources> for Resources {
    fn add_assign(&mut self, other: &Resources) {
        for item in &other.items {
            // The common case without cloning the item.
            if let Value::Scalar(amount) = item.value
                && item.meta.is_none()
                && let Some(mine) = self.items.iter_mut().find(|i| i.same_kind(item))
                && let Value::Scalar(sum) = &mut mine.value
            {
                *sum += amount;
                continue;
            }
            self.add_item(item.clone());
        }
    }
}

impl AddAssign<Resources> for Resources {
    fn add_assign(&mut self, other: Resources) {
        if self.items.is_empty() {
            *self = other;
        } else {
            other.items.into_iter().for_each(|item| self.add_item(item));
        }
    }
}

impl SubAssign<&Resources> for Resources {
    fn sub_assign(&mut self, other: &Resources) {
        for item in &other.items {
            self.sub_item(item);
        }
    }
}

impl Add<&Resources> for &Resources {
    type Output = Resources;
    fn add(self, other: &Resources) -> Resources {
        let mut sum = self.clone();
        sum += other;
        sum
    }
}

impl Add for Resources {
    type Output = Resources;
    fn add(mut self, other: Resources) -> Resources {
        self += other;
        self
    }
}

impl Sub<&Resources> for &Resources {
    type Output = Resources;
    fn sub(self, other: &Resources) -> Resources {
        let mut rest = self.clone();
        rest -= other;
        rest
    }
}

impl FromIterator<Item> for Resources {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut out = Resources::new();
        items.into_iter().for_each(|item| out.add_item(item));
        out
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a Item;
    type IntoIter = std::slice::Iter<'a, Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

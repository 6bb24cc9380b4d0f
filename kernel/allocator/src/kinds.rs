//! Interning: a resource without its amount becomes a small number, looked at once. Owns the way between
//! [`Resources`] and bags.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_api::resources::{Amount as Scalar, Item, Meta, Name, Quantities, Resources, Value};

use crate::bag::{Amount, Bag, KindId};
use crate::slab::Slab;

/// The name of a scalar (`cpus`, `mem`, …) as an index into [`Amounts`].
pub(crate) type NameId = usize;

/// Scalars by name, in thousandths; what is missing at the end is zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Amounts(Vec<i64>);

impl Amounts {
    pub(crate) fn get(&self, name: NameId) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, name: NameId, amount: i64) {
        if name >= self.0.len() {
            self.0.resize(name + 1, 0);
        }
        if let Some(mine) = self.0.get_mut(name) {
            *mine = mine.saturating_add(amount);
        }
    }

    /// Adds `factor` (1 or -1) times the other.
    pub(crate) fn apply(&mut self, other: &Amounts, factor: i64) {
        for (name, amount) in other.iter() {
            self.add(name, amount.saturating_mul(factor));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NameId, i64)> + '_ {
        self.0.iter().copied().enumerate()
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|n| *n == 0)
    }
}

/// What decisions need to know of a resource whatever its amount.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// The resource, allocated to nobody; with its value where it only comes whole.
    item: Item,
    bucket: Bucket,
    /// For scalars: which.
    pub(crate) name: Option<NameId>,
    /// The role of the last reservation.
    pub(crate) reserved: Option<Arc<str>>,
    pub(crate) refined: bool,
    pub(crate) revocable: bool,
    pub(crate) shared: bool,
    /// It only comes whole: a disk of its own, a volume. Amounts count pieces.
    pub(crate) whole: bool,
}

impl Kind {
    pub(crate) fn text(&self) -> &str {
        self.item.name().as_str()
    }

    /// Thousandths of one piece of what only comes whole.
    pub(crate) fn piece(&self) -> i64 {
        self.item.amount().map_or(0, Scalar::thousandths)
    }

    /// Thousandths that an amount of this kind stands for; zero for what is not a scalar.
    pub(crate) fn quantity(&self, amount: &Amount) -> i64 {
        match amount {
            Amount::Scalar(pieces) if self.whole => self.piece().saturating_mul(*pieces),
            Amount::Scalar(n) => *n,
            _ => 0,
        }
    }
}

/// Equal for equal kinds; different kinds of few may share one, and are then compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    name: Name,
    value: u8,
    role: Option<String>,
    volume: Option<String>,
}

/// All kinds in use and the names of scalars.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinds {
    rows: Slab<Kind>,
    /// Most resources are plain: their name and type say all.
    plain: Vec<(Name, u8, KindId)>,
    buckets: BTreeMap<Bucket, Vec<KindId>>,
    names: Vec<Name>,
    collect_at: usize,
}

/// Whether `role` is `ancestor` or lies below it.
pub(crate) fn within(role: &str, ancestor: &str) -> bool {
    role.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn value_type(value: &Value) -> u8 {
    match value {
        Value::Scalar(_) => 0,
        Value::Ranges(_) => 1,
        Value::Set(_) => 2,
    }
}

fn same_apart_from_allocation(a: &Meta, b: &Meta) -> bool {
    if a.allocation == b.allocation {
        return a == b;
    }
    let strip = |m: &Meta| Meta { allocation: None, ..m.clone() };
    strip(a) == strip(b)
}

impl Kinds {
    pub(crate) fn name(&mut self, name: &Name) -> NameId {
        if let Some(id) = self.names.iter().position(|n| n == name) {
            return id;
        }
        self.names.push(name.clone());
        self.names.len() - 1
    }

    pub(crate) fn name_of(&self, name: NameId) -> Option<&Name> {
        self.names.get(name)
    }

    pub(crate) fn get(&self, kind: KindId) -> Option<&Kind> {
        self.rows.get(kind)
    }

    /// A bag of these resources, whoever they are allocated to.
    pub(crate) fn bag(&mut self, resources: &Resources) -> Bag {
        let mut bag = Bag::default();
        for item in resources.iter() {
            let kind = self.intern(item);
            let amount = match item.value() {
                _ if item.meta().is_some_and(Meta::is_indivisible) => {
                    Amount::Scalar(i64::from(item.copies()))
                }
                Value::Scalar(n) => Amount::Scalar(n.thousandths()),
                Value::Ranges(ranges) => Amount::Ranges(ranges.clone()),
                Value::Set(items) => Amount::Items(items.clone()),
            };
            bag.add_one(kind, &amount);
        }
        bag
    }

    /// The resources of a bag.
    pub(crate) fn resources(&self, bag: &Bag) -> Resources {
        let mut list = Resources::new();
        for (id, amount) in bag.iter() {
            let Some(kind) = self.get(id) else { continue };
            let value = match amount {
                Amount::Scalar(pieces) if kind.whole => {
                    (0..*pieces).for_each(|_| list.add_item(kind.item.clone()));
                    continue;
                }
                Amount::Scalar(n) => Value::Scalar(Scalar::from_thousandths(*n)),
                Amount::Ranges(ranges) => Value::Ranges(ranges.clone()),
                Amount::Items(items) => Value::Set(items.clone()),
            };
            let meta = kind.item.meta().cloned().unwrap_or_default();
            list.add_item(Item::new(kind.item.name().clone(), value, meta));
        }
        list
    }

    /// Scalars by name.
    pub(crate) fn quantities(&self, amounts: &Amounts) -> Quantities {
        let named = |(id, n): (NameId, i64)| Some((self.names.get(id)?.clone(), Scalar::from_thousandths(n)));
        amounts.iter().filter(|(_, n)| *n != 0).filter_map(named).collect()
    }

    fn intern(&mut self, item: &Item) -> KindId {
        let value = value_type(item.value());
        let plain = Meta::default();
        let meta = item.meta().unwrap_or(&plain);
        let is_plain = item.meta().is_none() || same_apart_from_allocation(meta, &plain);
        if is_plain {
            let same = |(name, v, _): &&(Name, u8, KindId)| *v == value && name == item.name();
            if let Some((_, _, id)) = self.plain.iter().find(same) {
                return *id;
            }
        }
        let bucket = Bucket {
            name: item.name().clone(),
            value,
            role: item.reservation_role().map(str::to_string),
            volume: meta.persistence_id().map(str::to_string),
        };
        let whole = meta.is_indivisible();
        let same = |id: &&KindId| {
            self.rows.get(**id).is_some_and(|k| {
                same_apart_from_allocation(k.item.meta().unwrap_or(&plain), meta)
                    && (!whole || k.item.value() == item.value())
            })
        };
        if let Some(id) = self.buckets.get(&bucket).and_then(|ids| ids.iter().find(same)) {
            return *id;
        }
        let name = (value == 0).then(|| self.name(item.name()));
        let bare =
            Item::new(item.name().clone(), item.value().clone(), Meta { allocation: None, ..meta.clone() });
        let id = self.rows.insert(Kind {
            name,
            reserved: item.reservation_role().map(Arc::from),
            refined: item.reservations().len() > 1,
            revocable: item.is_revocable(),
            shared: item.is_shared(),
            whole,
            item: bare,
            bucket: bucket.clone(),
        });
        if is_plain {
            self.plain.push((item.name().clone(), value, id));
        }
        self.buckets.entry(bucket).or_default().push(id);
        id
    }

    /// Whether it is time to look for kinds that nobody holds.
    pub(crate) fn wants_collection(&self) -> bool {
        self.rows.len() > self.collect_at.max(1024)
    }

    /// Forgets kinds that are in none of these bags.
    pub(crate) fn collect<'a>(&mut self, used: impl Iterator<Item = &'a Bag>) {
        let mut keep = crate::bits::Bits::default();
        used.flat_map(Bag::iter).for_each(|(kind, _)| keep.insert(kind));
        let dead: Vec<KindId> = self.rows.iter().map(|(id, _)| id).filter(|id| !keep.contains(*id)).collect();
        for id in dead {
            let Some(kind) = self.rows.remove(id) else { continue };
            self.plain.retain(|(_, _, k)| *k != id);
            if let Some(ids) = self.buckets.get_mut(&kind.bucket) {
                ids.retain(|k| *k != id);
                if ids.is_empty() {
                    self.buckets.remove(&kind.bucket);
                }
            }
        }
        self.collect_at = self.rows.len().saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bags_are_faithful() {
        let parse = |text: &str| Resources::parse(text, "*").unwrap();
        let mut kinds = Kinds::default();
        for text in [
            "cpus:4;mem:1024.5;ports:[1-5,8-9]",
            "cpus:1;cpus(a):2;cpus(a/b):3;tags:{x,y};ports(a):[7-7]",
            "",
        ] {
            let resources = parse(text);
            let bag = kinds.bag(&resources);
            assert_eq!(kinds.resources(&bag), resources, "{text}");
            assert_eq!(kinds.bag(&resources.allocate("z")), bag, "{text}");
        }
        assert_eq!(kinds.rows.len(), 7);
        let some = kinds.bag(&parse("mem:1"));
        kinds.collect([&some].into_iter());
        assert_eq!(kinds.rows.len(), 1);
        assert_eq!(kinds.resources(&some), parse("mem:1"));
        kinds.bag(&parse("cpus:1;cpus(a):2"));
        assert_eq!(kinds.rows.len(), 3);
    }

    #[test]
    fn subroles_are_within() {
        for (role, ancestor, expected) in
            [("a", "a", true), ("a/b", "a", true), ("ab", "a", false), ("a", "a/b", false), ("*", "a", false)]
        {
            assert_eq!(within(role, ancestor), expected, "{role} in {ancestor}");
        }
    }
}

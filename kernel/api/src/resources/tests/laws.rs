//! Laws that hold for all resources.

use proptest::prelude::*;

use crate::codec::{Encoding, decode, encode};
use crate::mesos;
use crate::resources::*;

fn amount() -> impl Strategy<Value = Amount> {
    (1_i64..1_000_000).prop_map(Amount::from_thousandths)
}

fn ranges() -> impl Strategy<Value = Ranges> {
    proptest::collection::vec((0_u64..60, 0_u64..6), 1..5)
        .prop_map(|pairs| Ranges::new(pairs.into_iter().map(|(begin, more)| (begin, begin + more))))
}

fn metas() -> impl Strategy<Value = Meta> {
    let reservations = prop_oneof![
        4 => Just(Vec::new()),
        2 => Just(vec![Reservation::fixed("web")]),
        1 => Just(vec![Reservation::dynamic("web", Some("ops".into()))]),
        1 => Just(vec![Reservation::fixed("web"), Reservation::dynamic("web/front", None)]),
    ];
    let allocation = prop_oneof![2 => Just(None), 1 => Just(Some("web".to_string()))];
    (reservations, allocation, proptest::bool::weighted(0.1)).prop_map(
        |(reservations, allocation, revocable)| Meta {
            reservations,
            allocation,
            revocable,
            ..Meta::default()
        },
    )
}

fn volume() -> impl Strategy<Value = Item> {
    (0_u8..4, 1_i64..4, any::<bool>()).prop_map(|(id, size, shared)| {
        let persistence = mesos::resource::disk_info::Persistence { id: format!("v{id}"), principal: None };
        let disk = mesos::resource::DiskInfo { persistence: Some(persistence), ..Default::default() };
        let meta = Meta {
            reservations: vec![Reservation::fixed("web")],
            disk: Some(disk),
            shared,
            ..Meta::default()
        };
        Item::new(Name::DISK, Value::Scalar(Amount::from_units(size)), meta)
    })
}

fn item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![Just(Name::CPUS), Just(Name::MEM), Just(Name::DISK), Just(Name::from("fpga"))];
    let words = proptest::collection::btree_set("[a-d]", 1..3);
    prop_oneof![
        5 => (name, amount(), metas()).prop_map(|(n, a, m)| Item::new(n, Value::Scalar(a), m)),
        2 => (ranges(), metas()).prop_map(|(r, m)| Item::new(Name::PORTS, Value::Ranges(r), m)),
        1 => (words, metas()).prop_map(|(s, m)| Item::new(Name::from("disks"), Value::Set(s), m)),
        1 => volume(),
    ]
}

fn resources() -> impl Strategy<Value = Resources> {
    proptest::collection::vec(item(), 0..7).prop_map(|items| items.into_iter().collect())
}

/// Resources without ranges and sets, whose sums are unions.
fn counted() -> impl Strategy<Value = Resources> {
    resources().prop_map(|r| r.scalars())
}

proptest! {
    #[test]
    fn sums_do_not_care_for_order(a in resources(), b in resources(), c in resources()) {
        prop_assert_eq!(&a + &b, &b + &a);
        prop_assert_eq!(&(&a + &b) + &c, &a + &(&b + &c));
        prop_assert_eq!(&a + &Resources::new(), a);
    }

    #[test]
    fn what_is_added_can_be_taken(a in counted(), b in counted()) {
        let sum = &a + &b;
        prop_assert!(sum.contains(&a) && sum.contains(&b));
        prop_assert_eq!(sum.checked_sub(&b), Some(a.clone()));
        prop_assert!((&sum - &sum).is_empty());
        prop_assert_eq!(a.contains(&sum), b.is_empty());
    }

    #[test]
    fn what_is_taken_can_be_put_back(a in resources(), b in resources()) {
        let rest = &a - &b;
        prop_assert!(a.contains(&rest));
        if a.contains(&b) {
            prop_assert_eq!(&rest + &b, a);
        }
    }

    #[test]
    fn containment_is_an_order(a in resources(), b in resources(), c in resources()) {
        prop_assert!(a.contains(&a) && a.contains(&Resources::new()));
        if a.contains(&b) && b.contains(&a) {
            prop_assert_eq!(&a, &b);
        }
        if a.contains(&b) && b.contains(&c) {
            prop_assert!(a.contains(&c));
        }
    }

    #[test]
    fn wire_and_back(a in resources()) {
        for format in [Format::Refined, Format::Both] {
            prop_assert_eq!(Resources::from_mesos(&a.to_mesos_as(format)), Ok(a.clone()));
        }
        let json = serde_json::to_vec(&a).expect("resources are JSON");
        prop_assert_eq!(serde_json::from_slice::<Resources>(&json).ok(), Some(a.clone()));
        let single = a.filter(|i| i.reservations().len() < 2);
        prop_assert_eq!(Resources::from_mesos(&a.to_mesos_as(Format::Legacy)), Ok(single.clone()));
        for wire in a.to_mesos() {
            let json = encode(Encoding::Json, &wire);
            prop_assert_eq!(decode::<mesos::Resource>(Encoding::Json, &json), Ok(wire.clone()));
        }
    }

    #[test]
    fn text_and_back(a in resources()) {
        let plain = a.filter(|i| {
            i.meta().is_none_or(|m| {
                m.allocation.is_none() && !m.revocable && m.disk.is_none()
                    && m.reservations.len() < 2 && m.reservations.iter().all(|r| !r.dynamic)
            })
        });
        prop_assert_eq!(Resources::parse(&plain.to_string(), "*"), Ok(plain.clone()));
        let json = serde_json::to_string(&plain.to_mesos()).expect("resources are JSON");
        prop_assert_eq!(Resources::parse(&json, "*"), Ok(plain.clone()));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[a-z:;()\\[\\]{}0-9., -]{0,40}") {
        if let Ok(parsed) = Resources::parse(&text, "*") {
            prop_assert_eq!(Resources::parse(&parsed.to_string(), "*"), Ok(parsed.clone()));
        }
    }

    #[test]
    fn allocation_comes_off_again(a in resources()) {
        let bare = a.unallocate();
        prop_assert_eq!(bare.allocate("r").unallocate(), bare.clone());
        prop_assert_eq!(bare.allocate("r").quantities(), a.quantities());
        prop_assert_eq!(a.to_unreserved().cpus(), a.cpus());
        prop_assert!(a.to_unreserved().all_reserved().is_empty());
    }

    #[test]
    fn found_resources_are_there_and_enough(a in resources(), b in counted()) {
        if let Some(found) = a.find(&b) {
            prop_assert!(a.contains(&found));
            prop_assert_eq!(found.to_unreserved(), b.to_unreserved());
        } else {
            prop_assert!(!a.contains(&b));
        }
    }

    #[test]
    fn ranges_are_sets(a in ranges(), b in ranges()) {
        let numbers = |r: &Ranges| r.numbers().collect::<std::collections::BTreeSet<u64>>();
        let (x, y) = (numbers(&a), numbers(&b));
        prop_assert_eq!(numbers(&a.union(&b)), &x | &y);
        prop_assert_eq!(numbers(&a.difference(&b)), &x - &y);
        prop_assert_eq!(numbers(&a.intersection(&b)), &x & &y);
        prop_assert_eq!(a.contains(&b), y.is_subset(&x));
        prop_assert_eq!(a.count(), x.len() as u64);
        prop_assert!((0..70).all(|n| a.has(n) == x.contains(&n)));
        prop_assert_eq!(a.union(&b), b.union(&a));
    }

    #[test]
    fn amounts_survive_the_wire(thousandths in -1_000_000_000_000_i64..1_000_000_000_000) {
        let amount = Amount::from_thousandths(thousandths);
        prop_assert_eq!(Amount::from_f64(amount.as_f64()), amount);
        prop_assert_eq!(amount.to_string().parse::<f64>().map(Amount::from_f64), Ok(amount));
    }
}

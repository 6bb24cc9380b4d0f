use serde_json::json;

use super::*;

fn spec(more: serde_json::Value) -> Spec {
    let mut all = json!({"min": 1, "max": 10, "intervalSeconds": 15, "tolerance": 0.1,
        "metrics": [{"type": "cpu", "target": 0.5}]});
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    Spec::deserialize(&all).unwrap()
}

fn load(known: &[f64], unknown: u32) -> Load {
    Load { known: known.to_vec(), unknown }
}

fn wish(spec: &Spec, current: u32, loads: &[Load]) -> Option<u32> {
    spec.wish(current, loads).map(|found| found.count)
}

#[test]
fn the_mean_is_brought_to_its_target() {
    let cpu = spec(json!({}));
    let cases: [(u32, &[f64], u32, Option<u32>); 12] = [
        (2, &[1.0, 1.0], 0, Some(4)),
        (2, &[0.5, 0.5], 0, Some(2)),
        // Within the tolerance.
        (4, &[0.54; 4], 0, Some(4)),
        (4, &[0.46; 4], 0, Some(4)),
        (4, &[0.56; 4], 0, Some(5)),
        (4, &[0.1; 4], 0, Some(1)),
        (4, &[0.0; 4], 0, Some(0)),
        // One is busy, the others are not: it is the mean that counts.
        (4, &[1.0, 0.2, 0.2, 0.2], 0, Some(4)),
        // Nobody knows anything.
        (3, &[], 3, None),
        // Those of which nothing is known are idle where more are called for, and on target where fewer are.
        (4, &[1.0, 1.0], 2, Some(4)),
        (4, &[2.0, 2.0], 2, Some(8)),
        (4, &[0.1, 0.1], 2, Some(3)),
    ];
    for (current, known, unknown, wanted) in cases {
        assert_eq!(wish(&cpu, current, &[load(known, unknown)]), wanted, "{current} {known:?} {unknown}");
    }
    let why = cpu.wish(2, &[load(&[0.9, 0.7], 0)]).unwrap().why;
    assert_eq!(why, "cpu is 80 % on the mean of 2, the target is 50 %");
}

#[test]
fn the_highest_of_several_counts_and_what_is_unknown_takes_nothing_away() {
    let both = spec(json!({"metrics": [{"type": "cpu", "target": 0.5},
        {"type": "requests", "target": 100, "counter": "c", "path": "/m", "portIndex": 0}]}));
    let (high, low) = (load(&[1.0, 1.0], 0), load(&[10.0, 10.0], 0));
    assert_eq!(wish(&both, 2, &[high.clone(), low.clone()]), Some(4));
    assert_eq!(wish(&both, 2, &[load(&[0.1, 0.1], 0), load(&[150.0, 150.0], 0)]), Some(3));
    assert_eq!(wish(&both, 2, &[high, load(&[], 2)]), Some(4), "more is right whatever the other says");
    let found = both.wish(2, &[load(&[], 2), low]).unwrap();
    assert_eq!((found.count, found.why.as_str()), (2, "nothing is known of cpu, so none are taken away"));
}

/// Numbers over time, one look every 15 s, with what each look finds.
fn run(spec: &Spec, from: u32, wishes: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let (mut current, mut past, mut all) = (from, Vec::new(), Vec::new());
    for (n, wish) in wishes.into_iter().enumerate() {
        let now = Millis::from_secs(1000 + 15 * n as u64);
        past.push((now, wish));
        let found = Found { count: wish, why: String::new() };
        let limits = (spec.min, spec.max);
        current = spec.settle(current, found, &past, (now, Millis::from_secs(1000)), limits).count;
        all.push(current);
    }
    all
}

#[test]
fn a_spike_is_followed_at_once_and_left_slowly() {
    let cpu = spec(json!({}));
    let spike = [2, 6, 6].into_iter().chain(std::iter::repeat_n(2, 30));
    let numbers = run(&cpu, 2, spike);
    assert_eq!(numbers[..3], [2, 6, 6]);
    // 300 s after it was last right, and not sooner.
    let end = numbers.iter().skip(3).position(|n| *n < 6).unwrap();
    assert_eq!((end, numbers[3 + end]), (20, 2), "{numbers:?}");
}

#[test]
fn a_load_that_flaps_changes_little() {
    let cpu = spec(json!({}));
    let flapping = (0..200).map(|n| if n % 4 == 0 { 8 } else { 3 });
    let numbers = run(&cpu, 3, flapping);
    let changes = numbers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 1 && numbers[199] == 8, "{changes} {numbers:?}");
    // Growth may be held off as well.
    let careful = spec(json!({"scaleUp": {"windowSeconds": 60}}));
    let numbers = run(&careful, 3, (0..200).map(|n| if n % 4 == 0 { 8 } else { 3 }));
    assert!(numbers.iter().all(|n| *n == 3), "{numbers:?}");
    assert_eq!(
        run(&careful, 3, [8; 6]),
        [3, 3, 3, 3, 7, 8],
        "a minute of it, then at most four more at a time"
    );
}

#[test]
fn a_slow_decay_goes_down_in_steps() {
    let steps = spec(json!({"scaleDown": {"windowSeconds": 60, "maxStep": 1}}));
    let decay = (0..24).map(|n| 8_u32.saturating_sub(n / 2).max(1));
    let numbers = run(&steps, 8, decay);
    assert!(numbers.windows(2).all(|pair| pair[1] <= pair[0] && pair[0] - pair[1] <= 1), "{numbers:?}");
    assert!(*numbers.last().unwrap() <= 2, "{numbers:?}");
}

#[test]
fn who_began_to_look_a_moment_ago_takes_nothing_away() {
    let cpu = spec(json!({}));
    let found = || Found { count: 1, why: "x".to_owned() };
    let at = |now: u64| {
        let now = Millis::from_secs(now);
        cpu.settle(6, found(), &[(now, 1)], (now, Millis::from_secs(0)), (1, 10)).count
    };
    assert_eq!((at(10), at(299), at(300)), (6, 6, 1));
}

#[test]
fn limits_hold_whatever_was_found() {
    let cpu = spec(json!({"min": 2, "max": 5}));
    let settle = |current, count| {
        let found = Found { count, why: "x".to_owned() };
        cpu.settle(current, found, &[], (Millis::from_secs(900), Millis(0)), (2, 5))
    };
    assert_eq!(settle(5, 9).count, 5);
    assert_eq!(settle(2, 0).why, "x; 0 is beyond the limit (min 2)");
    // Somebody set a number outside of them.
    assert_eq!((settle(1, 1).count, settle(9, 9).count), (2, 5));
}

#[test]
fn schedules_hold_on_their_days_and_over_midnight() {
    let spec = spec(json!({"metrics": [], "schedules": [
        {"start": "22:30", "minutes": 120, "days": ["fri"], "min": 7, "max": 9},
        {"start": "08:00", "minutes": 60, "min": 3, "max": 4}]}));
    let minutes = |day: u64, hour: u64, minute: u64| Millis((day * 24 * 60 + hour * 60 + minute) * 60_000);
    let limits = |at| {
        let (min, max, _) = spec.limits(at);
        (min, max)
    };
    // 2026-11-20 was a Friday: the 20,777th day.
    let friday = 20_777;
    assert_eq!(limits(minutes(friday, 22, 29)), (1, 10));
    assert_eq!(limits(minutes(friday, 22, 30)), (7, 9));
    assert_eq!(limits(minutes(friday, 23, 59)), (7, 9));
    assert_eq!(limits(minutes(friday + 1, 0, 29)), (7, 9));
    assert_eq!(limits(minutes(friday + 1, 0, 30)), (1, 10));
    assert_eq!(limits(minutes(friday + 1, 22, 30)), (1, 10), "Saturdays are free");
    assert_eq!(limits(minutes(friday + 3, 8, 0)), (3, 4));
    assert_eq!(limits(minutes(friday + 3, 9, 0)), (1, 10));
    let start = |text: &str| Schedule { start: text.to_owned(), ..spec.schedules[0].clone() }.minute();
    assert_eq!(start("23:59"), Some(1439));
    for bad in ["24:00", "8:00", "08:60", "0800", "-1:00", "+1:00", "08:00:00", ""] {
        assert_eq!(start(bad), None, "{bad}");
    }
}

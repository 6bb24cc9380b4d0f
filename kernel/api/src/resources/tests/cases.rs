//! Single cases: text, validation, formats, disks.

use crate::codec::{Encoding, decode};
use crate::mesos;
use crate::resources::*;

fn parse(text: &str) -> Resources {
    Resources::parse(text, "*").unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn wire(json: &str) -> mesos::Resource {
    decode(Encoding::Json, json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

#[test]
fn text_forms() {
    let cases = [
        ("cpus:4;mem:1024;ports:[31000-32000]", "cpus:4; mem:1024; ports:[31000-32000]"),
        ("cpus(web):1.5; cpus:0.25", "cpus(web):1.5; cpus:0.25"),
        ("cpus:1;cpus:2", "cpus:3"),
        ("ports:[5-7, 1-2,3-4]", "ports:[1-7]"),
        ("disks:{a, b}", "disks:{a, b}"),
        ("cpus:0;mem:1", "mem:1"),
        ("", ""),
        (r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"role":"web"}]"#, "cpus(web):2"),
    ];
    for (text, shown) in cases {
        assert_eq!(parse(text).to_string(), shown, "{text}");
    }
    assert_eq!(
        Resources::parse("cpus:1;mem(*):2", "web").map(|r| r.to_string()).as_deref(),
        Ok("cpus(web):1; mem:2")
    );
    let bad = [
        "cpus",
        "cpus:",
        "cpus:x",
        "cpus:-1",
        "cpus:0.0001",
        "cpus:nan",
        "cpus:inf",
        ":1",
        "cpus(web:1",
        "ports:[1]",
        "ports:[2-1]",
        "ports:[1-2",
        "ports:[a-b]",
        "disks:{a,a}",
        "cpus(a b):1",
        "cpus(/a):1",
        "cpus:1;cpus:[1-2]",
        "[1]",
        "[",
        "cpus:1e13",
    ];
    for text in bad {
        assert!(Resources::parse(text, "*").is_err(), "{text} was accepted");
    }
}

#[test]
fn scalars_round_as_mesos_rounds() {
    for (value, shown) in
        [(0.1 + 0.2, "0.3"), (1.0005, "1.001"), (1.00049, "1"), (1024.0, "1024"), (0.01, "0.01")]
    {
        assert_eq!(Amount::from_f64(value).to_string(), shown);
    }
    let mut sum = Resources::new();
    for _ in 0..10 {
        sum += &Resources::cpus_mem(0.1, 0.0);
    }
    assert_eq!(sum, Resources::cpus_mem(1.0, 0.0));
    assert_eq!(Amount::from_thousandths(-1500).to_string(), "-1.5");
    assert_eq!(Amount::from_f64(f64::NAN), Amount::ZERO);
}

#[test]
fn both_reservation_formats_mean_the_same() {
    let scalar = r#""name":"cpus","type":"SCALAR","scalar":{"value":2}"#;
    let same = [
        (r#""role":"*""#, r#""reservations":[]"#),
        (r#""role":"web""#, r#""reservations":[{"type":"STATIC","role":"web"}]"#),
        (
            r#""role":"web","reservation":{"principal":"p","labels":{"labels":[{"key":"b"},{"key":"a"}]}}"#,
            r#""reservations":[{"type":"DYNAMIC","role":"web","principal":"p","labels":{"labels":[{"key":"a"},{"key":"b"}]}}]"#,
        ),
    ];
    for (old, new) in same {
        let read =
            |part: &str| Resources::from_mesos(&[wire(&format!("{{{scalar},{part}}}"))]).expect("valid");
        assert_eq!(read(old), read(new), "{old}");
    }
    let refined = Resources::from_mesos(&[wire(&format!(
        r#"{{{scalar},"reservations":[{{"type":"STATIC","role":"a"}},{{"type":"DYNAMIC","role":"a/b"}}]}}"#
    ))])
    .expect("valid");
    assert!(refined.to_mesos_as(Format::Legacy).is_empty());
    assert_eq!(refined.reservation_roles(), ["a/b"]);
    assert!(!refined.allocatable_to("a").iter().any(|_| true));
    assert_eq!(refined.allocatable_to("a/b/c"), refined);
    assert_eq!(refined.pop_reservation().to_string(), "cpus(a):2");
    let both = refined.pop_reservation().to_mesos_as(Format::Both);
    assert_eq!((both[0].role.as_deref(), both[0].reservations.len()), (Some("a"), 1));
}

#[test]
fn invalid_resources_are_refused_with_a_code() {
    let cases = [
        ("RESOURCE_NO_NAME", r#"{"name":"","type":"SCALAR","scalar":{"value":1}}"#),
        ("RESOURCE_VALUE", r#"{"name":"cpus","type":"SCALAR"}"#),
        ("RESOURCE_VALUE", r#"{"name":"cpus","type":"TEXT"}"#),
        ("RESOURCE_VALUE", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}"#),
        ("RESOURCE_VALUE", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":0.0001}}"#),
        ("RESOURCE_VALUE", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"set":{"item":["a"]}}"#),
        ("RESOURCE_VALUE", r#"{"name":"p","type":"RANGES","ranges":{"range":[{"begin":2,"end":1}]}}"#),
        (
            "RESOURCE_VALUE",
            r#"{"name":"p","type":"RANGES","ranges":{"range":[{"begin":1,"end":5},{"begin":5,"end":6}]}}"#,
        ),
        ("RESOURCE_VALUE", r#"{"name":"p","type":"SET","set":{"item":["a","a"]}}"#),
        ("RESOURCE_DISK", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"disk":{}}"#),
        (
            "RESOURCE_DISK",
            r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"UNKNOWN"}}}"#,
        ),
        (
            "RESOURCE_DISK",
            r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"RAW","mount":{}}}}"#,
        ),
        ("RESOURCE_RESERVATION", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"a//b"}"#),
        ("RESOURCE_RESERVATION", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservation":{}}"#),
        (
            "RESOURCE_RESERVATION",
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"role":"a"}]}"#,
        ),
        (
            "RESOURCE_RESERVATION",
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"STATIC","role":"*"}]}"#,
        ),
        (
            "RESOURCE_RESERVATION",
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"b"}]}"#,
        ),
        (
            "RESOURCE_RESERVATION",
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"STATIC","role":"a"},{"type":"STATIC","role":"a/b"}]}"#,
        ),
        (
            "RESOURCE_RESERVATION",
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"b","reservations":[{"type":"STATIC","role":"a"}]}"#,
        ),
        ("RESOURCE_SHARED", r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"shared":{}}"#),
    ];
    for (code, json) in cases {
        assert_eq!(validate(&wire(json)).err().map(|e| e.code()), Some(code), "{json}");
    }
}

#[test]
fn exclusive_disks_are_whole() {
    let mount = |size: u32| {
        wire(&format!(
            r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":{size}}},"disk":{{"source":{{"type":"MOUNT","mount":{{"root":"/a"}}}}}}}}"#
        ))
    };
    let read = |list: &[mesos::Resource]| Resources::from_mesos(list).expect("valid");
    let two = read(&[mount(10), mount(10)]);
    assert_eq!(two.len(), 2);
    assert!(!two.contains(&read(&[mount(5)])));
    assert!(two.contains(&read(&[mount(10), mount(10)])));
    assert!(!read(&[mount(10)]).contains(&two));
    assert_eq!((&two - &read(&[mount(10)])).len(), 1);
    assert_eq!(two.disk(), Amount::from_units(20));
}

#[test]
fn finding_prefers_the_needed_reservation() {
    let total = parse("cpus:2;cpus(web):1;cpus(db):4;mem:100");
    let found = |text: &str| total.find(&parse(text)).map(|r| r.to_string());
    assert_eq!(found("cpus(web):2").as_deref(), Some("cpus(web):1; cpus:1"));
    assert_eq!(found("cpus:3").as_deref(), Some("cpus:2; cpus(web):1"));
    assert_eq!(found("cpus:7;mem:100").as_deref(), Some("cpus:2; cpus(web):1; cpus(db):4; mem:100"));
    assert_eq!(found("cpus:8"), None);
    assert_eq!(found("gpus:1"), None);
}

#[test]
fn quantities_add_up() {
    let total = parse("cpus:2;cpus(web):1;mem:100;ports:[1-5]");
    let mut q = total.quantities();
    assert_eq!(q.to_string(), "cpus:3; mem:100");
    assert_eq!(Quantities::from_wire(&q.to_wire()), q);
    q.sub_all(&parse("cpus:1;mem:200").quantities());
    assert_eq!(q.to_string(), "cpus:2");
    assert!(total.quantities().contains(&q) && !q.contains(&total.quantities()));
    q.set(Name::GPUS, Amount::ZERO);
    assert_eq!((q.find(&Name::GPUS), q.find(&Name::MEM)), (Some(Amount::ZERO), None));
}

#[test]
fn roles() {
    for good in ["*", "a", "a/b", "a.b", "a/b-c"] {
        assert_eq!(role::validate(good), Ok(()), "{good}");
    }
    for bad in ["", "/a", "a/", "a//b", ".", "a/..", "a/*", "-a", "a/-b", "a b", "a\tb"] {
        assert!(role::validate(bad).is_err(), "{bad}");
    }
    assert!(role::is_strict_subrole("a/b", "a") && !role::is_strict_subrole("ab", "a"));
    assert!(!role::is_strict_subrole("a", "a"));
    assert_eq!(role::ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
}

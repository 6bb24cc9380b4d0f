//! What operations do.

use crate::codec::{Encoding, decode};
use crate::mesos::offer::Operation;
use crate::resources::*;

const RESERVED: &str = r#"{"name":"disk","type":"SCALAR","scalar":{"value":10},
    "reservations":[{"type":"DYNAMIC","role":"web","principal":"p"}]}"#;
const VOLUME: &str = r#"{"name":"disk","type":"SCALAR","scalar":{"value":10},
    "reservations":[{"type":"DYNAMIC","role":"web","principal":"p"}],
    "disk":{"persistence":{"id":"v"},"volume":{"mode":"RW","container_path":"data"}}}"#;

fn operation(json: &str) -> Operation {
    decode(Encoding::Json, json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn total() -> Resources {
    Resources::parse("cpus:4;disk:100", "*").expect("valid")
}

fn apply(to: &Resources, json: String) -> Result<Resources, &'static str> {
    to.apply(&operation(&json)).map_err(|e| e.code())
}

fn reserve(to: &Resources) -> Result<Resources, &'static str> {
    apply(to, format!(r#"{{"type":"RESERVE","reserve":{{"resources":[{RESERVED}]}}}}"#))
}

fn create(to: &Resources, volume: &str) -> Result<Resources, &'static str> {
    apply(to, format!(r#"{{"type":"CREATE","create":{{"volumes":[{volume}]}}}}"#))
}

fn destroy(to: &Resources, volume: &str) -> Result<Resources, &'static str> {
    apply(to, format!(r#"{{"type":"DESTROY","destroy":{{"volumes":[{volume}]}}}}"#))
}

#[test]
fn reserve_create_destroy_unreserve_leads_back() {
    let start = total();
    let reserved = reserve(&start).expect("there is enough");
    assert_eq!(reserved.to_string(), "cpus:4; disk:90; disk(dynamic web):10");
    let created = create(&reserved, VOLUME).expect("it is reserved");
    assert_eq!(created.to_string(), "cpus:4; disk:90; disk(dynamic web)(volume v):10");
    assert_eq!(created.quantities(), start.quantities());
    let unreserve = |r: &Resources, what: &str| {
        apply(r, format!(r#"{{"type":"UNRESERVE","unreserve":{{"resources":[{what}]}}}}"#))
    };
    assert_eq!(unreserve(&created, VOLUME), Err("OPERATION_UNSUPPORTED"));
    assert_eq!(unreserve(&created, RESERVED), Err("OPERATION_NOT_CONTAINED"));
    let destroyed = destroy(&created, VOLUME).expect("it is there");
    assert_eq!(destroyed, reserved);
    assert_eq!(unreserve(&destroyed, RESERVED), Ok(start));
}

#[test]
fn what_is_not_there_cannot_be_used() {
    let small = Resources::parse("disk:5", "*").expect("valid");
    assert_eq!(reserve(&small), Err("OPERATION_NOT_CONTAINED"));
    assert_eq!(create(&total(), VOLUME), Err("OPERATION_NOT_CONTAINED"));
    assert_eq!(create(&total(), RESERVED), Err("OPERATION_UNSUPPORTED"));
    assert_eq!(destroy(&total(), VOLUME), Err("OPERATION_NOT_CONTAINED"));
    assert_eq!(apply(&total(), r#"{"type":"RESERVE"}"#.into()), Err("OPERATION_UNSUPPORTED"));
    assert_eq!(apply(&total(), r#"{"type":"LAUNCH","launch":{}}"#.into()), Err("OPERATION_UNSUPPORTED"));
    assert_eq!(apply(&total(), "{}".into()), Err("OPERATION_UNSUPPORTED"));
    let foreign = r#"{"type":"RESERVE","reserve":{"source":[{"name":"cpus","type":"SCALAR","scalar":{"value":1}}],
        "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"reservations":[{"type":"DYNAMIC","role":"a"}]}]}}"#;
    assert_eq!(apply(&total(), foreign.into()), Err("OPERATION_UNSUPPORTED"));
}

#[test]
fn reservations_move_with_a_source() {
    let reserved = reserve(&total()).expect("there is enough");
    let other = RESERVED.replace("web", "db");
    let json = format!(r#"{{"type":"RESERVE","reserve":{{"source":[{RESERVED}],"resources":[{other}]}}}}"#);
    assert_eq!(
        apply(&reserved, json).map(|r| r.to_string()).as_deref(),
        Ok("cpus:4; disk:90; disk(dynamic db):10")
    );
}

#[test]
fn shared_volumes_go_with_their_last_copy() {
    let shared = VOLUME.replace(r#""name""#, r#""shared":{},"name""#);
    let reserved = reserve(&total()).expect("there is enough");
    let one = create(&reserved, &shared).expect("it is reserved");
    let volume = one.shared();
    assert_eq!((volume.len(), volume.iter().map(Item::copies).sum::<u32>()), (1, 1));
    let two = &one + &volume;
    assert_eq!(two.quantities(), one.quantities());
    assert!(two.contains(&(&volume + &volume)) && !one.contains(&(&volume + &volume)));
    assert_eq!(destroy(&two, &shared), Err("OPERATION_VOLUME_IN_USE"));
    assert_eq!(destroy(&(&two - &volume), &shared), Ok(reserved));
}

#[test]
fn volumes_grow_and_shrink() {
    let reserved = reserve(&reserve(&total()).expect("enough")).expect("enough");
    let created = create(&reserved, VOLUME).expect("it is reserved");
    let grow =
        format!(r#"{{"type":"GROW_VOLUME","grow_volume":{{"volume":{VOLUME},"addition":{RESERVED}}}}}"#);
    let grown = apply(&created, grow).expect("there is enough");
    assert_eq!(grown.to_string(), "cpus:4; disk:80; disk(dynamic web)(volume v):20");
    let big = VOLUME.replace(r#""value":10"#, r#""value":20"#);
    let shrink = |less: &str| {
        let body = format!(r#"{{"volume":{big},"subtract":{{"value":{less}}}}}"#);
        apply(&grown, format!(r#"{{"type":"SHRINK_VOLUME","shrink_volume":{body}}}"#))
    };
    assert_eq!(shrink("10"), Ok(created));
    assert_eq!(shrink("20"), Err("OPERATION_UNSUPPORTED"));
    assert_eq!(shrink("-5"), Err("OPERATION_UNSUPPORTED"));
}

//! The corners of Mesos' JSON, case by case.

use crate::codec::{DecodeError, Encoding, decode, decode_limited, encode};
use crate::mesos::{AgentInfo, Credential, TaskInfo, TaskState, TaskStatus, TimeInfo, task_status};
use crate::{master, mesos, scheduler};

fn json<T: crate::codec::Message>(text: &str) -> Result<T, DecodeError> {
    decode(Encoding::Json, text.as_bytes())
}

fn show<T: crate::codec::Message>(message: &T) -> String {
    String::from_utf8(encode(Encoding::Json, message).to_vec()).expect("JSON is UTF-8")
}

fn missing<T: crate::codec::Message>(text: &str) -> String {
    match json::<T>(text) {
        Err(DecodeError::Missing { path }) => path,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("accepted: {text}"),
    }
}

fn invalid<T: crate::codec::Message>(text: &str) -> String {
    match json::<T>(text) {
        Err(DecodeError::Invalid { path, .. }) => path,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("accepted: {text}"),
    }
}

#[test]
fn wide_integers_come_as_numbers_or_strings_and_leave_as_numbers() {
    for text in [r#"{"nanoseconds":9007199254740993}"#, r#"{"nanoseconds":"9007199254740993"}"#] {
        let time: TimeInfo = json(text).expect("both forms are accepted");
        assert_eq!(time.nanoseconds, 9_007_199_254_740_993);
        assert_eq!(show(&time), r#"{"nanoseconds":9007199254740993}"#);
    }
    assert_eq!(json::<TimeInfo>(r#"{"nanoseconds":5.0}"#).map(|t| t.nanoseconds), Ok(5));
    for bad in ["5.5", "\"x\"", "9223372036854775808", "true", "1e300", "{}"] {
        assert_eq!(invalid::<TimeInfo>(&format!(r#"{{"nanoseconds":{bad}}}"#)), "nanoseconds");
    }
}

#[test]
fn floats_accept_integers() {
    let filters: mesos::Filters = json(r#"{"refuse_seconds":5}"#).expect("an integer is a number");
    assert_eq!(filters.refuse_seconds, Some(5.0));
    assert_eq!(show(&filters), r#"{"refuse_seconds":5.0}"#);
}

#[test]
fn bytes_are_base64_in_all_dialects() {
    let expected = [0xfb_u8, 0xff, 0xfe, 0x01];
    for text in ["+//+AQ==", "+//+AQ", "-__-AQ==", "-__-AQ"] {
        let uuid: mesos::Uuid = json(&format!(r#"{{"value":"{text}"}}"#)).expect("base64");
        assert_eq!(uuid.value.as_ref(), expected);
        assert_eq!(show(&uuid), r#"{"value":"+//+AQ=="}"#);
    }
    assert_eq!(invalid::<mesos::Uuid>(r#"{"value":"%%"}"#), "value");
}

#[test]
fn unknown_enum_names() {
    let head = r#""task_id":{"value":"t"}"#;
    let status: TaskStatus =
        json(&format!(r#"{{{head},"state":"TASK_RUNNING","reason":"REASON_OF_TOMORROW"}}"#))
            .expect("an optional one reads as unset");
    assert_eq!((status.state(), status.reason), (TaskState::TaskRunning, None));
    assert_eq!(invalid::<TaskStatus>(&format!(r#"{{{head},"state":"TASK_OF_TOMORROW"}}"#)), "state");
    let set: mesos::CapabilityInfo =
        json(r#"{"capabilities":["CHOWN","TOMORROW","KILL"]}"#).expect("skipped");
    assert_eq!(show(&set), r#"{"capabilities":["CHOWN","KILL"]}"#);
}

#[test]
fn unknown_enum_numbers_in_protobuf() {
    let mut status = TaskStatus {
        task_id: "t".into(),
        state: TaskState::TaskRunning.into(),
        reason: Some(4000),
        ..Default::default()
    };
    let wire = encode(Encoding::Protobuf, &status);
    let back: TaskStatus = decode(Encoding::Protobuf, &wire).expect("an optional one is kept as a number");
    assert_eq!(show(&back), r#"{"task_id":{"value":"t"},"state":"TASK_RUNNING"}"#);
    status.state = 4000;
    let error = decode::<TaskStatus>(Encoding::Protobuf, &encode(Encoding::Protobuf, &status)).err();
    assert!(matches!(error, Some(DecodeError::Invalid { path, .. }) if path == "state"));
}

#[test]
fn missing_fields_are_named_by_path() {
    let accept = r#"{"type":"ACCEPT","accept":{"operations":[{"type":"LAUNCH","launch":{"task_infos":[
        {"name":"a","task_id":{"value":"1"},"agent_id":{"value":"s"}},{"name":"b","task_id":{},"agent_id":{"value":"s"}}]}}]}}"#;
    let path = "accept.operations[0].launch.task_infos[1].task_id.value";
    assert_eq!(missing::<scheduler::Call>(accept), path);
    assert_eq!(missing::<mesos::TaskInfo>(r#"{"name":"a"}"#), "task_id");
    assert_eq!(missing::<TimeInfo>(r#"{"nanoseconds":null}"#), "nanoseconds");
    let error = json::<TimeInfo>("{}").err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("required field `nanoseconds` is missing"));
}

#[test]
fn missing_fields_in_protobuf_have_the_same_path() {
    // accept(4) { operations(2) {} operations(2) { launch(2) { task_infos(1) { name(1) = "a" } } } }
    let wire = [0x22, 0x0b, 0x12, 0x00, 0x12, 0x07, 0x12, 0x05, 0x0a, 0x03, 0x0a, 0x01, b'a'];
    let error = decode::<scheduler::Call>(Encoding::Protobuf, &wire).err();
    let path = "accept.operations[1].launch.task_infos[0].task_id".to_string();
    assert_eq!(error, Some(DecodeError::Missing { path }));
    // A map entry without its value: limits(15) { key(1) = "cpus" } after the required fields of a task.
    let task = TaskInfo { name: "a".into(), task_id: "t".into(), agent_id: "s".into(), ..Default::default() };
    let mut wire = encode(Encoding::Protobuf, &task).to_vec();
    wire.extend_from_slice(&[0x7a, 0x06, 0x0a, 0x04, b'c', b'p', b'u', b's']);
    let error = decode::<TaskInfo>(Encoding::Protobuf, &wire).err();
    assert_eq!(error, Some(DecodeError::Missing { path: "limits[0].value".into() }));
}

#[test]
fn old_and_unknown_fields_are_ignored_and_null_is_absent() {
    let call: scheduler::Call = json(
        r#"{"type":"KILL","slave_id":{"value":7},"suppress":null,
            "kill":{"task_id":{"value":"t"},"slave_id":{"value":"s"},"kill_policy":null,"x":[1,{"y":2}]}}"#,
    )
    .expect("unknown fields do not matter");
    let kill = call.kill.expect("it is there");
    assert_eq!((kill.task_id.as_str(), kill.agent_id, kill.kill_policy), ("t", None, None));
    let agent: AgentInfo = json(r#"{"hostname":"h","resources":null}"#).expect("null is an empty list");
    assert_eq!((agent.resources.len(), agent.port()), (0, 5051));
    assert_eq!(show(&agent), r#"{"hostname":"h"}"#);
}

#[test]
fn wrong_types_are_named_by_path() {
    assert_eq!(
        invalid::<scheduler::Call>(r#"{"accept":{"filters":{"refuse_seconds":[]}}}"#),
        "accept.filters.refuse_seconds"
    );
    assert_eq!(invalid::<scheduler::Call>(r#"{"accept":{"offer_ids":{}}}"#), "accept.offer_ids");
    assert_eq!(invalid::<scheduler::Call>(r#"{"suppress":{"roles":["a",1]}}"#), "suppress.roles[1]");
    let quota = r#"{"role":"r","limits":{"cpus":{"value":"many"}}}"#;
    assert_eq!(invalid::<crate::quota::QuotaConfig>(quota), "limits.cpus.value");
    let twice = json::<TimeInfo>(r#"{"nanoseconds":1,"nanoseconds":2}"#).err().map(|e| e.to_string());
    assert!(twice.is_some_and(|t| t.starts_with("the message: duplicate field `nanoseconds`")));
    assert!(matches!(json::<TimeInfo>("{"), Err(DecodeError::Malformed { .. })));
    assert!(matches!(json::<TimeInfo>("[]"), Err(DecodeError::Invalid { .. })));
}

#[test]
fn zero_in_a_map_is_written() {
    let limits = [("gpus".to_string(), 0.0.into())].into();
    let quota = crate::quota::QuotaConfig { role: "r".into(), limits, ..Default::default() };
    // limits(3) { key(1) = "gpus" value(2) { value(1) = 0.0 } }
    let mut wire = vec![0x0a, 1, b'r', 0x1a, 17, 0x0a, 4, b'g', b'p', b'u', b's', 0x12, 9, 0x09];
    wire.extend_from_slice(&[0; 8]);
    assert_eq!(encode(Encoding::Protobuf, &quota), wire);
    assert_eq!(decode(Encoding::Protobuf, &wire), Ok(quota));
}

#[test]
fn maps_and_durations() {
    let text = r#"{"role":"r","limits":{"cpus":{"value":1.5},"mem":{"value":64.0}}}"#;
    let quota: crate::quota::QuotaConfig = json(text).expect("a map is an object");
    assert_eq!(quota.limits["cpus"].value, 1.5);
    assert_eq!(show(&quota), text);
    let text = r#"{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"a"},"max_grace_period":{"seconds":60}}}"#;
    let call: master::Call = json(text).expect("a duration is an object");
    let drain = call.drain_agent.expect("it is there");
    assert_eq!((drain.max_grace_period.and_then(|d| d.seconds), drain.mark_gone()), (Some(60), false));
}

#[test]
fn defaults_names_and_numbers_are_those_of_mesos() {
    assert!(mesos::CommandInfo::default().shell());
    assert_eq!(mesos::Filters::default().refuse_seconds(), 5.0);
    assert_eq!(mesos::HealthCheck::default().consecutive_failures(), 3);
    assert_eq!(TaskState::default(), TaskState::TaskStaging);
    assert_eq!(i32::from(TaskState::TaskUnknown), 13);
    assert_eq!(i32::from(task_status::Reason::AgentDraining), 34);
    assert_eq!(i32::from(master::call::Type::GetAllocationExplanation), 1000);
    let snmp: mesos::IpStatistics =
        json(r#"{"Forwarding":1,"DefaultTTL":64}"#).expect("names as in the kernel");
    assert_eq!(show(&snmp), r#"{"Forwarding":1,"DefaultTTL":64}"#);
}

#[test]
fn limits_and_media_types() {
    let error = decode_limited::<TimeInfo>(Encoding::Json, b"{}   ", 4).err();
    assert_eq!(error, Some(DecodeError::TooLarge { size: 5, limit: 4 }));
    assert_eq!(Encoding::from_media_type("Application/JSON; charset=utf-8"), Some(Encoding::Json));
    assert_eq!(Encoding::from_media_type("application/x-protobuf"), Some(Encoding::Protobuf));
    assert_eq!(Encoding::from_media_type("text/html"), None);
}

#[test]
fn secrets_are_not_printed() {
    let credential = Credential { principal: "p".into(), secret: Some("hunter2".into()) };
    let secret = mesos::secret::Value { data: "hunter2".into() };
    let shown = format!("{credential:?} {secret:?}");
    assert!(shown.contains("\"p\"") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
}

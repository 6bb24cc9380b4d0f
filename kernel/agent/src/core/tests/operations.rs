//! Operations on resources: what is written down, said, waited for, refused, and found again.

use std::collections::BTreeSet;

use plenum_api::internal::{self, agent_message::Kind as Say, master_message::Kind as Hear};
use plenum_api::mesos::offer::Operation;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{self, OperationState, Resource, TaskState};
use plenum_api::resources::Resources;

use super::script::*;
use crate::core::*;

/// An agent with some disk.
fn stage() -> Stage {
    let mut stage = Stage::with(settings("cpus:4;mem:64;disk:100"));
    stage.register();
    stage.out.clear();
    stage
}

fn settings(resources: &str) -> Settings {
    Settings {
        work_dir: "/w".to_owned(),
        boot_id: "boot-1".to_owned(),
        master_silence: Millis(u64::MAX / 2),
        resources: Resources::parse(resources, "*").unwrap().to_mesos(),
        ..Settings::default()
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn read<M: plenum_api::codec::Message>(value: serde_json::Value) -> M {
    plenum_api::codec::decode(plenum_api::codec::Encoding::Json, value.to_string().as_bytes()).unwrap()
}

fn reserved(name: &str, amount: u32) -> serde_json::Value {
    json(&format!(
        r#"{{"name":"{name}","type":"SCALAR","scalar":{{"value":{amount}}},"allocation_info":{{"role":"web"}},
            "reservations":[{{"type":"DYNAMIC","role":"web","principal":"p"}}]}}"#
    ))
}

fn volume(id: &str, amount: u32) -> serde_json::Value {
    let mut volume = reserved("disk", amount);
    volume["disk"] = json(&format!(
        r#"{{"persistence":{{"id":"{id}","principal":"p"}},"volume":{{"mode":"RW","container_path":"data"}}}}"#
    ));
    volume
}

fn operation(kind: &str, field: &str, list: &str, what: Vec<serde_json::Value>) -> Operation {
    let mut value = json(&format!(r#"{{"type":"{kind}","id":{{"value":"{kind}"}}}}"#));
    value[field] = serde_json::json!({ list: what });
    read(value)
}

fn reserve(what: Vec<serde_json::Value>) -> Operation {
    operation("RESERVE", "reserve", "resources", what)
}

fn create(what: Vec<serde_json::Value>) -> Operation {
    operation("CREATE", "create", "volumes", what)
}

fn destroy(what: Vec<serde_json::Value>) -> Operation {
    operation("DESTROY", "destroy", "volumes", what)
}

fn order(number: u8, info: Operation) -> Hear {
    let operation =
        mesos::Operation { info, uuid: mesos::Uuid { value: vec![number; 16].into() }, ..Default::default() };
    Hear::ApplyOperation(internal::ApplyOperation { framework_id: Some("F".into()), operation })
}

fn wants(mut task: mesos::TaskInfo, what: serde_json::Value) -> mesos::TaskInfo {
    task.resources.push(read(what));
    task
}

fn run(task: mesos::TaskInfo) -> Hear {
    Hear::RunTasks(internal::RunTasks {
        framework_info: framework(&[]),
        tasks: vec![task],
        launch_id: bytes::Bytes::from_static(b"launch"),
        ..Default::default()
    })
}

impl Stage {
    /// Results said since the last look.
    fn results(&mut self) -> Vec<internal::OperationUpdate> {
        let mut results = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Send(kind) => match kind.as_ref() {
                Say::OperationUpdate(update) => {
                    results.push(update.clone());
                    false
                }
                _ => true,
            },
            _ => true,
        });
        results
    }

    fn result(&mut self) -> internal::OperationUpdate {
        let mut results = self.results();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    /// The change of folders that is wanted: token, made, removed.
    fn folders(&mut self) -> Option<(u64, Vec<String>, Vec<String>)> {
        let at = self.out.iter().position(|effect| matches!(effect, Effect::Volumes { .. }))?;
        let Effect::Volumes { token, make, remove } = self.out.remove(at) else { unreachable!() };
        Some((token, ids(&make), ids(&remove)))
    }

    fn folders_done(&mut self, token: u64, result: Result<(), &str>) {
        self.event(Event::VolumesDone { token, result: result.map_err(str::to_owned) });
    }

    /// Carries out an operation whose folders can be made.
    fn carry_out(&mut self, number: u8, info: Operation) -> OperationState {
        self.master(vec![order(number, info)]);
        while let Some((token, ..)) = self.folders() {
            self.folders_done(token, Ok(()));
        }
        let result = self.result();
        self.master(vec![Hear::AcknowledgeOperation(internal::AcknowledgeOperation {
            operation_uuid: result.operation_uuid,
            status_uuid: result.status.uuid.clone().unwrap(),
        })]);
        result.status.state()
    }

    fn total(&self) -> String {
        Resources::from_mesos(&self.agent.view().agent.resources).unwrap().to_string()
    }

    /// What it registers with.
    fn registers(&mut self) -> internal::Register {
        self.conn += 1;
        let conn = self.conn;
        self.event(Event::Connected { conn });
        self.master(vec![Hear::Hello(internal::Hello {
            version_min: 1,
            version_max: 1,
            ..Default::default()
        })]);
        let register = self.out.iter().rev().find_map(|effect| match effect {
            Effect::Send(kind) => match kind.as_ref() {
                Say::Register(register) => Some(register.clone()),
                _ => None,
            },
            _ => None,
        });
        let register = register.expect("it registers");
        self.master(vec![Hear::Reregistered(internal::Reregistered {
            agent_id: "S".into(),
            ..Default::default()
        })]);
        register
    }
}

fn ids(volumes: &[Resource]) -> Vec<String> {
    volumes.iter().map(|one| one.disk.as_ref().unwrap().persistence.as_ref().unwrap().id.clone()).collect()
}

#[test]
fn a_reservation_is_on_the_disk_before_it_is_said_and_said_until_somebody_notes() {
    let mut stage = stage();
    stage.hold = true;
    stage.master(vec![order(1, reserve(vec![reserved("cpus", 1), reserved("disk", 40)]))]);
    assert!(stage.results().is_empty(), "not before it is on the disk");
    stage.release();
    let said = stage.result();
    assert_eq!(said.status.state(), OperationState::OperationFinished);
    assert_eq!(said.status.operation_id.as_ref().unwrap().value, "RESERVE");
    assert_eq!(stage.total(), "cpus:3; mem:64; disk:60; cpus(dynamic web):1; disk(dynamic web):40");
    stage.pass(10_000);
    assert_eq!(stage.result().status.uuid, said.status.uuid, "said again");
    stage.restart(vec![]);
    let register = stage.registers();
    let total = Resources::from_mesos(&register.checkpointed_resources).unwrap();
    assert_eq!(total.to_string(), stage.total());
    assert_eq!(register.agent_info.resources, stage.settings.resources, "as configured");
    assert_eq!(register.operations[0].latest_status, said.status);
    let again = stage.result();
    assert_eq!(again, said);
    // The same order once more: the same answer, and nothing is reserved twice.
    stage.master(vec![order(1, reserve(vec![reserved("cpus", 1), reserved("disk", 40)]))]);
    assert_eq!(stage.result(), said);
    let (operation_uuid, status_uuid) = (said.operation_uuid.clone(), said.status.uuid.clone().unwrap());
    stage.master(vec![Hear::AcknowledgeOperation(internal::AcknowledgeOperation {
        operation_uuid,
        status_uuid,
    })]);
    stage.pass(3_600_000);
    assert!(stage.results().is_empty());
    stage.restart(vec![]);
    assert!(stage.registers().operations.is_empty());
    assert!(stage.results().is_empty());
    stage.master(vec![order(1, reserve(vec![reserved("cpus", 1), reserved("disk", 40)]))]);
    assert_eq!(stage.result(), said, "remembered after it was acknowledged");
    assert_eq!(stage.total(), "cpus:3; mem:64; disk:60; cpus(dynamic web):1; disk(dynamic web):40");
}

#[test]
fn a_task_in_the_same_frame_waits_for_its_volume() {
    let mut stage = stage();
    let task = wants(task("t"), volume("v", 10));
    stage.master(vec![
        order(1, reserve(vec![reserved("disk", 10)])),
        order(2, create(vec![volume("v", 10)])),
        run(task),
    ]);
    let (token, made, removed) = stage.folders().expect("a folder is made");
    assert_eq!((made, removed), (vec!["v".to_owned()], vec![]));
    stage.master(vec![Hear::Ping(internal::Ping { seq: 1, connected: None })]);
    assert!(!stage.out.iter().any(|one| matches!(one, Effect::Launch(_))), "the folder is not there yet");
    stage.folders_done(token, Ok(()));
    let container = stage.launch().container;
    stage.launched(&container);
    assert_eq!(stage.results().len(), 2);
    assert!(stage.out.iter().any(|one| matches!(one, Effect::Send(kind) if matches!(**kind, Say::Pong(_)))));
    // In use: neither destroyed nor resized.
    assert_eq!(stage.carry_out(3, destroy(vec![volume("v", 10)])), OperationState::OperationFailed);
    stage.exited(&container, ExitStatus::Code(0));
    assert_eq!(stage.carry_out(4, destroy(vec![volume("v", 10)])), OperationState::OperationFinished);
    assert_eq!(stage.total(), "cpus:4; mem:64; disk:90; disk(dynamic web):10");
}

#[test]
fn destroying_is_written_down_first() {
    let mut stage = stage();
    stage.carry_out(1, reserve(vec![reserved("disk", 10)]));
    stage.carry_out(2, create(vec![volume("v", 10)]));
    stage.hold = true;
    stage.master(vec![order(3, destroy(vec![volume("v", 10)]))]);
    assert_eq!(stage.folders(), None, "the record first");
    stage.release();
    let (token, made, removed) = stage.folders().expect("then the folder");
    assert_eq!((made, removed), (vec![], vec!["v".to_owned()]));
    assert!(stage.results().is_empty());
    // kill -9 between the two: the next life does it.
    stage.restart(vec![]);
    let (again, made, removed) = stage.folders().expect("what was begun is finished");
    assert_eq!((made, removed), (vec![], vec!["v".to_owned()]));
    stage.folders_done(token + 1000, Ok(()));
    stage.conn += 1;
    let conn = stage.conn;
    stage.event(Event::Connected { conn });
    let hello = internal::Hello { version_min: 1, version_max: 1, ..Default::default() };
    stage.master(vec![Hear::Hello(hello)]);
    assert!(
        !stage.out.iter().any(|one| matches!(one, Effect::Send(kind) if matches!(**kind, Say::Register(_))))
    );
    stage.folders_done(again, Ok(()));
    assert!(
        stage.out.iter().any(|one| matches!(one, Effect::Send(kind) if matches!(**kind, Say::Register(_))))
    );
    // One that cannot be removed is still there, and the master is told.
    let mut stage = self::stage();
    stage.carry_out(1, reserve(vec![reserved("disk", 10)]));
    stage.carry_out(2, create(vec![volume("v", 10)]));
    let before = stage.total();
    stage.master(vec![order(3, destroy(vec![volume("v", 10)]))]);
    let (token, ..) = stage.folders().unwrap();
    stage.folders_done(token, Err("busy"));
    assert_eq!(stage.result().status.state(), OperationState::OperationFailed);
    let told = stage
        .out
        .iter()
        .any(|one| matches!(one, Effect::Send(kind) if matches!(**kind, Say::ResourcesChanged(_))));
    assert!(told && stage.total() == before);
    stage.restart(vec![]);
    assert_eq!(stage.folders().unwrap().1, vec!["v".to_owned()]);
    assert_eq!(stage.total(), before);
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let mut stage = stage();
    stage.carry_out(1, reserve(vec![reserved("disk", 20)]));
    stage.carry_out(2, create(vec![volume("v", 5)]));
    let before = stage.total();
    let launch: Operation = read(json(r#"{"type":"LAUNCH"}"#));
    let mut unreserved = volume("u", 5);
    unreserved.as_object_mut().unwrap().remove("reservations");
    for (number, (info, words)) in [
        (reserve(vec![reserved("disk", 81)]), "not part of"),
        (create(vec![volume("v", 5)]), "already"),
        (create(vec![volume("../etc", 5)]), "must"),
        (create(vec![volume("a/b", 5)]), "must"),
        (create(vec![volume("w", 16)]), "not part of"),
        (create(vec![unreserved]), "reserved"),
        (destroy(vec![volume("w", 5)]), "not part of"),
        (operation("UNRESERVE", "unreserve", "resources", vec![reserved("disk", 16)]), "not part of"),
        (operation("UNRESERVE", "unreserve", "resources", vec![volume("v", 5)]), "destroyed first"),
        (launch, "does not carry out"),
    ]
    .into_iter()
    .enumerate()
    {
        stage.master(vec![order(10 + u8::try_from(number).unwrap(), info)]);
        let status = stage.result().status;
        assert_eq!(status.state(), OperationState::OperationFailed);
        assert!(status.message().contains(words), "{:?} should say {words:?}", status.message());
        assert_eq!(stage.total(), before);
    }
    stage.full = Some("no space".to_owned());
    stage.master(vec![order(99, reserve(vec![reserved("cpus", 1)]))]);
    let status = stage.result().status;
    assert_eq!(status.state(), OperationState::OperationFailed);
    assert!(status.message().contains("no space"));
    assert_eq!(stage.total(), before);
}

#[test]
fn a_task_on_a_volume_that_is_not_there_is_refused() {
    let mut stage = stage();
    stage.carry_out(1, reserve(vec![reserved("disk", 20)]));
    stage.carry_out(2, create(vec![volume("v", 5)]));
    for (id, amount) in [("w", 5), ("v", 6)] {
        let name = format!("t{id}{amount}");
        stage.master(vec![run(wants(task(&name), volume(id, amount)))]);
        let status = stage.updates().remove(0);
        assert_eq!((status.state(), status.reason()), (TaskState::TaskError, Reason::TaskInvalid));
        assert!(status.message().contains(&format!("volume {id}")), "{:?}", status.message());
    }
    stage.master(vec![run(wants(task("t"), volume("v", 5)))]);
    assert_eq!(ids(&stage.launch().resources), vec!["v".to_owned()]);
}

#[test]
fn a_configuration_that_shrank_is_noticed() {
    let mut stage = stage();
    stage.carry_out(1, reserve(vec![reserved("disk", 20)]));
    stage.carry_out(2, create(vec![volume("v", 15)]));
    let records = || stage.disk.clone().into_iter().collect::<Vec<_>>();
    for (resources, fits) in [
        ("cpus:4;mem:64;disk:100", true),
        ("cpus:1;disk:20", true),
        ("cpus:8;mem:64;disk:19", false),
        ("cpus:8", false),
        ("disk(web):100", false),
    ] {
        let configured = settings(resources).resources;
        assert_eq!(check_resources(&configured, &records()).is_ok(), fits, "{resources}");
        let mut agent = Agent::new(settings(resources));
        let recovery = Recovery { records: records(), containers: vec![] };
        let effects = agent.handle(Event::Recovered(recovery), stage.now, &mut stage.ids.clone());
        let stops = effects.iter().any(|one| matches!(one, Effect::Stop { .. }));
        assert_eq!(stops, !fits, "{resources}");
    }
    let mut damaged = records();
    let record = damaged.iter_mut().find(|(key, _)| key == "resources").unwrap();
    record.1.truncate(20);
    assert!(check_resources(&stage.settings.resources, &damaged).unwrap_err().contains("restore it"));
}

/// A random life: operations, crashes at any step, a disk that is full at times. Whatever happens: an operation is done whole or not at all,
/// its result never changes, and the folders are those of the volumes.
#[test]
fn operations_are_whole_wherever_the_agent_is_killed() {
    for seed in 1..=400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut stage = stage();
        let mut folders: BTreeSet<String> = BTreeSet::new();
        let mut results: std::collections::BTreeMap<Vec<u8>, mesos::OperationStatus> = Default::default();
        for number in 1..=12_u8 {
            let (id, amount) = (format!("v{}", random(3)), u32::try_from(random(30) + 1).unwrap());
            let info = match random(4) {
                0 | 1 => reserve(vec![reserved("disk", amount)]),
                2 => create(vec![volume(&id, 5)]),
                _ => destroy(vec![volume(&id, 5)]),
            };
            let destroys = info.destroy.is_some();
            let before = stage.total();
            let wanted = Resources::from_mesos(&stage.agent.view().agent.resources)
                .unwrap()
                .apply(&plenum_api::resources::unallocated(&info))
                .map(|after| after.to_string());
            stage.hold = true;
            stage.full = (random(8) == 0).then(|| "full".to_owned());
            stage.master(vec![order(number, info)]);
            let mut crashed = false;
            for _ in 0..8 {
                crashed = random(6) == 0;
                if crashed {
                    // What was being written may be there or not.
                    let held = std::mem::take(&mut stage.held);
                    for write in held.into_iter().filter(|_| random(2) == 0).flat_map(|(_, writes)| writes) {
                        stage.disk.insert(write.key, write.body.unwrap());
                    }
                    break;
                }
                if let Some((token, made, removed)) = stage.folders() {
                    let fails = random(8) == 0;
                    if !fails {
                        folders.extend(made);
                        folders.retain(|folder| !removed.contains(folder));
                    }
                    stage.folders_done(token, if fails { Err("io") } else { Ok(()) });
                } else if !stage.held.is_empty() {
                    stage.release();
                    stage.hold = true;
                }
            }
            stage.full = None;
            if crashed {
                stage.restart(vec![]);
                if let Some((token, made, removed)) = stage.folders() {
                    folders.extend(made);
                    folders.retain(|folder| !removed.contains(folder));
                    stage.folders_done(token, Ok(()));
                }
                stage.registers();
            }
            for result in stage.results() {
                let key = result.operation_uuid.value.to_vec();
                let known = results.entry(key).or_insert_with(|| result.status.clone());
                assert_eq!(*known, result.status, "seed {seed}: a result changed");
            }
            let after = stage.total();
            assert!(after == before || Ok(&after) == wanted.as_ref(), "seed {seed}: {before} became {after}");
            if let Some(status) = results.get(&vec![number; 16]) {
                let finished = status.state() == OperationState::OperationFinished;
                assert_eq!(if finished { wanted.unwrap() } else { before }, after, "seed {seed}");
                // An empty folder of a creation that failed may be left; what was destroyed may not.
                assert!(!(finished && destroys && folders.contains(&id)), "seed {seed}: {id} is still there");
            }
            let volumes =
                Resources::from_mesos(&stage.agent.view().agent.resources).unwrap().persistent_volumes();
            let volumes: BTreeSet<String> = ids(&volumes.to_mesos()).into_iter().collect();
            assert!(folders.is_superset(&volumes), "seed {seed}: {volumes:?} but {folders:?}");
        }
    }
}

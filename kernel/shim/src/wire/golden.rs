//! Frames of protocol version 1 as they were on the wire, kept as bytes: what an agent and a shim of neighbouring
//! releases say to each other must not change.

use super::{
    Exec, Exit, Failed, Group, Launch, Message, Pid, Process, Reply, Request, Rlimit, Socket, State, Write,
    decode, encode,
};

fn pid(n: u8) -> Pid {
    Pid { pid: n.into(), start: u64::from(n) * 1000 }
}

fn process() -> Process {
    Process {
        argv: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), b"true".to_vec()],
        env: vec![b"A=\xff".to_vec()],
        cwd: b"/s".to_vec(),
        uid: 1,
        gid: 2,
        groups: vec![3],
        change_user: true,
        rlimits: vec![Rlimit { resource: 7, soft: 1, hard: u64::MAX }],
        bounding: 5,
        ambient: 4,
        no_new_privs: true,
        umask: 0o22,
        oom_score_adj: Some(-5),
    }
}

fn group() -> Group {
    Group {
        dir: b"/cg/x".to_vec(),
        writes: vec![Write { file: "pids.max".into(), value: "9".into() }],
        unified: true,
        kill: true,
        freezer: false,
        oom_file: Some("memory.events".into()),
    }
}

fn requests() -> Vec<Request> {
    let launch = Launch {
        id: "c1".into(),
        run_dir: b"/run/c1".to_vec(),
        process: process(),
        stdout: b"/s/stdout".to_vec(),
        stderr: b"/s/stderr".to_vec(),
        namespaces: 15,
        hostname: Some("h".into()),
        resolv_conf: None,
        groups: vec![group()],
        own_groups: vec![],
        deadline_ms: 30_000,
    };
    let exec = Exec {
        init: pid(8),
        namespaces: 31,
        groups: vec![b"/cg/x".to_vec()],
        process: process(),
        deadline_ms: 7,
    };
    vec![
        Request::Hello { min: 1, max: 1 },
        Request::Launch(Box::new(launch)),
        Request::Signal { signal: 15 },
        Request::Kill { signal: 15, grace_ms: 3000 },
        Request::Status,
        Request::Subscribe,
        Request::Exec(Box::new(exec)),
        Request::Socket(Socket { init: pid(8), v6: true }),
    ]
}

fn replies() -> Vec<Reply> {
    let state = State {
        id: "c1".into(),
        boot_id: "b".into(),
        shim: pid(7),
        init: pid(8),
        task: pid(9),
        namespaces: 15,
        groups: vec![b"/cg/x".to_vec()],
        warnings: vec!["w".into()],
    };
    let exit = Exit {
        code: None,
        signal: Some(9),
        oom_kills: 1,
        kill_requested: true,
        escalated: true,
        timed_out: false,
        init_died: false,
        finished_ms: 1234,
        cpu_ns: 5678,
        memory_peak: 4096,
        forks_refused: crate::wire::Appended(0),
    };
    vec![
        Reply::Hello { version: 1, shim: pid(7) },
        Reply::Launched(Box::new(state.clone())),
        Reply::Failed(Failed { step: "execve".into(), errno: 2, subject: b"/x".to_vec() }),
        Reply::Done,
        Reply::Status(Box::new(state)),
        Reply::Exited(Box::new(exit)),
        Reply::Refused { reason: "no".into() },
    ]
}

const REQUESTS: [&str; 8] = [
    "0700000001000101000100",
    "ed000000010002020000006331070000002f72756e2f633103000000070000002f62696e2f7368020000002d63040000\
     00747275650100000003000000413dff020000002f730100000002000000010000000300000001010000000700000001\
     00000000000000ffffffffffffffff05000000000000000400000000000000011200000001fbffffff090000002f732f\
     7374646f7574090000002f732f7374646572720f0000000101000000680001000000050000002f63672f780100000008\
     000000706964732e6d61780100000039010100010d0000006d656d6f72792e6576656e74730000000030750000000000\
     00",
    "070000000100030f000000",
    "0f0000000100040f000000b80b000000000000",
    "03000000010005",
    "03000000010006",
    "9900000001000708000000401f0000000000001f00000001000000050000002f63672f7803000000070000002f62696e\
     2f7368020000002d6304000000747275650100000003000000413dff020000002f730100000002000000010000000300\
     00000101000000070000000100000000000000ffffffffffffffff050000000000000004000000000000000112000000\
     01fbffffff0700000000000000",
    "1000000001000808000000401f00000000000001",
];

const REPLIES: [&str; 7] = [
    "11000000010001010007000000581b000000000000",
    "4c000000010002020000006331010000006207000000581b00000000000008000000401f000000000000090000002823\
     0000000000000f00000001000000050000002f63672f78010000000100000077",
    "170000000100030600000065786563766502000000020000002f78",
    "03000000010004",
    "4c000000010005020000006331010000006207000000581b00000000000008000000401f000000000000090000002823\
     0000000000000f00000001000000050000002f63672f78010000000100000077",
    "2d000000010006000109000000010000000000000001010000d2040000000000002e1600000000000000100000000000\
     00",
    "09000000010007020000006e6f",
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn compare<M: Message + PartialEq + std::fmt::Debug>(messages: &[M], golden: &[&str]) {
    assert_eq!(messages.len(), golden.len());
    for (message, hex) in messages.iter().zip(golden) {
        let old = bytes(hex);
        assert_eq!(&decode::<M>(&old[4..]).unwrap(), message, "an old frame is understood");
        // The number of the version is all that differs, so an old reader understands a new frame.
        let mut new = encode(message);
        new[4..6].copy_from_slice(&1_u16.to_le_bytes());
        assert_eq!(new, old, "{message:?}");
    }
}

#[test]
fn what_was_appended_is_there_when_it_says_something() {
    let exit = Exit { code: Some(1), forks_refused: crate::wire::Appended(70_000), ..Exit::default() };
    let reply = Reply::Exited(Box::new(exit));
    let frame = encode(&reply);
    assert_eq!(decode::<Reply>(&frame[4..]).unwrap(), reply);
}

#[test]
fn version_1_is_still_spoken() {
    compare(&requests(), &REQUESTS);
    compare(&replies(), &REPLIES);
}

#[test]
fn what_is_said_more_is_only_appended_to() {
    use crate::wire::{Flat, Ids, Logs, More, Reader, Size};
    let more = More {
        logs: Some(Logs { file_bytes: 4096, files: 2 }),
        terminal: Some(Size { rows: 24, columns: 80 }),
        ids: Some(Ids { first: 0x7000_0000, count: 65_536 }),
        ..More::default()
    };
    let old = "01001000000000000002000000000001180050000100000070\
               00000100";
    let mut new = Vec::new();
    more.put(&mut new);
    assert_eq!(new, bytes(&old.replace([' ', '\\', '\n'], "")));
    // An agent of before says nothing of ids, one before that nothing of a terminal.
    for (len, want) in
        [(20, More { ids: None, ..more.clone() }), (15, More { ids: None, terminal: None, ..more.clone() })]
    {
        assert_eq!(More::take(&mut Reader::new(&new[..len])).unwrap(), want);
    }
}

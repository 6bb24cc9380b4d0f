//! From launch to destroy: output, ends, signals, refusals.

use super::harness::{eventually, skip, within, world};
use plenum_containers::{Command, ContainerSpec, ExitReason, ExitStatus, Runtime, RuntimeError};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

#[tokio::test]
async fn output_and_codes_arrive() {
    if skip() {
        return;
    }
    let world = world();
    for (id, shell, status) in [
        ("a", "echo hello; pwd; exit 7", ExitStatus::Code(7)),
        ("b", "true", ExitStatus::Code(0)),
        ("c", "kill -9 $$", ExitStatus::Signal(9)),
        ("d", "kill -SEGV $$", ExitStatus::Signal(11)),
    ] {
        let (exit, _) = world.run(world.spec(id, shell)).await;
        assert_eq!((exit.status, exit.reason, exit.oom), (status, ExitReason::Ended, false), "{shell}");
        assert!(exit.finished_ms.is_some() && exit.cpu_ns > 0, "{exit:?}");
    }
    assert_eq!(world.stdout("a"), format!("hello\n{}\n", world.sandbox("a").display()));
}

#[tokio::test]
async fn launched_names_the_tasks_own_process() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "");
    spec.command = Command::Argv(vec!["sleep".into(), "100".into()]);
    let launched = world.runtime.launch(spec).await.unwrap();
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", launched.pid)).unwrap();
    assert_eq!(comm, "sleep\n", "its own program runs, not ours");
    let stat = plenum_shim::proc::stat(launched.pid).unwrap();
    assert_eq!((stat.start, stat.parent), (launched.start_time, launched.init_pid));
    assert_eq!(launched.boot_id, plenum_shim::proc::boot_id());
    assert_eq!(launched.warnings, Vec::<String>::new());
    world.runtime.destroy("a").await.unwrap();
    assert!(plenum_shim::proc::stat(launched.pid).is_none());
}

#[tokio::test]
async fn output_belongs_to_the_user_and_is_appended_to() {
    if skip() {
        return;
    }
    let world = world();
    let sandbox = world.sandbox("a");
    std::fs::write(sandbox.join("stdout"), "before\n").unwrap();
    std::os::unix::fs::chown(&sandbox, Some(65534), Some(65534)).unwrap();
    let mut spec = world.spec("a", "id -u; id -g; id -G; echo wrong >&2");
    spec.user = Some("65534".into());
    let (exit, output) = world.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(0));
    assert_eq!(output, "before\n65534\n65534\n65534\n");
    for name in ["stdout", "stderr"] {
        assert_eq!(std::fs::metadata(sandbox.join(name)).unwrap().uid(), 65534, "{name}");
    }
}

#[tokio::test]
async fn a_signal_goes_to_the_task() {
    if skip() {
        return;
    }
    let world = world();
    let shell =
        "trap 'echo usr1 > got' USR1; echo up > ready; while ! [ -e got ]; do sleep 0.01; done; exit 3";
    world.runtime.launch(world.spec("a", shell)).await.unwrap();
    world.file("a", "ready").await;
    world.runtime.signal("a", libc::SIGUSR1).await.unwrap();
    let exit = within(10, world.runtime.wait("a")).await.unwrap();
    assert_eq!((exit.status, exit.reason), (ExitStatus::Code(3), ExitReason::Ended));
    assert!(matches!(world.runtime.signal("a", libc::SIGUSR1).await, Err(RuntimeError::Ended(_))));
    world.runtime.destroy("a").await.unwrap();
    assert!(matches!(world.runtime.wait("a").await, Err(RuntimeError::NotFound(_))));
}

#[tokio::test]
async fn a_termination_reaches_a_shell_and_what_it_waits_for() {
    if skip() {
        return;
    }
    let world = world();
    // The program behind the shell takes its time to end well; the shell dies at once.
    let inner = r#"trap "sleep 0.3; echo done > finished; exit 0" TERM; echo up > ready; while :; do sleep 0.01; done"#;
    world.runtime.launch(world.spec("a", &format!("sh -c '{inner}'; true"))).await.unwrap();
    world.file("a", "ready").await;
    world.runtime.kill("a", libc::SIGTERM, Duration::from_secs(10)).await.unwrap();
    let exit = within(9, world.runtime.wait("a")).await.unwrap();
    assert_eq!(exit.reason, ExitReason::Killed { escalated: false });
    assert_eq!(exit.status, ExitStatus::Signal(15));
    assert_eq!(world.file("a", "finished").await, "done\n", "it was given the grace period");
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn who_does_not_listen_is_killed() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "trap '' TERM; echo up > ready; while :; do sleep 0.01; done";
    world.runtime.launch(world.spec("a", shell)).await.unwrap();
    world.file("a", "ready").await;
    let start = Instant::now();
    world.runtime.kill("a", libc::SIGTERM, Duration::from_secs(600)).await.unwrap();
    world.runtime.kill("a", libc::SIGTERM, Duration::from_millis(200)).await.unwrap();
    let exit = within(10, world.runtime.wait("a")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!((exit.status, exit.reason), (ExitStatus::Signal(9), ExitReason::Killed { escalated: true }));
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn orphans_are_reaped_and_end_with_the_task() {
    if skip() {
        return;
    }
    let world = world();
    // Grandchildren whose parents end at once become init's.
    let shell = "for i in 1 2 3 4 5; do (true & true) & done; (sleep 1000 &) ; sleep 0.2; \
                 ps -e -o stat= > states; echo up > ready; while ! [ -e stop ]; do sleep 0.01; done";
    let launched = world.runtime.launch(world.spec("a", shell)).await.unwrap();
    world.file("a", "ready").await;
    let states = std::fs::read_to_string(world.sandbox("a").join("states")).unwrap();
    assert!(states.lines().count() >= 3 && !states.contains('Z'), "{states}");
    let inside = plenum_shim::proc::descendants(launched.init_pid);
    assert!(inside.len() >= 2, "{inside:?}");
    std::fs::write(world.sandbox("a").join("stop"), "").unwrap();
    within(10, world.runtime.wait("a")).await.unwrap();
    eventually("everything is gone", || {
        inside.iter().all(|pid| plenum_shim::proc::stat(*pid).is_none()).then_some(())
    })
    .await;
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn hostile_descriptions_name_the_step_and_leave_nothing() {
    if skip() {
        return;
    }
    let world = world();
    let step = |error: RuntimeError| error.to_string();
    let argv = |spec: &mut ContainerSpec, program: &str| spec.command = Command::Argv(vec![program.into()]);
    let mut cases = Vec::new();
    for (program, want) in [
        ("/no/such/program", "execve (/no/such/program): No such file"),
        ("no-such-program", "find program (no-such-program): No such file"),
        ("/etc", "execve (/etc): Permission denied"),
        ("/etc/passwd", "execve (/etc/passwd): Permission denied"),
        ("a\0b", "argument 0 contains a NUL byte"),
    ] {
        let mut spec = world.spec("bad", "");
        argv(&mut spec, program);
        cases.push((spec, want));
    }
    let mut change = |want: &'static str, change: &dyn Fn(&mut ContainerSpec)| {
        let mut spec = world.spec("bad", "true");
        change(&mut spec);
        cases.push((spec, want));
    };
    change("working directory", &|s| s.working_dir = Some("nowhere".into()));
    change("open output file", &|s| s.sandbox = "/no/such/sandbox".into());
    change("there is no user \"ghost\"", &|s| s.user = Some("ghost".into()));
    change("bind over /etc/resolv.conf (/no/file): No such file", &|s| {
        s.resolv_conf = Some("/no/file".into())
    });
    change("at most 131071", &|s| drop(s.env.insert("BIG".into(), "x".repeat(1 << 20))));
    change("resource limit (resource 99", &|s| {
        s.rlimits.push(plenum_shim::wire::Rlimit { resource: 99, soft: 1, hard: 1 });
    });
    for (spec, want) in cases {
        let error = step(world.runtime.launch(spec).await.unwrap_err());
        assert!(error.contains(want), "{error:?} should say {want:?}");
        assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0, "{want}");
        assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new(), "{want}");
    }
    // A large environment within the limits is fine.
    let mut spec = world.spec("big", "echo ${#A0} ${#A14}");
    (0..15).for_each(|i| drop(spec.env.insert(format!("A{i}"), "x".repeat(100_000))));
    assert_eq!(world.run(spec).await.1, "100000 100000\n");
}

#[tokio::test]
async fn an_id_is_used_once_and_a_missing_shim_is_named() {
    if skip() {
        return;
    }
    let world = world();
    world.runtime.launch(world.spec("a", "sleep 100")).await.unwrap();
    let again = world.runtime.launch(world.spec("a", "true")).await;
    assert!(matches!(again, Err(RuntimeError::Exists(id)) if id == "a"));
    world.runtime.destroy("a").await.unwrap();
    let mut config = world.config.clone();
    config.shim = "/no/shim".into();
    let runtime = plenum_containers::NativeRuntime::new(config).unwrap();
    let error = runtime.launch(world.spec("b", "true")).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Shim { path, .. } if path == "/no/shim"), "{error}");
    assert!(!world.config.run_dir.join("b").exists());
}

#[tokio::test]
async fn planted_output_files_are_not_followed() {
    if skip() {
        return;
    }
    let world = world();
    let victim = world.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::os::unix::fs::symlink(&victim, world.sandbox("a").join("stdout")).unwrap();
    let error = world.runtime.launch(world.spec("a", "echo pwned")).await.unwrap_err();
    assert!(error.to_string().contains("open output file"), "{error}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
}

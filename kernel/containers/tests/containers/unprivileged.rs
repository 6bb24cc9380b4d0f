//! Without root: containers run, and what does not separate or limit them is said.

use super::harness::{eventually, skip, within, world};
use plenum_containers::{
    Command, ContainerSpec, Enter, ExitReason, ExitStatus, Limits, NativeRuntime, Runtime, RuntimeConfig,
};
use plenum_shim::proc;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[tokio::test]
async fn a_user_without_privileges_can_run_containers() {
    if skip() {
        return;
    }
    // This test program once more, as nobody. Copies, for the originals may be in a folder that nobody can enter.
    let world = world();
    let dir = world.dir.path();
    std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, dir.join(name)).unwrap();
        dir.join(name)
    };
    let me = copy(&std::env::current_exe().unwrap(), "tests");
    let shim = copy(&world.config.shim, "shim");
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut child = std::process::Command::new(me)
        .args(["--exact", "unprivileged::as_nobody", "--nocapture"])
        .env("PLENUM_TEST_NOBODY", dir.join("work"))
        .env("PLENUM_SHIM", shim)
        .current_dir(dir)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .uid(65534)
        .gid(65534)
        .spawn()
        .unwrap();
    let status = eventually("the test ends", || child.try_wait().unwrap()).await;
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(status.success() && log.contains("1 passed"), "{log}");
}

/// Does nothing unless started by the test above.
#[tokio::test]
async fn as_nobody() {
    let Some(dir) = std::env::var_os("PLENUM_TEST_NOBODY").map(PathBuf::from) else { return };
    let config = RuntimeConfig::new("nobody", std::env::var_os("PLENUM_SHIM").unwrap(), dir.join("run"));
    let runtime = NativeRuntime::new(config).unwrap();
    for missing in ["pid namespace", "mount namespace", "user switching", "memory limit", "kill by group"] {
        assert!(!runtime.isolation().has(missing), "{}", runtime.isolation());
    }
    let spec = |id: &str, shell: &str| {
        let sandbox = dir.join(id);
        std::fs::create_dir_all(&sandbox).unwrap();
        let mut spec = ContainerSpec::new(id, sandbox, Command::Shell(shell.into()));
        spec.env.insert("PATH".into(), "/usr/bin:/bin".into());
        spec
    };
    let mut limited = spec("a", "echo hello; id -u; exit 3");
    limited.limits = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
    let launched = runtime.launch(limited).await.unwrap();
    let warnings = launched.warnings.join("; ");
    assert!(
        warnings.contains("memory limit is not in force") && warnings.contains("no PID namespace"),
        "{warnings}"
    );
    let exit = within(10, runtime.wait("a")).await.unwrap();
    assert_eq!((exit.status, exit.reason), (ExitStatus::Code(3), ExitReason::Ended));
    assert_eq!(std::fs::read_to_string(dir.join("a/stdout")).unwrap(), "hello\n65534\n");
    runtime.destroy("a").await.unwrap();

    // Everything that a task started ends with it, also what left its process group and its parent.
    let shell =
        "setsid sleep 1001 & (setsid sh -c 'sleep 1002; true' &) ; sleep 0.1; echo up > ready; sleep 1003";
    let launched = runtime.launch(spec("b", shell)).await.unwrap();
    eventually("it is up", || dir.join("b/ready").exists().then_some(())).await;
    let inside = proc::descendants(launched.init_pid);
    assert!(inside.len() >= 4, "{inside:?}");
    let command = Enter {
        command: Command::Shell("pwd".into()),
        env: BTreeMap::new(),
        deadline: Duration::from_secs(5),
    };
    let entered = runtime.enter("b", command).await.unwrap();
    assert_eq!(String::from_utf8(entered.output).unwrap().trim(), dir.join("b").to_str().unwrap());
    assert!(runtime.usage("b").await.unwrap().task_only);
    runtime.kill("b", libc::SIGTERM, Duration::from_millis(200)).await.unwrap();
    within(10, runtime.wait("b")).await.unwrap();
    let dead = |pid: &i32| proc::stat(*pid).is_none_or(|stat| stat.state == 'Z');
    eventually("all of it is gone", || inside.iter().all(dead).then_some(())).await;
    runtime.destroy("b").await.unwrap();

    let root = ContainerSpec { user: Some("0".into()), ..spec("c", "true") };
    assert_eq!(runtime.launch(root).await.unwrap_err().code(), "container.refused");
}

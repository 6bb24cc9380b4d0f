//! Containers with a user namespace: root inside, nobody outside, and files that keep their owners.

use super::harness::{World, eventually, skip, within, world};
use super::image::{base_layer, image_spec, kill_those_in};
use plenum_containers::{
    Command, ContainerSpec, Enter, ExitReason, ExitStatus, LogBudget, Mount, NativeRuntime, Network, Open,
    Output, RecoveredState, Root, Runtime, RuntimeError, Size, Source, UserNamespaces,
};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FIRST: u32 = 0x7000_0000;
const EACH: u32 = 65_536;

/// A world whose containers may have user namespaces, so many at a time.
fn users_world(containers: u32) -> World {
    let mut world = world();
    let folders = vec![world.dir.path().to_owned(), "/dev/shm".into()];
    world.config.user_namespaces = Some(UserNamespaces { first: FIRST, containers, folders });
    world.runtime = world.restarted();
    world
}

fn users_spec(world: &World, id: &str, layers: Vec<PathBuf>, shell: &str) -> ContainerSpec {
    let mut spec = image_spec(world, id, layers, shell);
    spec.user_namespace = true;
    spec.user = Some("0:0".into());
    spec
}

/// The machine's ids of a process: real, effective, saved, of files.
fn ids(pid: i32, line: &str) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    line.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// The first of a container's ids, by what the kernel says of its init.
fn first(init: i32) -> u32 {
    let map = std::fs::read_to_string(format!("/proc/{init}/uid_map")).unwrap();
    let words: Vec<u32> = map.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!((words[0], words[2], words.len()), (0, EACH, 3));
    words[1]
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

async fn enter(world: &World, id: &str, shell: &str) -> String {
    let command = Command::Shell(shell.into());
    let enter = Enter { command, env: Default::default(), deadline: Duration::from_secs(5) };
    let done = within(10, world.runtime.enter(id, enter)).await.unwrap();
    assert_eq!(done.status, ExitStatus::Code(0), "{}", String::from_utf8_lossy(&done.output));
    String::from_utf8(done.output).unwrap()
}

#[tokio::test]
async fn root_inside_is_nobody_outside_and_files_keep_their_owners() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let before = world.mounts();
    let top = world.dir.path().join("layers/top");
    std::fs::create_dir_all(top.join("srv")).unwrap();
    std::fs::write(top.join("srv/web"), "web\n").unwrap();
    chown(top.join("srv/web"), Some(1000), Some(1000)).unwrap();
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("there"), "").unwrap();
    chown(volume.join("there"), Some(33), Some(44)).unwrap();
    let secret = world.dir.path().join("secret");
    std::fs::write(&secret, "secret\n").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o400)).unwrap();
    let shell = "id -u; id -G; stat -c '%n %u:%g' /etc/motd /srv/web /data/there . /dev/null /dev/shm /dev/pts /scratch /etc/hostname; \
                 cat /data/secret; cd /mnt/mesos/sandbox; echo x > mine; echo x > given && chown 1000:2000 given; \
                 echo x > /etc/new; rm /etc/motd; chown 7:8 /srv/web; mkdir /made; ln -s x /link; \
                 touch /data/new && chown 33 /data/new; touch /scratch/x /dev/shm/x && stat -c %u /scratch/x; \
                 echo through stdout > /dev/stdout; echo > /dev/null; head -c 3 /dev/zero | wc -c; \
                 for f in mnt proc dev; do ls -d /$f; done; cat /proc/1/comm; ls /proc/1/root 2>/dev/null || echo init is closed; \
                 chown 70000 mine 2>/dev/null || echo no such user; mknod disk b 8 0 2>/dev/null || echo no device; \
                 grep ^Cap /proc/self/status | sort -u | wc -l; grep CapEff /proc/self/status; \
                 cat /proc/self/oom_score_adj; (echo -9 > /proc/self/oom_score_adj) 2>/dev/null || echo not lower; \
                 echo up > ready; sleep 1000";
    let mut spec = users_spec(&world, "a", vec![base_layer(&world), top], shell);
    spec.hostname = Some("inside".into());
    let mut mount = |source, target: &str, read_only| {
        spec.mounts.push(Mount { source, target: target.into(), read_only });
    };
    mount(Source::Beneath { folder: world.dir.path().into(), path: "volume".into() }, "/data", false);
    mount(Source::Path(secret), "/data/secret", true);
    mount(Source::Tmpfs { bytes: None, mode: 0o755 }, "/scratch", false);
    // What takes a right over the machine is done before the namespace is entered.
    let spares = world.runtime.isolation().has("oom protection");
    if spares {
        spec.rlimits.push(plenum_shim::wire::Rlimit { resource: 14, soft: 0, hard: 7 });
    }
    spec.oom_score_adj = if spares { -7 } else { 7 };
    let launched = world.runtime.launch(spec).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    world.file("a", "ready").await;
    let start = first(launched.init_pid);
    assert!(start >= FIRST && (start - FIRST).is_multiple_of(EACH), "{start}");
    for pid in [launched.init_pid, launched.pid] {
        assert_eq!(ids(pid, "Uid:"), [start; 4]);
        assert_eq!(ids(pid, "Gid:"), [start; 4]);
        let user = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        assert_ne!(user(&pid.to_string()), user("self"));
    }
    assert_eq!(ids(launched.init_pid, "Groups:"), [0; 0]);
    let default = format!("{:016x}", plenum_containers::capabilities::CapabilitySet::container_default().0);
    let want = format!(
        "0\n0\n/etc/motd 0:0\n/srv/web 1000:1000\n/data/there 33:44\n. 0:0\n/dev/null 0:0\n/dev/shm 0:0\n/dev/pts 0:0\n\
         /scratch 0:0\n/etc/hostname 0:0\nsecret\n0\nthrough stdout\n3\n/mnt\n/proc\n/dev\nplenum-init\ninit is closed\n\
         no such user\nno device\n5\nCapEff:\t{default}\n{}\nnot lower\n",
        if spares { -7 } else { 7 }
    );
    eventually("the output is there", || world.stdout("a").ends_with("lower\n").then_some(())).await;
    assert_eq!(world.stdout("a"), want);
    // On the disk it is as without a namespace.
    let (sandbox, upper) = (world.sandbox("a"), world.dir.path().join("writable/a/upper"));
    for (path, want) in [
        (sandbox.join("mine"), (0, 0)),
        (sandbox.join("given"), (1000, 2000)),
        (sandbox.join("stdout"), (0, 0)),
        (upper.join("etc/new"), (0, 0)),
        (upper.join("etc/motd"), (0, 0)),
        (upper.join("srv/web"), (7, 8)),
        (upper.join("made"), (0, 0)),
        (upper.join("link"), (0, 0)),
        (volume.join("new"), (33, 0)),
    ] {
        assert_eq!(owner(&path), want, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(upper.join("etc/motd")).unwrap().rdev(), 0, "a whiteout");
    within(10, world.runtime.destroy("a")).await.unwrap();
    assert_eq!(world.mounts(), before, "nothing is left mounted");
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);
    plenum_containers::remove_tree(&world.dir.path().join("writable/a")).unwrap();
}

#[tokio::test]
async fn commands_are_in_the_namespace_too() {
    if skip() {
        return;
    }
    let world = users_world(4);
    for (id, user) in [("root", "0:0"), ("other", "1000:1001")] {
        let mut spec = users_spec(&world, id, vec![base_layer(&world)], "echo up > ready; sleep 1000");
        spec.user = Some(user.into());
        let numbers: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
        chown(world.sandbox(id), Some(numbers[0]), Some(numbers[1])).unwrap();
        let launched = world.runtime.launch(spec).await.unwrap();
        world.file(id, "ready").await;
        let start = first(launched.init_pid);
        assert_eq!(ids(launched.pid, "Uid:"), [start + numbers[0]; 4]);
        assert_eq!(ids(launched.pid, "Gid:"), [start + numbers[1]; 4]);
        let shell = "echo $(id -u):$(id -g); readlink /proc/self/ns/user; touch by-command; echo again > /dev/stderr; \
                     echo $PPID >/dev/null; cat /proc/self/uid_map | tr -s ' '";
        let user_ns = std::fs::read_link(format!("/proc/{}/ns/user", launched.init_pid)).unwrap();
        let want = format!("{user}\n{}\nagain\n 0 {start} {EACH}\n", user_ns.display());
        // What the table shows of the first column depends on who looks: from within it is the parent's.
        assert_eq!(enter(&world, id, shell).await, want);
        assert_eq!(owner(&world.sandbox(id).join("by-command")), (numbers[0], numbers[1]));

        // With a terminal, which is the user's own, and with pipes, which can be opened anew.
        for terminal in [Some(Size { rows: 24, columns: 80 }), None] {
            let command = Command::Shell(
                "test -t 0 && echo x > $(tty); echo y > /dev/stdout; id -u; exec sleep 100".into(),
            );
            let open = Open { command, env: Default::default(), terminal };
            let mut session = within(10, world.runtime.open(id, open)).await.unwrap();
            let mut text = String::new();
            while !text.trim_end().ends_with(&numbers[0].to_string()) {
                match within(10, session.output.recv()).await {
                    Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                        text.push_str(&String::from_utf8_lossy(&bytes));
                    }
                    None => panic!("it ended with {text:?}"),
                }
            }
            let head = if terminal.is_some() { "x\ny\n" } else { "y\n" };
            assert_eq!(text.replace('\r', ""), format!("{head}{}\n", numbers[0]));
        }
    }
    for id in ["root", "other"] {
        within(10, world.runtime.destroy(id)).await.unwrap();
    }
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_task_has_a_terminal_and_rotated_output_there_too() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let shell = "tty; id -u; stat -c %u:%g $(tty); echo x > $(tty)";
    let mut spec = users_spec(&world, "t", vec![base_layer(&world)], shell);
    (spec.user, spec.terminal) = (Some("1000:1000".into()), Some(Size { rows: 24, columns: 80 }));
    chown(world.sandbox("t"), Some(1000), Some(1000)).unwrap();
    let (exit, output) = world.run(spec).await;
    assert_eq!(
        (exit.status, output.replace('\r', "").as_str()),
        (ExitStatus::Code(0), "/dev/pts/0\n1000\n1000:5\nx\n")
    );
    assert_eq!(owner(&world.sandbox("t").join("stdout")), (1000, 1000));
    let mut spec = users_spec(&world, "l", vec![base_layer(&world)], "head -c 5000 /dev/zero > /dev/stdout");
    (spec.user, spec.logs) = (Some("1000:1000".into()), Some(LogBudget { file_bytes: 4096, files: 2 }));
    chown(world.sandbox("l"), Some(1000), Some(1000)).unwrap();
    let (exit, output) = world.run(spec).await;
    assert_eq!((exit.status, output.len()), (ExitStatus::Code(0), 5000 - 4096));
    for name in ["stdout", "stdout.1"] {
        assert_eq!(owner(&world.sandbox("l").join(name)), (1000, 1000), "{name}");
    }
}

#[tokio::test]
async fn containers_share_no_ids_and_more_than_there_are_is_refused() {
    if skip() {
        return;
    }
    let world = users_world(3);
    let start = |id: &str| users_spec(&world, id, vec![base_layer(&world)], "echo up > ready; sleep 1000");
    let mut firsts = Vec::new();
    for id in ["a", "b", "c"] {
        firsts.push(first(world.runtime.launch(start(id)).await.unwrap().init_pid));
    }
    let mut sorted = firsts.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [FIRST, FIRST + EACH, FIRST + 2 * EACH]);
    let error = world.runtime.launch(start("d")).await.unwrap_err();
    assert_eq!(error.code(), "container.ids");
    assert!(error.to_string().contains("each of the 3 ranges"), "{error}");
    // Without a namespace there is room.
    let plain = ContainerSpec { user_namespace: false, ..start("plain") };
    let plain = world.runtime.launch(plain).await.unwrap();
    assert_eq!(ids(plain.pid, "Uid:"), [0; 4]);

    // The next agent knows who has which, also when the setting has moved across them meanwhile.
    let mut config = world.config.clone();
    config.user_namespaces.as_mut().unwrap().first = FIRST + EACH / 2;
    let moved = NativeRuntime::new(config).unwrap();
    moved.recover().await.unwrap();
    assert_eq!(moved.launch(start("d")).await.unwrap_err().code(), "container.ids");
    let runtime = world.restarted();
    let found = runtime.recover().await.unwrap();
    assert!(found.iter().all(|one| one.state == RecoveredState::Running) && found.len() == 4, "{found:?}");
    for (id, start) in ["a", "b", "c"].iter().zip(&firsts) {
        assert_eq!(first(runtime.launched(id).unwrap().init_pid), *start);
    }
    assert_eq!(runtime.launch(start("d")).await.unwrap_err().code(), "container.ids");
    runtime.destroy("b").await.unwrap();
    let launched = runtime.launch(start("d")).await.unwrap();
    assert_eq!(first(launched.init_pid), firsts[1]);
    for id in ["a", "c", "d", "plain"] {
        runtime.destroy(id).await.unwrap();
    }
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
    // A launch that fails keeps none.
    for turn in 0..4 {
        let command = Command::Argv(vec!["/no/such/program".into()]);
        let spec = ContainerSpec { command, ..start(&format!("fails{turn}")) };
        let error = runtime.launch(spec).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Step { errno: libc::ENOENT, .. }), "{error}");
    }
}

#[tokio::test]
async fn programs_that_change_their_user_gain_nothing_outside() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let layer = world.dir.path().join("layers/setuid");
    std::fs::create_dir_all(layer.join("opt")).unwrap();
    std::fs::copy("/usr/bin/sleep", layer.join("opt/sleep")).unwrap();
    std::fs::set_permissions(layer.join("opt/sleep"), PermissionsExt::from_mode(0o4755)).unwrap();
    let shell = "/opt/sleep 1000 & echo $! > pid; while [ $(stat -c %u /proc/$!) != 0 ]; do sleep 0.01; done; \
                 echo up > ready; wait";
    let mut spec = users_spec(&world, "a", vec![base_layer(&world), layer], shell);
    (spec.user, spec.no_new_privs) = (Some("1000:1000".into()), false);
    chown(world.sandbox("a"), Some(1000), Some(1000)).unwrap();
    let launched = world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    let start = first(launched.init_pid);
    let became: Vec<i32> = plenum_shim::proc::descendants(launched.pid)
        .into_iter()
        .filter(|pid| ids(*pid, "Uid:")[1] == start)
        .collect();
    let [sleep] = became[..] else { panic!("{became:?}") };
    assert_eq!(ids(sleep, "Uid:"), [start + 1000, start, start, start]);
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn images_as_volumes_have_their_owners_too() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let before = world.mounts();
    let (low, high) = (world.dir.path().join("layers/low"), world.dir.path().join("layers/high"));
    for (layer, owner) in [(&low, 1000), (&high, 33)] {
        std::fs::create_dir_all(layer.join("of")).unwrap();
        std::fs::write(layer.join(format!("of/{owner}")), "x\n").unwrap();
        chown(layer.join(format!("of/{owner}")), Some(owner), Some(owner)).unwrap();
    }
    let over = world.dir.path().join("over");
    for name in ["upper", "work"] {
        std::fs::create_dir_all(over.join(name)).unwrap();
    }
    let shell = "stat -c '%n %u' /one/of/* /two/of/* /new/of/*; (echo > /one/x) 2>/dev/null || echo fixed; \
                 (echo > /two/x) 2>/dev/null || echo fixed; touch /new/of/mine && rm /new/of/33 && stat -c %u /new/of/mine; \
                 (echo > /x) 2>/dev/null || echo fixed; echo x > /keep/x && stat -c %u /keep/x /keep";
    // Layers of the root are layers of volumes as well.
    let mut spec = users_spec(&world, "a", vec![base_layer(&world), low.clone(), high.clone()], shell);
    (spec.readonly_root, spec.volumes) = (true, vec!["/keep".into()]);
    let both = vec![low.clone(), high.clone()];
    for (layers, over, target) in
        [(vec![high.clone()], None, "/one"), (both.clone(), None, "/two"), (both, Some(over.clone()), "/new")]
    {
        let read_only = over.is_none();
        spec.mounts.push(Mount { source: Source::Image { layers, over }, target: target.into(), read_only });
    }
    let (exit, output) = world.run(spec).await;
    let want = "/one/of/33 33\n/two/of/1000 1000\n/two/of/33 33\n/new/of/1000 1000\n/new/of/33 33\n\
                fixed\nfixed\n0\nfixed\n0\n0\n";
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(0), want));
    assert_eq!(owner(&over.join("upper/of/mine")), (0, 0));
    assert_eq!(owner(&world.dir.path().join("writable/a/upper/keep/x")), (0, 0));
    assert_eq!(owner(&high.join("of/33")), (33, 33));
    assert_eq!(world.mounts(), before);
}

#[tokio::test]
async fn low_ports_are_its_own_in_its_own_network() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let mut holder = world.spec("holder", "sleep 1000");
    holder.network = Network::Loopback;
    let held = world.runtime.launch(holder).await.unwrap();
    let shell = "python3 -c \"import socket; s=socket.create_server(('127.0.0.1',80)); print('port 80', flush=True)\"; hostname";
    for (id, network, user) in [
        ("own", Network::Loopback, "0:0"),
        ("joined", Network::Join(format!("/proc/{}/ns/net", held.init_pid).into()), "1000:1000"),
    ] {
        let mut spec = users_spec(&world, id, vec![base_layer(&world)], shell);
        (spec.network, spec.user, spec.hostname) = (network, Some(user.into()), Some("inside".into()));
        assert_eq!(world.run(spec).await.1, "port 80\ninside\n", "{id}");
    }
    // The machine's setting is what it was.
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_ne!(text.trim(), "0");
    world.runtime.destroy("holder").await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    if skip() {
        return;
    }
    let world = users_world(2);
    let spec = |id: &str| users_spec(&world, id, vec![base_layer(&world)], "sleep 100");
    let mut volume = spec("volume");
    let source = Source::Path("/proc/sys".into());
    volume.mounts.push(Mount { source, target: "/data".into(), read_only: true });
    let error = world.runtime.launch(volume).await.unwrap_err();
    assert!(error.to_string().contains("id-mapped mounts") && error.to_string().contains("/data"), "{error}");
    let error = world.runtime.launch(ContainerSpec { user: Some("70000".into()), ..spec("user") }).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("user or group 70000"), "{error}");
    let mut apart = spec("apart");
    let Root::Image { work, .. } = &mut apart.root else { unreachable!() };
    *work = world.dir.path().join("apart");
    std::fs::create_dir(&*work).unwrap();
    let error = world.runtime.launch(apart).await.unwrap_err();
    assert!(error.to_string().contains("one folder"), "{error}");
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);

    // A runtime without the setting gives none; one on a file system that cannot does not start.
    let mut config = world.config.clone();
    config.user_namespaces = None;
    let without = NativeRuntime::new(config.clone()).unwrap();
    assert!(!without.isolation().has("user namespace") && world.runtime.isolation().has("user namespace"));
    assert_eq!(without.launch(spec("none")).await.unwrap_err().code(), "container.ids");
    for (folder, first, want) in
        [("/sys/kernel", FIRST, "id-mapped mounts"), ("/dev/shm", 0, "users of the machine")]
    {
        let folders = vec![folder.into()];
        config.user_namespaces = Some(UserNamespaces { first, containers: 1, folders });
        let error = NativeRuntime::new(config.clone()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn whoever_of_ours_is_killed_nothing_is_left_of_it() {
    if skip() {
        return;
    }
    let world = users_world(4);
    let before = world.mounts();
    for (id, whom) in [("shim", 0), ("init", 1)] {
        let shell = "trap '' TERM; (setsid sleep 997 &); echo up > ready; sleep 1000";
        let launched =
            world.runtime.launch(users_spec(&world, id, vec![base_layer(&world)], shell)).await.unwrap();
        world.file(id, "ready").await;
        let inside = plenum_shim::proc::descendants(launched.init_pid);
        assert!(inside.len() > 1);
        plenum_shim::sys::kill([launched.shim_pid, launched.init_pid][whom], libc::SIGKILL).unwrap();
        let exit = within(10, world.runtime.wait(id)).await.unwrap();
        assert_eq!(exit.reason, [ExitReason::Lost, ExitReason::InitDied][whom], "{id}");
        let gone = |pid: &i32| plenum_shim::proc::stat(*pid).is_none_or(|stat| stat.state == 'Z');
        eventually("nothing runs", || inside.iter().all(gone).then_some(())).await;
        world.runtime.destroy(id).await.unwrap();
    }
    assert_eq!(world.mounts(), before);
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_is_killed_anywhere_leaves_nothing_of_it() {
    if skip() {
        return;
    }
    // One range: whoever does not give it back is noticed.
    let world = std::sync::Arc::new(users_world(1));
    let before = world.mounts();
    let began = std::time::Instant::now();
    world.runtime.launch(users_spec(&world, "whole", vec![base_layer(&world)], "sleep 1000")).await.unwrap();
    let whole = began.elapsed();
    world.runtime.destroy("whole").await.unwrap();
    let (mut failed, mut killed) = (0, 0);
    for turn in 0..30_u32 {
        let id = format!("c{turn}");
        let spec = users_spec(&world, &id, vec![base_layer(&world)], "sleep 1000");
        let runtime = std::sync::Arc::clone(&world);
        let launch = tokio::spawn(async move { runtime.runtime.launch(spec).await });
        tokio::time::sleep(whole * turn / 26).await;
        killed += kill_those_in(&world.config.run_dir.join(&id));
        match within(40, launch).await.unwrap() {
            Ok(_) => drop(within(20, world.runtime.destroy(&id)).await.unwrap()),
            Err(error) => {
                assert_ne!(error.code(), "container.ids", "turn {turn}: {error}");
                failed += 1;
            }
        }
        assert_eq!(
            kill_those_in(&world.config.run_dir.join(&id)),
            0,
            "turn {turn}: somebody is still at work"
        );
        eventually("no control group is left", || world.groups().is_empty().then_some(())).await;
        assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0, "turn {turn}");
    }
    println!("{killed} processes killed, {failed} launches failed");
    assert!(killed > 0);
    assert_eq!(world.mounts(), before);
}

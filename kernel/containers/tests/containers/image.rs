//! Containers with a root of their own, made of folders: what they see, and what a hostile image cannot reach.

use super::harness::{World, eventually, skip, within, world};
use plenum_containers::{
    Command, ContainerSpec, Device, Enter, ExitReason, ExitStatus, Mount, Root, Runtime, RuntimeError,
    Seccomp, Source,
};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A layer with what a shell needs, except for `/usr`, which is the machine's, as a volume.
pub fn base_layer(world: &World) -> PathBuf {
    let layer = world.dir.path().join("layers/base");
    std::fs::create_dir_all(layer.join("etc")).unwrap();
    for name in ["bin", "sbin", "lib", "lib64"] {
        let _made_before = symlink(format!("usr/{name}"), layer.join(name));
    }
    std::fs::write(layer.join("etc/motd"), "base\n").unwrap();
    layer
}

pub fn image_spec(world: &World, id: &str, layers: Vec<PathBuf>, shell: &str) -> ContainerSpec {
    let writable = world.dir.path().join("writable").join(id);
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let mut spec = world.spec(id, shell);
    spec.root = Root::Image { layers, upper, work };
    spec.mounts.push(Mount { source: Source::Path("/usr".into()), target: "/usr".into(), read_only: true });
    spec
}

#[tokio::test]
async fn an_image_is_the_whole_world() {
    if skip() {
        return;
    }
    let world = world();
    let top = world.dir.path().join("layers/t,o:p");
    std::fs::create_dir_all(top.join("etc")).unwrap();
    std::fs::write(top.join("etc/top"), "top\n").unwrap();
    let hosts = world.dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 me\n").unwrap();
    let before = world.mounts();
    let shell = "cat /etc/motd /etc/top /etc/hosts /etc/hostname; pwd; ls /dev | tr '\\n' ' '; echo; id -u; id -G; \
                 echo new > /etc/new; ls /mnt/mesos/sandbox; cat /proc/1/comm; head -c 9 /dev/zero | wc -c; \
                 (echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo sys refused; wc -c < /proc/timer_list; \
                 mkdir /sys/x 2>/dev/null || echo sysfs refused; grep -c . /proc/self/mountinfo >/dev/null && echo mounts; \
                 stat -fc %T /dev/shm; ls /work /root /home 2>/dev/null; grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo unshare refused";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world), top], shell);
    spec.hostname = Some("inside".into());
    spec.hosts = Some(hosts);
    spec.working_dir = Some("/app/deep".into());
    spec.user = Some("0:0".into());
    spec.devices.push(Device {
        path: "/dev/gpu/card0".into(),
        block: false,
        major: 1,
        minor: 3,
        mode: 0o600,
    });
    let (exit, output) = world.run(spec).await;
    let want = "base\ntop\n127.0.0.1 me\ninside\n/app/deep\n\
                fd full gpu mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n0\n0\n\
                stderr\nstdout\nplenum-init\n9\nsys refused\n0\nsysfs refused\nmounts\ntmpfs\nSeccomp:\t2\nunshare refused\n";
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(0), want));
    assert_eq!(world.mounts(), before, "nothing is left mounted");
    let upper = world.dir.path().join("writable/a/upper");
    assert_eq!(std::fs::read_to_string(upper.join("etc/new")).unwrap(), "new\n");
    assert!(!world.dir.path().join("layers/base/etc/new").exists());
    plenum_containers::remove_tree(&world.dir.path().join("writable/a")).unwrap();
    assert!(!world.dir.path().join("writable/a").exists());
}

/// Two layers, of which the upper one takes a file away.
fn two_layers(world: &World) -> Vec<PathBuf> {
    let make = |name: &str, files: &[&str]| {
        let layer = world.dir.path().join("layers").join(name);
        std::fs::create_dir_all(&layer).unwrap();
        for file in files {
            std::fs::write(layer.join(file), format!("{file} of {name}\n")).unwrap();
        }
        layer
    };
    let (low, high) = (make("low", &["kept", "gone", "both"]), make("high", &["both"]));
    let whiteout = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(&high.join("gone"), whiteout, nix::sys::stat::Mode::empty(), 0).unwrap();
    vec![low, high]
}

#[tokio::test]
async fn volumes_are_images_as_well() {
    if skip() {
        return;
    }
    let world = world();
    let before = world.mounts();
    let layers = two_layers(&world);
    let one = vec![layers[0].clone()];
    let over = world.dir.path().join("over");
    for folder in ["upper", "work"] {
        std::fs::create_dir_all(over.join(folder)).unwrap();
    }
    let image = |layers: &[PathBuf], over: Option<&PathBuf>| Source::Image {
        layers: layers.to_vec(),
        over: over.cloned(),
    };
    let mounts = [
        (image(&layers, None), "/two", true),
        (image(&one, None), "one", true),
        (image(&layers, Some(&over)), "/own", false),
    ];
    let shell = "cd /; ls two; cat two/both; ls mnt/mesos/sandbox/one; for at in two mnt/mesos/sandbox/one own; do \
                 (echo new > $at/new) 2>/dev/null && echo $at; done; rm own/kept; ls own";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world)], shell);
    let with = |spec: &mut ContainerSpec, names: &[&str]| {
        for (source, target, read_only) in &mounts {
            if names.contains(target) {
                let (source, read_only) = (source.clone(), *read_only);
                spec.mounts.push(Mount { source, target: target.into(), read_only });
            }
        }
    };
    with(&mut spec, &["/two", "one", "/own"]);
    let (exit, output) = world.run(spec).await;
    let want = "both\nkept\nboth of high\nboth\ngone\nkept\nown\nboth\nnew\n";
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(0), want));
    assert_eq!(std::fs::read_to_string(over.join("upper/new")).unwrap(), "new\n");
    assert!(layers[0].join("kept").exists(), "the image's own is as it was");
    // On the machine's own files, too.
    let mut spec = world.spec("b", "ls one; touch one/x 2>/dev/null || echo refused");
    with(&mut spec, &["one"]);
    assert_eq!(world.run(spec).await.1, "both\ngone\nkept\nrefused\n");
    assert_eq!(world.mounts(), before, "nothing is left mounted");
}

#[tokio::test]
async fn an_images_volumes_stay_writable_in_a_root_that_is_not() {
    if skip() {
        return;
    }
    let world = world();
    let layer = base_layer(&world);
    std::fs::create_dir_all(layer.join("data")).unwrap();
    std::fs::write(layer.join("data/seed"), "seed\n").unwrap();
    std::os::unix::fs::chown(layer.join("data"), Some(65534), Some(65534)).unwrap();
    let shell = "cat /data/seed; stat -c %u /data; for at in /data /new/deep /etc; do \
                 (echo mine > $at/x) 2>/dev/null && echo $at; done; cat /data/x";
    for (read_only, want) in [
        (true, "seed\n65534\n/data\n/new/deep\nmine\n"),
        (false, "seed\n65534\n/data\n/new/deep\n/etc\nmine\n"),
    ] {
        let mut spec = image_spec(&world, if read_only { "a" } else { "b" }, vec![layer.clone()], shell);
        spec.volumes = vec!["/data".into(), "/new/deep".into()];
        spec.readonly_root = read_only;
        assert_eq!(world.run(spec).await.1, want);
    }
    assert!(!layer.join("data/x").exists());
    // A link in the image leads nowhere else.
    symlink("/etc", layer.join("link")).unwrap();
    let mut spec = image_spec(&world, "c", vec![layer.clone()], "touch /etc/y && echo inside");
    (spec.volumes, spec.readonly_root) = (vec!["/link".into()], true);
    assert_eq!(world.run(spec).await.1, "inside\n");
    assert!(!Path::new("/etc/y").exists());
}

#[tokio::test]
async fn commands_enter_an_image_under_its_filter() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = image_spec(&world, "a", vec![base_layer(&world)], "echo up > ready; sleep 1000");
    spec.user = Some("65534:65534".into());
    spec.readonly_root = true;
    spec.shm_bytes = 1 << 20;
    std::os::unix::fs::chown(world.sandbox("a"), Some(65534), None).unwrap();
    world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    let command = Command::Shell(
        "cat /etc/motd; pwd; id -u; grep Seccomp: /proc/self/status; touch /x 2>/dev/null || echo read-only; \
         touch here && echo writable; head -c 2000000 /dev/zero 2>/dev/null >/dev/shm/x; stat -c %s /dev/shm/x"
            .into(),
    );
    let enter = Enter { command, env: Default::default(), deadline: Duration::from_secs(5) };
    let done = within(10, world.runtime.enter("a", enter)).await.unwrap();
    let output = String::from_utf8(done.output).unwrap();
    assert_eq!(output, "base\n/mnt/mesos/sandbox\n65534\nSeccomp:\t2\nread-only\nwritable\n1048576\n");
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn whoever_makes_device_files_is_held_to_its_own() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "cd /dev; mknod kmsg c 1 11 2>/dev/null && echo made; \
                 mknod other c 1 3 && echo hello > other && echo null is fine; head -c 1 /dev/zero | wc -c";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world)], shell);
    spec.user = Some("0:0".into());
    spec.bounding = spec.bounding.with(caps::Capability::CAP_MKNOD);
    let launched = world.runtime.launch(spec).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    let exit = within(10, world.runtime.wait("a")).await.unwrap();
    assert_eq!((exit.status, world.stdout("a").as_str()), (ExitStatus::Code(0), "null is fine\n1\n"));
    world.runtime.destroy("a").await.unwrap();
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_machine_may_filter_containers_with_its_own_root() {
    if skip() {
        return;
    }
    let world = world();
    let mut config = world.config.clone();
    config.filter_host_root = true;
    let runtime = plenum_containers::NativeRuntime::new(config).unwrap();
    let shell = "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo refused";
    for (id, seccomp, want) in
        [("a", Seccomp::ByRoot, "Seccomp:\t2\nrefused\n"), ("b", Seccomp::Unconfined, "Seccomp:\t0\n")]
    {
        let spec = ContainerSpec { seccomp, ..world.spec(id, shell) };
        runtime.launch(spec).await.unwrap();
        within(10, runtime.wait(id)).await.unwrap();
        runtime.destroy(id).await.unwrap();
        assert_eq!(world.stdout(id), want);
    }
}

#[tokio::test]
async fn a_filter_is_for_whoever_wants_it() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "grep Seccomp: /proc/self/status";
    let mut host = world.spec("host", shell);
    assert_eq!(world.run(host.clone()).await.1, "Seccomp:\t0\n");
    (host.id, host.seccomp, host.no_new_privs) = ("asked".into(), Seccomp::Default, false);
    host.sandbox = world.sandbox("asked");
    assert_eq!(world.run(host).await.1, "Seccomp:\t2\n");
    let mut open = image_spec(&world, "open", vec![base_layer(&world)], shell);
    open.seccomp = Seccomp::Unconfined;
    assert_eq!(world.run(open).await.1, "Seccomp:\t0\n");
}

/// Launches an image with a change made to it; gives the failed step.
async fn hostile(world: &World, id: &str, change: impl FnOnce(&Path, &mut ContainerSpec)) -> RuntimeError {
    let layer = world.dir.path().join("layers").join(id);
    std::fs::create_dir_all(&layer).unwrap();
    let mut spec = image_spec(world, id, vec![base_layer(world), layer.clone()], "sleep 100");
    change(&layer, &mut spec);
    world.runtime.launch(spec).await.unwrap_err()
}

#[tokio::test]
async fn hostile_images_are_refused_and_touch_nothing() {
    if skip() {
        return;
    }
    let world = world();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = world.mounts();
    for name in ["proc", "sys", "dev"] {
        let error = hostile(&world, name, |layer, _| symlink(&outside, layer.join(name)).unwrap()).await;
        assert!(matches!(&error, RuntimeError::Step { errno: libc::ELOOP, .. }), "{name}: {error}");
    }
    // A file where a folder has to be.
    let error = hostile(&world, "file", |layer, _| std::fs::write(layer.join("mnt"), "").unwrap()).await;
    assert!(matches!(&error, RuntimeError::Step { errno: libc::ENOTDIR, .. }), "{error}");
    // A link to the machine's folder: in the image there is none.
    let error = hostile(&world, "volume", |layer, spec| {
        symlink(&outside, layer.join("volume")).unwrap();
        let source = Source::Tmpfs { bytes: None, mode: 0o755 };
        spec.mounts.push(Mount { source, target: "/volume/data".into(), read_only: false });
    })
    .await;
    assert!(matches!(&error, RuntimeError::Step { errno: libc::ENOENT, .. }), "{error}");
    let error = hostile(&world, "missing", |_, spec| {
        let Root::Image { layers, .. } = &mut spec.root else { unreachable!() };
        layers.push("/no/such/layer".into());
    })
    .await;
    assert!(error.to_string().contains("/no/such/layer"), "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(world.mounts(), before);
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn links_of_an_image_stay_in_the_image() {
    if skip() {
        return;
    }
    let world = world();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let layer = world.dir.path().join("layers/links");
    std::fs::create_dir_all(layer.join("mnt")).unwrap();
    symlink("../../../../../../../..", layer.join("volume")).unwrap();
    symlink("../../../../../../../..", layer.join("mnt/mesos")).unwrap();
    // A disk of the machine that the image names: the file is there, the device is not.
    let node = nix::sys::stat::mknod(
        &layer.join("disk"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    );
    node.unwrap();
    let shell = "pwd; ls /volume/data; stat -fc %T /data; (echo > /disk) 2>/dev/null || echo no device";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world), layer], shell);
    let source = Source::Tmpfs { bytes: Some(1 << 20), mode: 0o755 };
    spec.mounts.push(Mount { source, target: "/volume/data".into(), read_only: false });
    let (exit, output) = world.run(spec).await;
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(0), "/sandbox\ntmpfs\nno device\n"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn whoever_of_ours_is_killed_nothing_is_left() {
    if skip() {
        return;
    }
    let world = world();
    let before = world.mounts();
    for (id, whom) in [("shim", 0), ("init", 1)] {
        // What it starts leaves the session and ignores what it can.
        let shell = "trap '' TERM; (setsid sleep 997 &); echo up > ready; sleep 1000";
        let spec = image_spec(&world, id, vec![base_layer(&world)], shell);
        let launched = world.runtime.launch(spec).await.unwrap();
        world.file(id, "ready").await;
        let inside = plenum_shim::proc::descendants(launched.init_pid);
        let victim = [launched.shim_pid, launched.init_pid][whom];
        plenum_shim::sys::kill(victim, libc::SIGKILL).unwrap();
        let exit = within(10, world.runtime.wait(id)).await.unwrap();
        let want = [ExitReason::Lost, ExitReason::InitDied][whom];
        assert_eq!(exit.reason, want, "{id}");
        world.runtime.destroy(id).await.unwrap();
        let gone = |pid: &i32| plenum_shim::proc::stat(*pid).is_none_or(|stat| stat.state == 'Z');
        eventually("nothing runs", || inside.iter().all(gone).then_some(())).await;
        plenum_containers::remove_tree(&world.dir.path().join("writable").join(id)).unwrap();
    }
    assert_eq!(world.mounts(), before);
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);
}

/// Kills every process whose working directory is below a folder: whoever of ours is at work for a container there.
pub fn kill_those_in(folder: &Path) -> usize {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(folder)) {
            killed += usize::from(plenum_shim::sys::kill(pid, libc::SIGKILL).is_ok());
        }
    }
    killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_is_killed_anywhere_leaves_nothing() {
    if skip() {
        return;
    }
    let world = std::sync::Arc::new(world());
    let before = world.mounts();
    let (mut failed, mut started, mut killed) = (0, 0, 0);
    let began = std::time::Instant::now();
    world.runtime.launch(image_spec(&world, "whole", vec![base_layer(&world)], "sleep 1000")).await.unwrap();
    let whole = began.elapsed();
    world.runtime.destroy("whole").await.unwrap();
    // A little later each time: from before the first process to after the launch.
    for turn in 0..40_u32 {
        let id = format!("c{turn}");
        let mut spec = image_spec(&world, &id, vec![base_layer(&world)], "sleep 1000");
        spec.logs = Some(plenum_containers::LogBudget { file_bytes: 4096, files: 2 });
        let runtime = std::sync::Arc::clone(&world);
        let launch = tokio::spawn(async move { runtime.runtime.launch(spec).await });
        tokio::time::sleep(whole * turn / 36).await;
        killed += kill_those_in(&world.config.run_dir.join(&id));
        match within(40, launch).await.unwrap() {
            Ok(_) => {
                started += 1;
                within(20, world.runtime.destroy(&id)).await.unwrap();
            }
            Err(_) => failed += 1,
        }
        let left = kill_those_in(&world.config.run_dir.join(&id));
        assert_eq!(left, 0, "turn {turn}: somebody is still at work");
        eventually("no control group is left", || world.groups().is_empty().then_some(())).await;
        assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0, "turn {turn}");
        plenum_containers::remove_tree(&world.dir.path().join("writable").join(&id)).unwrap();
    }
    println!("{killed} processes killed, {failed} launches failed, {started} had started");
    assert_eq!(failed + started, 40);
    assert!(killed > 0);
    assert_eq!(world.mounts(), before);
}

#[tokio::test]
async fn a_fork_bomb_in_an_image_ends_when_told() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "echo up > ready; f() { f | f & wait; }; f 2>/dev/null; sleep 1000";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world)], shell);
    spec.limits.pids = Some(60);
    world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    let exit = within(20, world.runtime.destroy("a")).await.unwrap();
    assert!(matches!(exit.reason, ExitReason::Killed { .. } | ExitReason::Ended), "{exit:?}");
    assert_eq!(world.groups(), Vec::<PathBuf>::new());
}

//! Disk limits, by a quota of the kernel's and by measuring.

use super::harness::{skip, within, world};
use super::image::{base_layer, image_spec};
use plenum_containers::{DiskLimit, ExitStatus, NativeRuntime, Projects, Root, Runtime, RuntimeError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A small ext4 with project quotas, on a loop device.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(base: &Path) -> Option<Self> {
        let (image, at) = (base.join("disk.img"), base.join("disk"));
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output();
            done.map_err(|error| error.to_string()).and_then(|done| match done.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
            })
        };
        let (image, to) = (image.to_str().unwrap(), at.to_str().unwrap());
        let made = run("mkfs.ext4", &["-q", "-O", "project,quota", "-E", "quotatype=prjquota", image]);
        match made.and_then(|()| run("mount", &["-o", "loop,prjquota", image, to])) {
            Ok(()) => Some(Self { at }),
            Err(error) => {
                println!("SKIPPED: no file system with project quotas can be mounted: {error}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _or_said_by_the_next_use = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[tokio::test]
async fn a_quota_holds_the_sandbox_and_is_found_again() {
    if skip() {
        return;
    }
    let world = world();
    let Some(disk) = Disk::mount(world.dir.path()) else { return };
    let mut config = world.config.clone();
    let ids = world.dir.path().join("ids");
    config.projects = Some(Projects { folder: ids.clone(), first: 5000, count: 10 });
    let runtime = NativeRuntime::new(config.clone()).unwrap();
    let spec = |id: &str, shell: &str| {
        let mut spec = world.spec(id, shell);
        spec.sandbox = disk.at.join(id);
        std::fs::create_dir_all(spec.sandbox.join("fetched")).unwrap();
        std::fs::write(spec.sandbox.join("fetched/before"), vec![1; 1 << 20]).unwrap();
        spec.disk = Some(DiskLimit { bytes: 4 << 20 });
        spec
    };
    let shell = "head -c 2M /dev/zero > fetched/more && echo fits; head -c 2M /dev/zero > toomuch || echo refused; \
                 echo up > /dev/null; sleep 1000";
    let launched = runtime.launch(spec("a", shell)).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    super::harness::eventually("the quota is met", || {
        let text = std::fs::read_to_string(disk.at.join("a/stdout")).ok()?;
        (text == "fits\nrefused\n").then_some(())
    })
    .await;
    let next = NativeRuntime::new(config).unwrap();
    within(10, next.recover()).await.unwrap();
    let used = next.disk("a").await.unwrap().unwrap();
    assert!(used.by_quota && used.limit_bytes == 4 << 20, "{used:?}");
    assert!((3 << 20..=4 << 20).contains(&used.used_bytes), "{used:?}");
    // Another has an id, and room, of its own.
    next.launch(spec("b", "head -c 2M /dev/zero > x && echo fits")).await.unwrap();
    within(10, next.wait("b")).await.unwrap();
    assert_eq!(std::fs::read_to_string(disk.at.join("b/stdout")).unwrap(), "fits\n");
    next.destroy("b").await.unwrap();
    next.destroy("a").await.unwrap();
    std::fs::write(disk.at.join("a/kept"), vec![1; 3 << 20]).unwrap();
    // The id of a sandbox that is gone is free for the next.
    std::fs::remove_dir_all(disk.at.join("a")).unwrap();
    next.launch(spec("c", "true")).await.unwrap();
    next.destroy("c").await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&ids).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["5000", "5001"]);
}

#[tokio::test]
async fn a_quota_holds_what_is_written_over_an_image() {
    if skip() {
        return;
    }
    let world = world();
    let Some(disk) = Disk::mount(world.dir.path()) else { return };
    let mut config = world.config.clone();
    config.disk_interval = Duration::from_millis(20);
    config.projects = Some(Projects { folder: world.dir.path().join("ids"), first: 5000, count: 10 });
    let runtime = NativeRuntime::new(config).unwrap();
    // Changing what a layer has, making and renaming: each crosses the folders that an overlay keeps.
    let shell = "echo changed >> /etc/motd && mv /etc/motd /etc/now && mkdir -p /new/deep && cat /etc/now; \
                 head -c 2M /dev/zero > here && echo fits; head -c 3M /dev/zero > /new/deep/big || echo refused";
    let mut spec = image_spec(&world, "a", vec![base_layer(&world)], shell);
    let Root::Image { layers, .. } = spec.root else { panic!("no image") };
    let (upper, work) = (disk.at.join("upper"), disk.at.join("work"));
    spec.sandbox = disk.at.join("sandbox");
    for folder in [&upper, &work, &spec.sandbox] {
        std::fs::create_dir(folder).unwrap();
    }
    spec.root = Root::Image { layers, upper, work };
    spec.disk = Some(DiskLimit { bytes: 4 << 20 });
    let launched = runtime.launch(spec).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    within(10, runtime.wait("a")).await.unwrap();
    let said = std::fs::read_to_string(disk.at.join("sandbox/stdout")).unwrap();
    assert_eq!(said, "base\nchanged\nfits\nrefused\n");
    runtime.destroy("a").await.unwrap();

    // Whom the kernel holds to no quota is measured.
    let mut spec = world.spec("b", "head -c 6M /dev/zero > big; sleep 1000");
    spec.sandbox = disk.at.join("other");
    std::fs::create_dir(&spec.sandbox).unwrap();
    spec.bounding = spec.bounding.with(caps::Capability::CAP_SYS_RESOURCE);
    spec.disk = Some(DiskLimit { bytes: 4 << 20 });
    let launched = runtime.launch(spec).await.unwrap();
    assert!(launched.warnings.iter().any(|w| w.contains("CAP_SYS_RESOURCE")), "{:?}", launched.warnings);
    let found = within(10, runtime.disk_exceeded("b")).await.unwrap();
    assert!(found.used_bytes > 4 << 20 && !found.by_quota, "{found:?}");
    runtime.destroy("b").await.unwrap();
}

#[tokio::test]
async fn without_a_quota_it_is_measured_and_reported() {
    if skip() {
        return;
    }
    let world = world();
    let mut config = world.config.clone();
    config.disk_interval = Duration::from_millis(20);
    config.projects = Some(Projects { folder: world.dir.path().join("ids"), first: 5000, count: 10 });
    let runtime = NativeRuntime::new(config).unwrap();
    let limited = |id: &str, shell: &str| {
        let mut spec = world.spec(id, shell);
        // Memory has no project quotas.
        spec.sandbox = PathBuf::from(format!("/dev/shm/plenum-disk-{}-{id}", std::process::id()));
        std::fs::create_dir_all(&spec.sandbox).unwrap();
        spec.disk = Some(DiskLimit { bytes: 4 << 20 });
        spec
    };
    let greedy = limited("a", "mkdir -p d/e; head -c 6M /dev/zero > d/e/x; sleep 1000");
    let modest = limited("b", "head -c 1M /dev/zero > x; sleep 0.3; exit 4");
    let sandboxes = [greedy.sandbox.clone(), modest.sandbox.clone()];
    let launched = runtime.launch(greedy).await.unwrap();
    assert!(launched.warnings.iter().any(|w| w.contains("measured")), "{:?}", launched.warnings);
    runtime.launch(modest).await.unwrap();
    let found = within(10, runtime.disk_exceeded("a")).await.unwrap();
    assert!(found.used_bytes > 4 << 20 && !found.by_quota, "{found:?}");
    let ended = within(10, runtime.disk_exceeded("b")).await;
    assert!(matches!(ended, Err(RuntimeError::Ended(_))), "{ended:?}");
    assert_eq!(runtime.wait("b").await.unwrap().status, ExitStatus::Code(4));
    for id in ["a", "b"] {
        runtime.destroy(id).await.unwrap();
    }
    for sandbox in sandboxes {
        std::fs::remove_dir_all(sandbox).unwrap();
    }
}

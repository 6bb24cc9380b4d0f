//! Volumes of containers with the machine's root.

use super::harness::{skip, world};
use plenum_containers::{ExitStatus, Mount, Runtime, RuntimeError, Source};
use std::os::unix::fs::symlink;

#[tokio::test]
async fn volumes_are_seen_by_the_container_alone() {
    if skip() {
        return;
    }
    let world = world();
    let data = world.dir.path().join("data");
    std::fs::create_dir_all(data.join("below")).unwrap();
    std::fs::write(data.join("file"), "content\n").unwrap();
    let target = world.dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let before = world.mounts();
    let shell = format!(
        "cat {0}/file one/file; echo x > {0}/new && echo written; echo x 2>/dev/null > one/new || echo refused; \
         stat -fc '%T %s' scratch; stat -c %a scratch; head -c 2m /dev/zero > scratch/big 2>/dev/null || echo full; \
         echo y >> single && echo appended",
        target.display()
    );
    let mut spec = world.spec("a", &shell);
    let path = |path: &std::path::Path| Source::Path(path.to_owned());
    for (source, target, read_only) in [
        (path(&data), target.clone(), false),
        (path(&data), "one".into(), true),
        (Source::Tmpfs { bytes: Some(1 << 20), mode: 0o1777 }, "scratch".into(), false),
        (Source::Beneath { folder: data.clone(), path: "file".into() }, "single".into(), false),
    ] {
        spec.mounts.push(Mount { source, target, read_only });
    }
    let (exit, output) = world.run(spec).await;
    let want = "content\ncontent\nwritten\nrefused\ntmpfs 4096\n1777\nfull\nappended\n";
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(0), want));
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "content\ny\n");
    assert!(data.join("new").exists());
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(world.mounts(), before);
}

#[tokio::test]
async fn links_and_missing_paths_lead_nowhere() {
    if skip() {
        return;
    }
    let world = world();
    let outside = world.dir.path().join("outside");
    let folder = world.dir.path().join("folder");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    symlink(&outside, folder.join("absolute")).unwrap();
    symlink("../outside", folder.join("upwards")).unwrap();
    let attempt = async |id: &str, source: Source, target: &str| {
        let mut spec = world.spec(id, "sleep 100");
        let _planted = symlink(&outside, world.sandbox(id).join("planted"));
        spec.mounts.push(Mount { source, target: target.into(), read_only: false });
        match world.runtime.launch(spec).await {
            Err(RuntimeError::Step { errno, .. }) => Some(errno),
            Err(error) => panic!("{error}"),
            Ok(_) => {
                world.runtime.destroy(id).await.unwrap();
                None
            }
        }
    };
    let beneath = |path: &str| Source::Beneath { folder: folder.clone(), path: path.into() };
    assert_eq!(attempt("a", beneath("absolute"), "x").await, Some(libc::EXDEV));
    assert_eq!(attempt("b", beneath("upwards"), "x").await, Some(libc::EXDEV));
    assert_eq!(attempt("c", Source::Path("/no/such".into()), "x").await, Some(libc::ENOENT));
    let tmpfs = || Source::Tmpfs { bytes: None, mode: 0o755 };
    // With the machine's root nothing is made on the machine.
    assert_eq!(attempt("d", tmpfs(), "/no/such/target").await, Some(libc::ENOENT));
    // A link in the sandbox is resolved as if the sandbox were the root: there the path does not exist.
    assert_eq!(attempt("e", tmpfs(), "planted/x").await, Some(libc::ENOENT));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new());
}

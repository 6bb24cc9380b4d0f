//! A real file system that runs full. A child process (this test program itself, told so by an environment
//! variable) mounts a small tmpfs in a mount namespace of its own, fills it and makes room again.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plenum_store::{Embedded, Options, Store, Txn};

use crate::contract::PATIENCE;

const FOLDER: &str = "PLENUM_STORE_TEST_SMALL_FOLDER";

/// Not a test of its own: what the child does. Without the variable it does nothing.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let store = Embedded::open(folder.join("store.redb"), Options::default()).await.unwrap();
    let ballast = folder.join("ballast");
    let mut error = std::fs::write(&ballast, vec![0; 8 * 1024 * 1024]).err();
    assert!(error.take().is_some(), "the folder is not small");
    let put = |key: String| store.commit(Txn::new().put(key, vec![7; 50_000]));
    let mut count = 0;
    let error = loop {
        match put(format!("k/{count}")).await {
            Ok(_) => count += 1,
            Err(e) => break e,
        }
    };
    assert!(error.code() == "full" && !error.maybe_applied(), "{error}");
    assert!(store.get(&format!("k/{count}")).await.unwrap().is_none());
    if count > 0 {
        assert_eq!(store.get("k/0").await.unwrap().unwrap().value.len(), 50_000, "reading goes on");
    }
    std::fs::remove_file(&ballast).unwrap();
    let until = Instant::now() + PATIENCE;
    while let Err(e) = put(format!("k/{count}")).await {
        assert!(e.is_retryable() && Instant::now() < until, "{e}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for i in 0..=count {
        assert_eq!(store.get(&format!("k/{i}")).await.unwrap().unwrap().value.len(), 50_000);
    }
    store.close().await.unwrap();
    std::fs::write(folder.join("done"), "done").unwrap();
    println!("it went on after {count}");
}

/// Gives the calling process a small tmpfs of its own at `folder`. Runs between fork and exec.
fn mount_small(folder: &CString) -> std::io::Result<()> {
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: system calls only, with strings that end in NUL and outlive them.
    #[allow(unsafe_code)]
    unsafe {
        // Without privileges a user namespace gives them, where the system allows it.
        let user = if libc::geteuid() == 0 { 0 } else { libc::CLONE_NEWUSER };
        check(libc::unshare(libc::CLONE_NEWNS | user))?;
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()))?;
        let options = c"size=4m".as_ptr().cast();
        check(libc::mount(c"tmpfs".as_ptr(), folder.as_ptr(), c"tmpfs".as_ptr(), 0, options))
    }
}

#[test]
fn a_full_file_system_is_full_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let folder = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["full::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir.path())
        .stdin(Stdio::null());
    // SAFETY: the function makes system calls only; it allocates nothing and takes no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || mount_small(&folder));
    }
    let output = command.output().expect("a mount namespace needs root, or user namespaces");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("it went on"), "{text}");
    assert!(!dir.path().join("done").exists(), "the small folder was the child's alone");
}

//! A runtime of its own for each test, cleaned up even if the test fails.

use plenum_containers::{Command, ContainerSpec, Exit, NativeRuntime, Runtime, RuntimeConfig};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The shim: `PLENUM_SHIM`, or built beside the tests.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        if let Some(path) = std::env::var_os("PLENUM_SHIM") {
            return path.into();
        }
        let me = std::env::current_exe().unwrap();
        let profile = me.ancestors().nth(2).unwrap().to_owned();
        let built = std::process::Command::new(env!("CARGO"))
            .args(["build", "-q", "-p", "plenum-shim", "--offline", "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "the shim does not build");
        profile.join("plenum-shim")
    })
}

/// True without root, with the reason printed: the test is then skipped.
pub fn skip() -> bool {
    let skip = !nix::unistd::geteuid().is_root();
    if skip {
        println!("skipped: needs root for namespaces and control groups");
    }
    skip
}

pub struct World {
    pub runtime: NativeRuntime,
    pub config: RuntimeConfig,
    pub dir: tempfile::TempDir,
}

/// A world whose runtime folder is in memory, as `/run` is.
pub fn quick_world() -> World {
    world_in(tempfile::tempdir_in("/dev/shm").unwrap())
}

pub fn world() -> World {
    world_in(tempfile::tempdir().unwrap())
}

fn world_in(dir: tempfile::TempDir) -> World {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let instance = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::os::unix::fs::chown(dir.path(), Some(0), Some(0)).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = RuntimeConfig::new(&instance, shim(), dir.path().join("run"));
    World { runtime: NativeRuntime::new(config.clone()).unwrap(), config, dir }
}

impl World {
    pub fn sandbox(&self, id: &str) -> PathBuf {
        let sandbox = self.dir.path().join("sandbox").join(id);
        std::fs::create_dir_all(&sandbox).unwrap();
        sandbox
    }

    pub fn spec(&self, id: &str, shell: &str) -> ContainerSpec {
        let mut spec = ContainerSpec::new(id, self.sandbox(id), Command::Shell(shell.into()));
        spec.env.insert("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into());
        spec
    }

    pub fn stdout(&self, id: &str) -> String {
        std::fs::read_to_string(self.sandbox(id).join("stdout")).unwrap_or_default()
    }

    /// Launches, waits for the end, destroys.
    pub async fn run(&self, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        self.runtime.launch(spec).await.unwrap();
        let exit = within(20, self.runtime.wait(&id)).await.unwrap();
        assert_eq!(self.runtime.destroy(&id).await.unwrap(), exit);
        let output = self.stdout(&id);
        (exit, output)
    }

    /// A second runtime over the same folders, as after a restart of the agent.
    pub fn restarted(&self) -> NativeRuntime {
        NativeRuntime::new(self.config.clone()).unwrap()
    }

    /// The parents of control groups that exist. The v2 tree alone is mounted where otherwise each hierarchy has a folder.
    fn parents(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mounts = mounts.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        mounts.map(|mount| mount.join(&self.config.cgroup_parent)).filter(|parent| parent.is_dir()).collect()
    }

    pub fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for parent in self.parents() {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            let dirs = entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path());
            found.extend(dirs.filter(|dir| !dir.ends_with("shims")));
        }
        found
    }

    /// The machine's mounts that could be of this world: of its folders, or over what containers mount over. (Other
    /// tests of the machine mount and unmount meanwhile.)
    pub fn mounts(&self) -> Vec<String> {
        let ours = self.dir.path().to_str().unwrap();
        let over = [
            "/",
            "/proc",
            "/sys",
            "/dev",
            "/dev/shm",
            "/etc/resolv.conf",
            "/etc/hosts",
            "/mnt/mesos/sandbox",
        ];
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let concerns = |line: &&str| {
            line.contains(ours) || line.split(' ').nth(4).is_some_and(|target| over.contains(&target))
        };
        text.lines().filter(concerns).map(str::to_owned).collect()
    }

    /// Waits until the sandbox has a file.
    pub async fn file(&self, id: &str, name: &str) -> String {
        let file = self.sandbox(id).join(name);
        eventually(&format!("{} appears", file.display()), || {
            std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // By force and by what is on disk: a failed test has lost its runtime.
        for group in self.groups() {
            let _killed = std::fs::write(group.join("cgroup.kill"), "1");
            for pid in plenum_shim::cgroup::members(&group) {
                let _killed = plenum_shim::sys::kill(pid, libc::SIGKILL);
            }
        }
        let groups = self.groups();
        plenum_shim::cgroup::remove_dirs(&groups, Duration::from_secs(3));
        for parent in self.parents() {
            let shims = parent.join("shims");
            plenum_shim::cgroup::remove_dirs(&[shims, parent], Duration::from_secs(3));
        }
    }
}

pub async fn within<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), work).await.expect("in time")
}

/// Asks again until there is an answer; a deadline of ten seconds.
pub async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "still waiting until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

//! An engine of each test's own: containerd and dockerd in a network namespace, on sockets and folders of the test, and
//! an image with busybox. All of it ends with the test, even one that fails.

use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plenum_containers::{Exit, Runtime};
use plenum_docker::{DockerConfig, DockerRuntime, DockerSpec};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The imported image.
pub const IMAGE: &str = "plenum-test:latest";
/// For anything to happen on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAMS: [(&str, &str); 3] =
    [("dockerd", "docker.io"), ("containerd", "containerd"), ("nsenter", "util-linux")];

pub struct World {
    pub dir: tempfile::TempDir,
    netns: String,
    daemons: Vec<(String, Child)>,
}

/// A world, or nothing with the reason printed: the test is then skipped.
pub async fn world() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: an engine needs root");
        return None;
    }
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            eprintln!("SKIPPED: {program} is not installed (Debian: {package})");
            return None;
        }
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("SKIPPED: /bin/busybox is not installed (Debian: busybox-static)");
        return None;
    }
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pdk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = tempfile::Builder::new().prefix("pdk").tempdir_in("/tmp").unwrap();
    let mut world = World { dir, netns: name, daemons: Vec::new() };
    run("ip", &["netns", "add", &world.netns]);
    run("ip", &["-n", &world.netns, "link", "set", "lo", "up"]);
    world.start_containerd();
    world.start_engine();
    world.client().await;
    world.import(IMAGE, &[]).await;
    Some(world)
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    paths.iter().map(|path| Path::new(path).join(program)).find(|path| path.exists())
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl World {
    pub fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The network that the engine lives in.
    pub fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    pub fn daemon(&mut self, program: &str, arguments: &[String]) {
        let log =
            fs::File::options().append(true).create(true).open(self.at(&format!("{program}.log"))).unwrap();
        // `nsenter` becomes the program: its number is the program's.
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.network().display()))
            .arg(find(program).unwrap())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons.push((program.to_owned(), child));
    }

    fn start_containerd(&mut self) {
        let settings = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{}\"\n",
            self.at("c-root"),
            self.at("c-state"),
            self.at("c.sock")
        );
        fs::write(self.at("c.toml"), settings).unwrap();
        self.daemon("containerd", &["--config".into(), self.at("c.toml")]);
    }

    pub fn start_engine(&mut self) {
        let mut arguments: Vec<String> = [
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--live-restore",
            "--bip=10.213.0.1/24",
        ]
        .map(str::to_owned)
        .to_vec();
        for (option, value) in [
            ("-H", format!("unix://{}", self.at("d.sock"))),
            ("--data-root", self.at("d-root")),
            ("--exec-root", self.at("d-exec")),
            ("--pidfile", self.at("d.pid")),
            ("--containerd", self.at("c.sock")),
            ("--storage-driver", "overlay2".into()),
            ("--cgroup-parent", format!("/{}", self.netns)),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        self.daemon("dockerd", &arguments);
    }

    pub fn signal_engine(&self, signal: Signal) {
        self.signal("dockerd", signal);
    }

    pub fn signal(&self, daemon: &str, signal: Signal) {
        let child = &self.daemons.iter().find(|(name, _)| name == daemon).unwrap().1;
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }

    /// Kills the engine without a word to it.
    pub fn kill_engine(&mut self) {
        let at = self.daemons.iter().position(|(name, _)| name == "dockerd").unwrap();
        let mut child = self.daemons.remove(at).1;
        // Stopped processes take this signal too.
        child.kill().unwrap();
        child.wait().unwrap();
        let _none = fs::remove_file(self.at("d.pid"));
    }

    pub async fn client(&self) -> bollard::Docker {
        let socket = self.at("d.sock");
        eventually("the engine's start", async || {
            let docker =
                bollard::Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION).ok()?;
            docker.negotiate_version().await.ok()
        })
        .await
    }

    /// Imports an image with busybox and more files.
    pub async fn import(&self, name: &str, more: &[(&str, &str)]) {
        let mut tar = tar::Builder::new(Vec::new());
        let busybox = fs::read("/bin/busybox").unwrap();
        let mut add = |path: &str, bytes: &[u8], mode: u32| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            tar.append_data(&mut header, path, bytes).unwrap();
        };
        add("bin/busybox", &busybox, 0o755);
        add("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644);
        add("etc/group", b"root:x:0:\n", 0o644);
        for (path, text) in more {
            add(path, text.as_bytes(), 0o644);
        }
        for applet in [
            "sh", "sleep", "cat", "echo", "stty", "id", "env", "nc", "httpd", "tail", "head", "ls", "seq",
            "tr", "dd", "mkdir", "printf",
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let (repo, tag) = name.rsplit_once(':').unwrap();
        let options = bollard::query_parameters::CreateImageOptions {
            from_src: Some("-".into()),
            repo: Some(repo.into()),
            tag: Some(tag.into()),
            ..Default::default()
        };
        let docker = self.client().await;
        let mut done =
            std::pin::pin!(docker.create_image(Some(options), Some(bollard::body_full(tar.into())), None));
        while let Some(step) = done.next().await {
            step.unwrap();
        }
    }

    pub fn config(&self, instance: &str) -> DockerConfig {
        let mut config = DockerConfig::new(instance, self.at("d.sock"), self.at(&format!("run-{instance}")));
        config.call = Duration::from_secs(30);
        config.ping = Duration::from_secs(5);
        config.ping_every = Duration::from_millis(500);
        config
    }

    pub async fn runtime(&self) -> DockerRuntime {
        self.runtime_of(self.config("one")).await
    }

    pub async fn runtime_of(&self, config: DockerConfig) -> DockerRuntime {
        let runtime = DockerRuntime::new(config).unwrap();
        let mut health = runtime.watch_health();
        tokio::time::timeout(PATIENCE, health.wait_for(|health| health.is_ready())).await.unwrap().unwrap();
        runtime
    }

    /// A container of this shell text, on the network of the engine's namespace.
    pub fn spec(&self, id: &str, text: &str) -> DockerSpec {
        let sandbox = self.dir.path().join("sandbox").join(id);
        fs::create_dir_all(&sandbox).unwrap();
        let mut spec = DockerSpec::new(id, sandbox, IMAGE);
        spec.entrypoint = Some(vec!["/bin/sh".into()]);
        spec.cmd = Some(vec!["-c".into(), text.into()]);
        spec.env.insert("PATH".into(), "/bin".into());
        spec
    }

    pub fn read(&self, id: &str, name: &str) -> String {
        let path = self.dir.path().join("sandbox").join(id).join(name);
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Every container that the engine has, by name.
    pub async fn names(&self) -> Vec<String> {
        let options = bollard::query_parameters::ListContainersOptions { all: true, ..Default::default() };
        let all = self.client().await.list_containers(Some(options)).await.unwrap();
        all.into_iter().flat_map(|one| one.names.unwrap_or_default()).collect()
    }
}

/// Asserts that a file holds just these lines, and shows where it does not.
pub fn assert_lines(what: &str, found: &str, want: &str) {
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let (found, want) = (lines(found), lines(want));
    let at = found.iter().zip(&want).position(|(found, want)| found != want);
    let at = at.unwrap_or(found.len().min(want.len()));
    if found != want {
        let near =
            |lines: &[String]| lines.iter().skip(at.saturating_sub(2)).take(6).cloned().collect::<Vec<_>>();
        let (there, here) = (near(&want), near(&found));
        panic!(
            "{what}: {} lines instead of {}; from {at} on {here:?} instead of {there:?}",
            found.len(),
            want.len()
        );
    }
}

/// Waits for the end of a container, but not for ever.
pub async fn end(runtime: &dyn Runtime, id: &str) -> Exit {
    tokio::time::timeout(PATIENCE, runtime.wait(id))
        .await
        .unwrap_or_else(|_| panic!("{id} does not end"))
        .unwrap()
}

/// Removes a control group with those below it.
fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // The last process may still be on its way out.
    for _ in 0..50 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.at("dockerd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(12).collect();
            eprintln!("dockerd said last:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill_containers();
        for (_, child) in self.daemons.iter_mut().rev() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _gone = kill(pid, Signal::SIGCONT);
            let _gone = kill(pid, Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        self.kill_containers();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let ours: Vec<&str> = ours.filter(|at| Path::new(at).starts_with(self.dir.path())).collect();
        for at in ours.into_iter().rev() {
            let _busy = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
        }
        let _gone = Command::new("ip").args(["netns", "del", &self.netns]).status();
        for mount in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&mount.path().join(&self.netns));
        }
    }
}

impl World {
    /// Kills the supervisors of this engine's containers and what they supervise: they outlive it by design.
    fn kill_containers(&self) {
        let mine = self.at("c.sock");
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("containerd-shim") && line.contains(&mine) {
                for child in plenum_shim::proc::descendants(pid).into_iter().rev().chain([pid]) {
                    let _gone = kill(Pid::from_raw(child), Signal::SIGKILL);
                }
            }
        }
    }
}

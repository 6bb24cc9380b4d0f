//! An engine of our own: containerd and dockerd on sockets and folders of the measurement, without bridge and tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::peers::installed;

/// The imported image's name.
pub const IMAGE: &str = "bench";
/// For a daemon to answer.
const START: Duration = Duration::from_secs(40);

/// Both daemons; they end with this.
pub struct Docker {
    daemons: Vec<Child>,
    folder: PathBuf,
}

impl Docker {
    /// Starts them and imports `folder/root` as an image; nothing if they are not installed.
    ///
    /// # Errors
    /// When they are and do not start.
    pub fn start(folder: &Path) -> Result<Option<Self>> {
        if !["containerd", "dockerd", "docker", "runc"].into_iter().all(installed) {
            return Ok(None);
        }
        let mut docker = Self { daemons: Vec::new(), folder: folder.to_owned() };
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let settings = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{}\"\n",
            at("containerd"),
            at("containerd-state"),
            at("containerd.sock")
        );
        fs::write(folder.join("containerd.toml"), settings)?;
        docker.daemon("containerd", &["--config".to_owned(), at("containerd.toml")])?;
        until(|| folder.join("containerd.sock").exists()).context("containerd")?;
        let mut arguments: Vec<String> = [
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--bridge=none",
        ]
        .map(str::to_owned)
        .to_vec();
        for (option, value) in [
            ("-H", Self::socket(folder)),
            ("--data-root", at("docker-data")),
            ("--exec-root", at("docker-exec")),
            ("--pidfile", at("docker.pid")),
            ("--containerd", at("containerd.sock")),
            ("--storage-driver", "overlay2".to_owned()),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        docker.daemon("dockerd", &arguments)?;
        until(|| client(folder, &["info"]).is_ok()).context("dockerd")?;
        let tar = at("root.tar");
        let packed = Command::new("tar").args(["-C", &at("root"), "-cf", &tar, "."]).status()?;
        if !packed.success() {
            bail!("tar failed");
        }
        client(folder, &["import", &tar, IMAGE])?;
        Ok(Some(docker))
    }

    /// Where the engine is asked.
    pub fn socket(folder: &Path) -> String {
        format!("unix://{}/docker.sock", folder.display())
    }

    fn daemon(&mut self, program: &str, arguments: &[String]) -> Result<()> {
        let log = fs::File::create(self.folder.join(format!("{program}.log")))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.to_owned())?;
        self.daemons.push(child);
        Ok(())
    }
}

fn client(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("docker").args(["-H", &Docker::socket(folder)]).args(arguments).output()?;
    if !output.status.success() {
        bail!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn until(ready: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + START;
    while !ready() {
        if Instant::now() > end {
            bail!("does not answer within {START:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

impl Drop for Docker {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().rev() {
            let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            let _gone = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(15);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        crate::node::unmount_below(&self.folder);
    }
}

//! What launches are compared with: `unshare` with a small file made durable, crun, runc, `docker run`. They are started by a process of their
//! own, whose mount namespace lacks the `unified` hierarchy, since crun refuses a machine that has both kinds of control groups.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use plenum_testkit::process::{Helper, die_with};
use serde_json::Value;

use super::docker::Docker;
use crate::node::task::stamp;

/// The first argument of the process.
const ROLE: &str = "containers-peers";
/// For one launch.
const PATIENCE: Duration = Duration::from_secs(60);

/// One that is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Six namespaces for a bare command, and one small file made durable.
    Unshare,
    /// The OCI runtime in C.
    Crun,
    /// The one in Go.
    Runc,
    /// The engine's client, with an engine of our own.
    Docker,
}

impl Peer {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unshare => "unshare + fsync",
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Docker => "docker run",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Unshare => "unshare",
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Docker => "docker",
        }
    }
}

/// The process, and the engine if there is one.
pub struct Peers {
    helper: Helper,
    _docker: Option<Docker>,
    /// Who is installed.
    pub here: Vec<Peer>,
}

impl Peers {
    /// Starts it. `folder` holds `root`, an image's files, with `stamp`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut here = vec![Peer::Unshare];
        here.extend([Peer::Crun, Peer::Runc].into_iter().filter(|peer| installed(peer.word())));
        if here.len() > 1 {
            bundle(folder, here[1].word())?;
        }
        let docker = Docker::start(folder).unwrap_or_else(|error| {
            eprintln!("docker run: SKIPPED, the engine does not start: {error:#}");
            None
        });
        if docker.is_some() {
            here.push(Peer::Docker);
        }
        let own = std::env::current_exe()?;
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut arguments: Vec<String> =
            ["-m", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        arguments.extend([text(&own), ROLE.to_owned(), std::process::id().to_string(), text(folder)]);
        let helper = Helper::start(Path::new("unshare"), &arguments)?;
        Ok(Self { helper, _docker: docker, here })
    }

    /// Launches once; from the order to the first thing that the command did.
    ///
    /// # Errors
    /// What the peer said.
    pub fn launch(&mut self, peer: Peer) -> Result<Duration> {
        self.helper.say(peer.word())?;
        let line = self.helper.line(PATIENCE)?;
        let nanos: u64 = line.parse().with_context(|| format!("{}: {line}", peer.name()))?;
        Ok(Duration::from_nanos(nanos))
    }
}

/// Whether a program is on the path.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The configuration that `tool spec` writes, with our command.
fn bundle(folder: &Path, tool: &str) -> Result<()> {
    let made = Command::new(tool).arg("spec").current_dir(folder).status()?;
    if !made.success() {
        bail!("{tool} spec failed");
    }
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/stamp"]);
    config["root"] = serde_json::json!({ "path": "root", "readonly": false });
    Ok(fs::write(&file, config.to_string())?)
}

/// Does what this process was started for, when it is this role's.
pub fn role(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [first, parent, folder] if first == ROLE => Some(serve(parent, Path::new(folder))),
        _ => None,
    }
}

fn serve(parent: &str, folder: &Path) -> Result<()> {
    die_with(parent.parse()?)?;
    let mut number = 0_u32;
    for line in std::io::stdin().lines() {
        number += 1;
        match launch(&line?, number, folder) {
            Ok(took) => println!("{}", took.as_nanos()),
            Err(error) => println!("{}", format!("{error:#}").replace('\n', " ")),
        }
    }
    Ok(())
}

fn launch(peer: &str, number: u32, folder: &Path) -> Result<Duration> {
    let id = format!("bench-{}-{number}", std::process::id());
    let at = |name: &str| folder.join(name);
    let mut before = Duration::ZERO;
    let mut command = match peer {
        "unshare" => {
            before = durable_file(&at("small"))?;
            let mut command = Command::new("unshare");
            command.args(["-m", "-u", "-i", "-n", "-p", "-C", "-f"]).arg(at("root/stamp"));
            command
        }
        "crun" | "runc" => {
            let mut command = Command::new(peer);
            command.arg("--root").arg(at(peer)).args(["run", "-b"]).arg(folder).arg(&id);
            command
        }
        "docker" => {
            let mut command = Command::new("docker");
            command.arg("-H").arg(Docker::socket(folder));
            command.args(["run", "--rm", "--net=none", super::docker::IMAGE, "/stamp"]);
            command
        }
        other => bail!("nobody is called {other}"),
    };
    let began = SystemTime::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(first) = stamp(&text) else {
        bail!("{}: {} {}", output.status, text.trim(), String::from_utf8_lossy(&output.stderr).trim());
    };
    Ok(before + first.duration_since(began)?)
}

/// Makes a small file durable. It is taken away when the clock has stopped.
fn durable_file(path: &PathBuf) -> Result<Duration> {
    let began = SystemTime::now();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(&[b'x'; 512])?;
    file.sync_all()?;
    let took = began.elapsed()?;
    fs::remove_file(path)?;
    Ok(took)
}

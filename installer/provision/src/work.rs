//! A run of the installer: the configuration, the hosts, and what all verbs share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use plenum_cli::context::Contexts;
use plenum_cli::screen::Screen;
use plenum_plan::cluster::{Cluster, Sudo};
use plenum_plan::schema::{self, Read};
use plenum_plan::steps::Given;

use crate::error::{InstallError, Result};
use crate::log::{Log, folder};
use crate::payload::Payload;
use crate::progress::Progress;
use crate::remote::Remote;
use crate::secrets::from_source;
use crate::ssh::Login;

/// Most bytes of a configuration.
const LARGEST: u64 = 4 << 20;

/// A run.
pub struct Work {
    /// What the cluster is to be.
    pub cluster: Cluster,
    /// Its file.
    pub file: PathBuf,
    /// The hosts, in the order of the file.
    pub remotes: Vec<Arc<Remote>>,
    /// Lines of progress.
    pub progress: Arc<Progress>,
    /// Logs, and what outlives a broken run.
    pub folder: PathBuf,
    /// This program.
    pub program: Arc<Payload>,
    /// An etcd that is sent along.
    pub etcd: Option<Arc<Payload>>,
    /// What the plan needs to know beside the file.
    pub given: Given,
    /// The key for an etcd of the operator's.
    pub store_key: Option<String>,
    /// Logins of the command line.
    pub contexts: Contexts,
    /// Names this run.
    pub run: String,
}

/// The user's home.
#[must_use]
pub fn home() -> PathBuf {
    std::env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| "/root".into())
}

/// Reads a configuration, and tells on the screen what is wrong with it.
///
/// # Errors
/// [`InstallError::Usage`] where it cannot be read, [`InstallError::Config`] where it has errors.
pub fn load(file: &Path, screen: &mut Screen) -> Result<(Cluster, String)> {
    let cannot = |error: &dyn std::fmt::Display| {
        InstallError::Usage(format!(
            "{} cannot be read: {error}; `plenum install init` writes one",
            file.display()
        ))
    };
    let meta = std::fs::metadata(file).map_err(|error| cannot(&error))?;
    if meta.len() > LARGEST {
        return Err(cannot(&"it is larger than 4 MiB"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let Read { cluster, problems, foreign } = schema::read(&text);
    for problem in &problems {
        screen.note(&format!("{}: {problem}", file.display()))?;
    }
    if !foreign.is_empty() {
        screen.note(&format!("{} is a configuration of DC/OS:", file.display()))?;
        for key in &foreign {
            let word = if key.used { "used as" } else { "not used:" };
            screen.note(&format!("  {} {word} {}", key.key, key.why))?;
        }
    }
    match cluster {
        Some(cluster) => Ok((cluster, text)),
        None => {
            let errors =
                problems.iter().filter(|problem| problem.severity == schema::Severity::Error).count();
            Err(InstallError::Config(format!(
                "{}: {errors} error{}; nothing was done",
                file.display(),
                if errors == 1 { "" } else { "s" }
            )))
        }
    }
}

impl Work {
    /// Begins a run with a configuration.
    ///
    /// # Errors
    /// [`InstallError`]: a key, a password or a file that is named cannot be had.
    pub fn begin(cluster: Cluster, file: &Path, screen: &mut Screen) -> Result<Self> {
        let home = home();
        let folder = folder(&home, cluster.name.as_str());
        let local = |error: std::io::Error| InstallError::Local(format!("{}: {error}", folder.display()));
        plenum_base::files::private_dir(&folder).map_err(local)?;
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let beside = |path: &String| base.join(crate::ssh::expand(path, &home));
        let read = |path: &Option<String>| -> Result<String> {
            let Some(path) = path else { return Ok(String::new()) };
            let path = beside(path);
            std::fs::read_to_string(&path)
                .map_err(|error| InstallError::Usage(format!("{} cannot be read: {error}", path.display())))
        };
        let store = &cluster.store;
        let store_key = read(&store.key)?;
        let etcd = store.binary.as_ref().map(|path| Payload::read(&beside(path))).transpose()?.map(Arc::new);
        let given = Given {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            etcd: etcd.as_ref().map(|etcd| etcd.digest.clone()),
            store_ca: read(&store.ca)?,
            store_certificate: read(&store.certificate)?,
        };
        let more: Vec<String> =
            cluster.hosts.iter().filter_map(|host| host.ssh.key.clone()).flatten().collect();
        let login = Arc::new(Login::prepare(&cluster.ssh, &more, &home, screen)?);
        let sudo = sudo_password(&cluster, &login, screen);
        let remotes = cluster
            .hosts
            .iter()
            .map(|host| {
                Remote::new(&cluster, host, &login, &sudo, Log::open(&folder, &host.name)).map(Arc::new)
            })
            .collect::<Result<Vec<_>>>()?;
        let run = format!("{}-{}", std::process::id(), jiff::Timestamp::now().as_millisecond());
        Ok(Self {
            progress: Arc::new(Progress::new(screen.live, terminal(screen))),
            file: file.to_owned(),
            remotes,
            folder,
            program: Arc::new(Payload::own()?),
            etcd,
            given,
            store_key: Some(store_key).filter(|key| !key.is_empty()),
            contexts: Contexts::of_this_user(),
            run,
            cluster,
        })
    }

    /// The host of that name.
    ///
    /// # Errors
    /// [`InstallError::Usage`].
    pub fn remote(&self, name: &str) -> Result<&Arc<Remote>> {
        let missing = || InstallError::Usage(format!("{} has no host {name}", self.file.display()));
        self.remotes.iter().find(|remote| remote.name == name).ok_or_else(missing)
    }

    /// Does something with hosts side by side, at most as many as the limits say; the results in the hosts' order.
    pub async fn each<T, F>(
        &self,
        remotes: &[Arc<Remote>],
        work: impl Fn(Arc<Remote>) -> F,
    ) -> Vec<(String, Result<T>)>
    where
        F: Future<Output = Result<T>>,
    {
        let at_once = usize::from(self.cluster.limits.parallel.max(1));
        let jobs = remotes.iter().enumerate().map(|(i, remote)| {
            let (name, job) = (remote.name.clone(), work(remote.clone()));
            async move { (i, name, job.await) }
        });
        let mut done: Vec<_> = futures_util::stream::iter(jobs).buffer_unordered(at_once).collect().await;
        done.sort_by_key(|(i, _, _)| *i);
        done.into_iter().map(|(_, name, result)| (name, result)).collect()
    }

    /// Makes hosts ready: connected, root, with the program.
    pub async fn ready(&self, remotes: &[Arc<Remote>]) -> Vec<(String, Result<()>)> {
        self.each(remotes, |remote| async move {
            let say = |text: &str| self.progress.host(&remote.name, text);
            let done = remote.ready(&self.program, &say).await;
            match &done {
                Ok(()) => say("ready"),
                Err(error) => say(&format!("failed: {error}")),
            }
            done
        })
        .await
    }

    /// Takes away what was sent.
    pub async fn tidy(&self) {
        self.each(&self.remotes, |remote| async move {
            remote.unsend().await;
            Ok(())
        })
        .await;
    }
}

fn terminal(screen: &Screen) -> Option<usize> {
    screen.width
}

/// The password of sudo, or why there is none: told only where a host asks for it.
fn sudo_password(
    cluster: &Cluster,
    login: &Login,
    screen: &mut Screen,
) -> std::result::Result<crate::secrets::Secret, String> {
    let ssh = &cluster.ssh;
    if ssh.sudo_password == "same" {
        let none = "there is none: set ssh.sudo_password to prompt or env:NAME".to_owned();
        return login.password.clone().ok_or(none);
    }
    let sudo =
        ssh.sudo == Sudo::Password || cluster.hosts.iter().any(|host| host.ssh.sudo == Some(Sudo::Password));
    if ssh.sudo_password == "prompt" && ssh.user == "root" && !sudo {
        return Err("nobody was asked for it".to_owned());
    }
    match from_source(&ssh.sudo_password, &format!("sudo password of {}", ssh.user), screen) {
        Ok(Some(password)) => Ok(password),
        Ok(None) => Err("there is none".to_owned()),
        Err(error) => Err(format!("there is none: {error}")),
    }
}

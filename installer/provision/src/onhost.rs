//! What the installer asks of its own program on a host beside `plenum host`: holding the lock against a second installer, and, on a master, what
//! identity lets root do there: join tokens, and taking members out.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use clap::Subcommand;
use plenum_base::client::Client;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::tls::{Expect, Identity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{InstallError, Result};

const LOCK: &str = "/run/plenum-install.lock";
/// A holder that hears nothing for so long is alone: its installer is gone.
const SILENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);

/// Run on hosts, as root.
#[derive(Subcommand, Debug)]
pub enum OnHost {
    /// Hold the lock against other installers until the input ends
    Hold {
        /// Who holds it.
        #[arg(long)]
        owner: String,
        /// Names the run of the installer.
        #[arg(long)]
        run: String,
    },
    /// Print a join token
    Mint {
        /// The cluster, and this master.
        #[command(flatten)]
        master: Master,
        /// What the host becomes.
        #[arg(long)]
        kind: String,
        /// How many hosts may use it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Its life in seconds.
        #[arg(long, default_value_t = 3600)]
        ttl: u64,
    },
    /// Take a host out of the cluster
    Leave {
        /// The cluster, and this master.
        #[command(flatten)]
        master: Master,
        /// The host's name.
        name: String,
        /// What to take away: being a master.
        #[arg(long)]
        as_master: bool,
        /// What to take away: its certificates.
        #[arg(long)]
        as_member: bool,
        /// Seconds until its etcd member must be gone.
        #[arg(long, default_value_t = 60)]
        wait: u64,
    },
}

/// A master, as root on it.
#[derive(clap::Args, Debug)]
pub struct Master {
    /// The cluster.
    #[arg(long, default_value = "default")]
    instance: Instance,
    /// The master's address.
    #[arg(long)]
    address: IpAddr,
}

/// The first line that a holder prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whether it holds the lock.
    pub held: bool,
    /// Who does.
    pub owner: String,
    /// Since when.
    pub since: String,
    /// In which run.
    #[serde(default)]
    pub run: String,
}

/// Carries it out.
///
/// # Errors
/// [`InstallError`].
pub fn run(verb: &OnHost) -> Result<()> {
    match verb {
        OnHost::Hold { owner, run } => hold(std::path::Path::new(LOCK), owner, run, &mut std::io::stdout()),
        OnHost::Mint { master, kind, uses, ttl } => {
            let body = json!({"kind": kind, "uses": uses, "ttl_seconds": ttl, "description": "installer"});
            let made = block_on(async {
                master.call(http_post, "/internal/v1/tokens", Some(&body), Role::Identity).await
            })?;
            let token = made.get("token").and_then(Value::as_str);
            println!("{}", token.ok_or_else(|| InstallError::Host("identity gave no token".to_owned()))?);
            Ok(())
        }
        OnHost::Leave { master, name, as_master, as_member, wait } => {
            block_on(leave(master, name, *as_master, *as_member, Duration::from_secs(*wait)))
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| InstallError::Local(error.to_string()))?.block_on(work)
}

/// Holds the lock while somebody speaks to us. A lock whose holder died is free: the system frees it.
fn hold(path: &std::path::Path, owner: &str, run: &str, out: &mut dyn std::io::Write) -> Result<()> {
    let failed = |error: std::io::Error| InstallError::Host(format!("{}: {error}", path.display()));
    let mut say = |held: &Held| -> Result<()> {
        let text = serde_json::to_string(held).map_err(|error| InstallError::Host(error.to_string()))?;
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(failed)
    };
    let file = loop {
        let mut open = std::fs::OpenOptions::new();
        let mut file = open
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        if file.try_lock().is_err() {
            let mut text = String::new();
            (&mut file).take(4096).read_to_string(&mut text).map_err(failed)?;
            let other: Held = serde_json::from_str(&text).unwrap_or_default();
            // Our own run's holder on a connection that broke: it will find out.
            return say(&Held { held: other.run == run, ..other });
        }
        // The one before may have removed the file between our opening and locking.
        use std::os::unix::fs::MetadataExt as _;
        let ours = file.metadata().map_err(failed)?.ino();
        if std::fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            break file;
        }
    };
    let since = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let held = Held { held: true, owner: owner.to_owned(), since, run: run.to_owned() };
    file.set_len(0).map_err(failed)?;
    let text = serde_json::to_vec(&held).map_err(|error| InstallError::Host(error.to_string()))?;
    (&file).write_all(&text).map_err(failed)?;
    say(&held)?;
    listen();
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Returns when the input ends, or is silent for too long.
fn listen() {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut byte = [0; 64];
        while input.read(&mut byte).is_ok_and(|n| n > 0) && tell.send(()).is_ok() {}
    });
    while told.recv_timeout(SILENCE).is_ok() {}
}

type Method = fn(&Client, &str) -> plenum_base::client::Call;

fn http_post(client: &Client, url: &str) -> plenum_base::client::Call {
    client.post(url)
}

fn http_get(client: &Client, url: &str) -> plenum_base::client::Call {
    client.get(url)
}

fn http_delete(client: &Client, url: &str) -> plenum_base::client::Call {
    client.delete(url)
}

impl Master {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>, role: Role) -> Result<Value> {
        let places = Places::of(self.instance.clone(), 0);
        let failed =
            |error: &dyn std::fmt::Display| InstallError::Host(format!("{role} of this master: {error}"));
        let identity = Identity::load(&places.identity(Role::Identity)).map_err(|error| failed(&error))?;
        let client = Client::with_identity(&identity, Expect::Role(role.to_string()))
            .map_err(|error| failed(&error))?;
        let port = if role == Role::Etcd { 2381 } else { role.port() };
        let url = format!("https://{}{path}", SocketAddr::new(self.address, port));
        let mut call = method(&client, &url).deadline(CALL);
        if let Some(body) = body {
            call = call.json(body);
        }
        let reply = call.send().await.map_err(|error| failed(&error))?;
        if reply.status == 404 {
            return Ok(Value::Null);
        }
        let reply = reply.success().await.map_err(|error| failed(&error))?;
        let bytes = reply.bytes().await.map_err(|error| failed(&error))?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

async fn leave(master: &Master, name: &str, as_master: bool, as_member: bool, wait: Duration) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(fine) {
        return Err(InstallError::Usage(format!("\"{name}\" is no host's name")));
    }
    if as_master {
        master.call(http_delete, &format!("/internal/v1/masters/{name}"), None, Role::Identity).await?;
        let end = Instant::now() + wait;
        loop {
            // Where there is no etcd of ours there is no member either.
            let status = master.call(http_get, "/v1/status", None, Role::Etcd).await.unwrap_or(Value::Null);
            let members = status.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
            if !members.iter().any(|member| member.get("name").and_then(Value::as_str) == Some(name)) {
                break;
            }
            if Instant::now() >= end {
                return Err(InstallError::Deadline(format!(
                    "the etcd member of {name} is still there after {} s: is there a majority of masters? See `plenum status` on one of them",
                    wait.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        master
            .call(http_delete, &format!("/internal/v1/masters/{name}?gone=true"), None, Role::Identity)
            .await?;
    }
    if as_member {
        master.call(http_delete, &format!("/internal/v1/members/{name}"), None, Role::Identity).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = std::fs::File::create(&path).unwrap();
        file.try_lock().unwrap();
        let first = Held { held: true, owner: "ann@laptop".into(), since: "noon".into(), run: "1".into() };
        std::fs::write(&path, serde_json::to_vec(&first).unwrap()).unwrap();
        let mut out = Vec::new();
        hold(&path, "bob@desk", "2", &mut out).unwrap();
        let said: Held = serde_json::from_slice(&out).unwrap();
        assert_eq!(said, Held { held: false, ..first.clone() });
        // The same run, whose connection broke.
        let mut out = Vec::new();
        hold(&path, "ann@laptop", "1", &mut out).unwrap();
        assert_eq!(serde_json::from_slice::<Held>(&out).unwrap(), first);
    }
}

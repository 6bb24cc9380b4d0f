//! SSH: connecting, also through hosts in between, with an agent, keys or a password; and running commands ([`Connection::run`]). What is run is
//! [`crate::remote`]'s.

mod auth;
mod known;
mod run;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{Config, Handle, Handler};
use russh::keys::PublicKeyOrCertificate;

pub use auth::Login;
pub use known::Known;
pub use run::{Input, Output};

use crate::error::{InstallError, Result};

/// One of ours that is not answered within this time, three times, ends the connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A machine on the way to a host, or the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
}

impl Hop {
    /// `user@host:port`; user and port may be left out. IPv6 addresses with a port stand in brackets.
    #[must_use]
    pub fn parse(text: &str, user: &str) -> Option<Self> {
        let (user, rest) = text.trim().rsplit_once('@').unwrap_or((user, text.trim()));
        let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (host, port) = inner.split_once(']')?;
            (host, port.strip_prefix(':').unwrap_or("22"))
        } else if rest.matches(':').count() == 1 {
            rest.split_once(':')?
        } else {
            (rest, "22")
        };
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let fine = |word: &str| !word.is_empty() && !word.contains(char::is_whitespace);
        (fine(user) && fine(host)).then(|| Self { host: host.to_owned(), port, user: user.to_owned() })
    }
}

/// `~` in front of a path.
#[must_use]
pub fn expand(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(path),
    }
}

/// A connection to a host that knows who we are.
pub struct Connection {
    handle: Handle<Check>,
    /// Those that the last one goes through; they end with it.
    _between: Vec<Handle<Check>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Connects through all hops but the last to the last, each with the same login.
    ///
    /// # Errors
    /// [`InstallError::Connect`]: nobody answers in time, the host's key is not the known one, or the login is refused.
    pub async fn open(hops: &[Hop], login: &Login, deadline: Duration) -> Result<Self> {
        let mut handles: Vec<Handle<Check>> = Vec::new();
        for hop in hops {
            let end = format!("{}:{}", hop.host, hop.port);
            let work = async {
                let mut handle = connect(hop, login, handles.last()).await?;
                auth::authenticate(&mut handle, &hop.user, &hop.host, login).await?;
                Ok::<_, InstallError>(handle)
            };
            let handle = tokio::time::timeout(deadline, work).await.map_err(|_| {
                InstallError::Connect(format!(
                    "no SSH connection to {end} within {} s: is the host up, and is the address right?",
                    deadline.as_secs()
                ))
            })??;
            handles.push(handle);
        }
        let handle =
            handles.pop().ok_or_else(|| InstallError::Usage("there is no host to connect to".to_owned()))?;
        Ok(Self { handle, _between: handles })
    }

    /// Whether it is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }
}

async fn connect(hop: &Hop, login: &Login, through: Option<&Handle<Check>>) -> Result<Handle<Check>> {
    let entry = login.known.entry(&hop.host, hop.port);
    let mut config = Config {
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        window_size: 8 << 20,
        ..Config::default()
    };
    let algorithms = entry.algorithms();
    if !algorithms.is_empty() {
        config.preferred.key = algorithms.into();
    }
    let verdict = Arc::new(Mutex::new(None));
    let check = Check { hop: hop.clone(), known: login.known.clone(), entry, verdict: verdict.clone() };
    let config = Arc::new(config);
    let outcome = match through {
        None => {
            let stream = dial(hop).await?;
            russh::client::connect_stream(config, stream, check).await
        }
        Some(between) => {
            let opened =
                between.channel_open_direct_tcpip(hop.host.clone(), hop.port.into(), "127.0.0.1", 0).await;
            let channel = opened.map_err(|error| {
                InstallError::Connect(format!(
                    "the host in between does not reach {}:{}: {error}",
                    hop.host, hop.port
                ))
            })?;
            russh::client::connect_stream(config, channel.into_stream(), check).await
        }
    };
    outcome.map_err(|error| {
        let refused = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        refused.unwrap_or_else(|| match error {
            russh::Error::NoCommonAlgo { .. } => InstallError::Connect(format!(
                "{} and this program have no algorithm in common ({error}); if its known key is of a kind that it no longer has, remove that with \
                 `ssh-keygen -R {}`",
                hop.host, hop.host
            )),
            error => InstallError::Connect(format!("SSH to {}:{} failed: {error}", hop.host, hop.port)),
        })
    })
}

async fn dial(hop: &Hop) -> Result<tokio::net::TcpStream> {
    let addresses = plenum_base::resolve::lookup(&hop.host)
        .await
        .map_err(|error| InstallError::Connect(format!("{} is not found: {error}", hop.host)))?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match tokio::net::TcpStream::connect((address, hop.port)).await {
            Ok(stream) => {
                // It only saves some milliseconds.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(InstallError::Connect(format!("{}:{} does not answer: {last}", hop.host, hop.port)))
}

/// Judges the host's key.
struct Check {
    hop: Hop,
    known: Known,
    entry: known::Entry,
    verdict: Arc<Mutex<Option<InstallError>>>,
}

impl Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, russh::Error> {
        let judged = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.known.judge(&self.hop.host, self.hop.port, &self.entry, key)
            }
            PublicKeyOrCertificate::Certificate(_) => Err(InstallError::Connect(format!(
                "{} shows a certificate, and only host keys are taken",
                self.hop.host
            ))),
        };
        let fine = judged.is_ok();
        if let Err(error) = judged {
            *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Ok(fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_read() {
        let hop = |text| Hop::parse(text, "me").map(|hop| format!("{} {} {}", hop.user, hop.host, hop.port));
        for (text, read) in [
            ("h", Some("me h 22")),
            ("ann@h:2222", Some("ann h 2222")),
            ("ann@fd00::1", Some("ann fd00::1 22")),
            ("[fd00::1]:23", Some("me fd00::1 23")),
            ("h:0", None),
            ("h:x", None),
            ("", None),
            ("a b", None),
            ("[fd00::1", None),
        ] {
            assert_eq!(hop(text).as_deref(), read, "{text}");
        }
    }
}

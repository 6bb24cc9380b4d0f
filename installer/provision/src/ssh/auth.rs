//! Saying who we are: keys that were named, then the agent's, then the usual files, then a password.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plenum_cli::screen::Screen;
use plenum_plan::cluster::Ssh;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, load_secret_key};

use super::{Check, Known};
use crate::error::{InstallError, Result};
use crate::secrets::{Secret, ask, from_source};

/// Servers end the connection after six tries; some must be left for the other ways.
const MOST_AGENT_KEYS: usize = 4;
const AGENT_DEADLINE: Duration = Duration::from_secs(20);

/// How we log in: read and unlocked once, used for every host.
#[derive(Debug, Clone)]
pub struct Login {
    /// Keys from files that were named.
    named: Vec<Arc<PrivateKey>>,
    /// Keys from the usual files.
    usual: Vec<Arc<PrivateKey>>,
    /// The agent's socket.
    agent: Option<PathBuf>,
    /// The password.
    pub password: Option<Secret>,
    /// Host keys.
    pub known: Known,
}

impl Login {
    /// Reads keys and asks for what must be asked for. `more` are key files that only some hosts use.
    ///
    /// # Errors
    /// [`InstallError::Usage`]: a named key cannot be read, or a passphrase is wrong or missing.
    pub fn prepare(ssh: &Ssh, more: &[String], home: &Path, screen: &mut Screen) -> Result<Self> {
        let mut named = Vec::new();
        let mut files: Vec<&String> = ssh.key.iter().chain(more).collect();
        files.dedup();
        for file in files {
            let path = super::expand(file, home);
            match read_key(&path, true, screen)? {
                Some(key) => named.push(key),
                None => return Err(InstallError::Usage(format!("ssh.key: {} is not there", path.display()))),
            }
        }
        let mut usual = Vec::new();
        if named.is_empty() {
            for file in ["id_ed25519", "id_ecdsa", "id_rsa"] {
                // One that needs a passphrase is the agent's business unless it was named.
                usual.extend(read_key(&home.join(".ssh").join(file), false, screen)?);
            }
        }
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|path| ssh.agent && !path.is_empty());
        let password = from_source(&ssh.password, &format!("Password of {} on the hosts", ssh.user), screen)?;
        let known = Known::from_setting(&ssh.known_hosts, home);
        Ok(Self { named, usual, agent: agent.map(PathBuf::from), password, known })
    }
}

fn read_key(path: &Path, named: bool, screen: &mut Screen) -> Result<Option<Arc<PrivateKey>>> {
    let bad = |error: &dyn std::fmt::Display| {
        InstallError::Usage(format!("the key {} cannot be used: {error}", path.display()))
    };
    if !path.exists() {
        return Ok(None);
    }
    match load_secret_key(path, None) {
        Ok(key) => Ok(Some(Arc::new(key))),
        Err(russh::keys::Error::KeyIsEncrypted) => {
            let known = std::env::var("PLENUM_SSH_PASSPHRASE").ok().filter(|text| !text.is_empty());
            let passphrase = match known {
                Some(text) => Secret::new(text),
                None if named => ask(&format!("Passphrase of {}", path.display()), screen)?,
                None => return Ok(None),
            };
            match load_secret_key(path, Some(passphrase.expose())) {
                Ok(key) => Ok(Some(Arc::new(key))),
                Err(_) if named => Err(bad(&"the passphrase is wrong")),
                Err(_) => Ok(None),
            }
        }
        Err(error) if named => Err(bad(&error)),
        Err(_) => Ok(None),
    }
}

/// Tries one way after the other.
pub(super) async fn authenticate(
    handle: &mut Handle<Check>,
    user: &str,
    host: &str,
    login: &Login,
) -> Result<()> {
    let mut tried = Vec::new();
    for key in &login.named {
        tried.push("the named key");
        if with_key(handle, user, host, key).await? {
            return Ok(());
        }
    }
    if let Some(agent) = &login.agent {
        let offered = tokio::time::timeout(AGENT_DEADLINE, with_agent(handle, user, host, agent)).await;
        match offered {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => tried.push("the agent's keys"),
            Ok(Err(error)) => return Err(error),
            Err(_) => tried.push("the agent, which did not answer"),
        }
    }
    for key in &login.usual {
        tried.push("the key in ~/.ssh");
        if with_key(handle, user, host, key).await? {
            return Ok(());
        }
    }
    if let Some(password) = &login.password {
        tried.push("the password");
        if with_password(handle, user, host, password).await? {
            return Ok(());
        }
    }
    tried.dedup();
    let what = if tried.is_empty() {
        "there was nothing to try: no key, no agent, no password".to_owned()
    } else {
        format!("it took none of what was tried: {}", tried.join(", "))
    };
    Err(InstallError::Connect(format!(
        "{host} does not let {user} in: {what}. Set ssh.user, ssh.key or ssh.password, and try `ssh {user}@{host}`"
    )))
}

fn broken(host: &str, error: &dyn std::fmt::Display) -> InstallError {
    InstallError::Connect(format!("{host} ended the login: {error}"))
}

async fn with_key(handle: &mut Handle<Check>, user: &str, host: &str, key: &Arc<PrivateKey>) -> Result<bool> {
    let hash = match key.algorithm() {
        russh::keys::Algorithm::Rsa { .. } => {
            handle.best_supported_rsa_hash().await.map_err(|error| broken(host, &error))?.flatten()
        }
        _ => None,
    };
    let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
    let outcome = handle.authenticate_publickey(user, key).await.map_err(|error| broken(host, &error))?;
    Ok(outcome.success())
}

async fn with_agent(handle: &mut Handle<Check>, user: &str, host: &str, agent: &Path) -> Result<bool> {
    // An agent that is not there is no error: files may do.
    let Ok(mut client) = AgentClient::connect_uds(agent).await else { return Ok(false) };
    let Ok(identities) = client.request_identities().await else { return Ok(false) };
    for identity in identities.into_iter().take(MOST_AGENT_KEYS) {
        let AgentIdentity::PublicKey { key, .. } = identity else { continue };
        let hash = match key.algorithm() {
            russh::keys::Algorithm::Rsa { .. } => {
                handle.best_supported_rsa_hash().await.map_err(|error| broken(host, &error))?.flatten()
            }
            _ => None,
        };
        match handle.authenticate_publickey_with(user, key, hash, &mut client).await {
            Ok(outcome) if outcome.success() => return Ok(true),
            Ok(_) => {}
            // The agent does not want to sign with this one.
            Err(_) if !handle.is_closed() => {}
            Err(error) => return Err(broken(host, &error)),
        }
    }
    Ok(false)
}

async fn with_password(
    handle: &mut Handle<Check>,
    user: &str,
    host: &str,
    password: &Secret,
) -> Result<bool> {
    let outcome =
        handle.authenticate_password(user, password.expose()).await.map_err(|error| broken(host, &error))?;
    let AuthResult::Failure { remaining_methods, .. } = outcome else { return Ok(true) };
    if !remaining_methods.contains(&russh::MethodKind::KeyboardInteractive) {
        return Ok(false);
    }
    let mut answer = handle
        .authenticate_keyboard_interactive_start(user, None::<String>)
        .await
        .map_err(|error| broken(host, &error))?;
    // PAM asks once, then with an empty list; nothing asks eight times.
    for _ in 0..8 {
        match answer {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let replies = prompts.iter().map(|_| password.expose().to_owned()).collect();
                answer = handle
                    .authenticate_keyboard_interactive_respond(replies)
                    .await
                    .map_err(|error| broken(host, &error))?;
            }
        }
    }
    Ok(false)
}

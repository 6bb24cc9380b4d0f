//! Joining a cluster: a node that has nothing but a join token gets its certificate from identity. Who may join is identity's decision.

use std::time::Duration;

use serde_json::json;

use super::renew::Issued;
use super::{Identity, IdentityFiles, TlsError, pinned_client_config};
use crate::client::{Client, ClientError};
use crate::files;
use crate::pki::{PkiError, Request};

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token has not the form `plenum1.<id>.<secret>.<fingerprint>`.
    #[error("this is no join token; make one with `plenum node token`")]
    Token,
    /// Files, or what identity sent, cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Identity could not be asked, is another cluster's, or refused.
    #[error("identity: {0}")]
    Client(#[from] ClientError),
}

/// The fingerprint of the CA that a join token names.
fn fingerprint(token: &str) -> Option<&str> {
    let parts: Vec<&str> = token.trim().split('.').collect();
    match parts.as_slice() {
        ["plenum1", _, _, fingerprint] if fingerprint.len() == 64 => Some(fingerprint),
        _ => None,
    }
}

/// Joins as the agent `name`: makes a key (or takes the one a lost attempt left, so that repeating is safe), asks identity at `url`,
/// writes the files. The token is only sent to a server that proves to belong to the CA the token names.
///
/// # Errors
/// [`JoinError`].
pub async fn join(url: &str, token: &str, name: &str, files: &IdentityFiles) -> Result<Identity, JoinError> {
    let config = pinned_client_config(fingerprint(token).ok_or(JoinError::Token)?, "identity")?;
    let held = std::fs::read_to_string(&files.key).ok().and_then(|key| Request::for_key(&key).ok());
    let request = match held {
        Some(request) => request,
        None => new_key(files)?,
    };
    let body = json!({"token": token.trim(), "name": name, "csr": request.csr});
    let call = Client::with_tls(config).post(&format!("{url}/internal/v1/join"));
    let reply = call.deadline(Duration::from_secs(30)).json(&body).send().await?;
    let issued: Issued = reply.success().await?.json().await?;
    Identity::from_pem(&issued.ca, &issued.certificate, &request.key)?;
    files.write(&issued.ca, &issued.certificate, &request.key)?;
    Ok(Identity::load(files)?)
}

fn new_key(files: &IdentityFiles) -> Result<Request, JoinError> {
    let request = Request::new()?;
    let fail = |source| TlsError::File { path: files.key.clone(), source };
    if let Some(folder) = files.key.parent() {
        files::private_dir(folder).map_err(fail)?;
    }
    files::replace(&files.key, request.key.as_bytes(), files::SECRET).map_err(fail)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn tokens_name_their_ca() {
        let print = "f".repeat(64);
        assert_eq!(fingerprint(&format!(" plenum1.id.secret.{print}\n")), Some(print.as_str()));
        for bad in [
            "",
            "plenum1.id.secret.short",
            &format!("plenum2.id.secret.{print}"),
            &format!("plenum1.id.{print}"),
        ] {
            assert_eq!(fingerprint(bad), None);
        }
    }
}

//! One request: who asks, redirects, tokens.

use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderName, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use plenum_base::client::{Client, Credentials, Reply, full};
use serde::Deserialize;

use super::challenge::{Challenge, parse};
use super::{Endpoint, Failure, Registries, Repository, accepted, tls, url};
use crate::auth::Login;
use crate::digest::Digest;
use crate::error::ImageError;

const REDIRECTS_MAX: usize = 5;
const TOKEN_MAX: usize = 1 << 20;
/// Tokens that are remembered.
const TOKENS_MAX: usize = 1000;

/// Leave to pull, for a while.
#[derive(Clone)]
pub struct Token {
    value: Credentials,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[derive(Deserialize)]
struct TokenReply {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Registries {
    /// A GET below the endpoint's base, authenticated as the registry asks; whatever the status.
    pub(super) async fn get(
        &self,
        endpoint: &Endpoint,
        from: &Repository<'_>,
        path: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Reply, Failure> {
        let login = from.auth.login(&endpoint.host);
        let key =
            format!("{}\n{}\n{}", endpoint.base, from.name, login.map_or_else(String::new, fingerprint));
        let known = self.tokens.lock().get(&key).filter(|token| token.until > Instant::now()).cloned();
        let first = match (known, login) {
            (Some(token), _) => Some(token.value),
            (None, Some(Login::Bearer(token))) => Some(Credentials::Bearer(token.clone())),
            (None, _) => None,
        };
        let target = format!("{}{path}", endpoint.base);
        let reply = self.follow(&target, headers, first.as_ref()).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        let asked = reply.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = parse(asked) else {
            return Err(Failure::Denied("it does not say how to authenticate".to_owned()));
        };
        let token = match challenge {
            Challenge::Basic => match login {
                Some(Login::Basic { user, password }) => Token {
                    value: Credentials::Basic { principal: user.clone(), secret: password.clone() },
                    until: Instant::now() + Duration::from_secs(300),
                },
                _ => return Err(wants_credentials(&endpoint.host)),
            },
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", from.name));
                self.token(&endpoint.host, &realm, service.as_deref(), &scope, login).await?
            }
        };
        let reply = self.follow(&target, headers, Some(&token.value)).await?;
        let mut tokens = self.tokens.lock();
        if reply.status == StatusCode::UNAUTHORIZED || reply.status == StatusCode::FORBIDDEN {
            tokens.remove(&key);
            if login.is_none() {
                return Err(wants_credentials(&endpoint.host));
            }
        } else {
            if tokens.len() >= TOKENS_MAX {
                tokens.clear();
            }
            tokens.insert(key, token);
        }
        Ok(reply)
    }

    /// Sends a GET and follows redirects; credentials go nowhere but to where they were meant for.
    async fn follow(
        &self,
        first: &str,
        headers: &[(HeaderName, String)],
        credentials: Option<&Credentials>,
    ) -> Result<Reply, Failure> {
        let mut at = first.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut call =
                self.client(&at)?.get(&at).deadline(self.settings.stall).header(USER_AGENT, "plenum");
            for (name, value) in headers {
                call = call.header(name.clone(), value);
            }
            if let Some(credentials) = credentials.filter(|_| url::origin(&at) == url::origin(first)) {
                if credentials.header().is_none() {
                    let reason = "the credentials contain characters that a header cannot carry";
                    return Err(Failure::Denied(reason.to_owned()));
                }
                call = call.credentials(credentials);
            }
            let reply = call.send().await.map_err(Failure::from_client)?;
            if !reply.status.is_redirection() {
                return Ok(reply);
            }
            let location = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url::redirect(&at, location));
            at = next.ok_or_else(|| useless(first, "it redirects to nowhere"))?;
        }
        Err(useless(first, "it redirects in a circle"))
    }

    /// The client for a URL's host. Plain HTTP only where the operator allows it, also for redirects and for tokens.
    fn client(&self, at: &str) -> Result<Client, Failure> {
        let host = url::host_of(at).ok_or_else(|| useless(at, "it leads to something that is not a URL"))?;
        if at.starts_with("http://") && !self.settings.insecure.contains(&host) {
            return Err(useless(at, "it leads to a server without TLS that is not listed as insecure"));
        }
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&host) {
            return Ok(client.clone());
        }
        let client = tls::client(&self.settings, &host).map_err(|reason| useless(at, &reason))?;
        clients.insert(host, client.clone());
        Ok(client)
    }

    /// Trades the login, or nobody's, for a token.
    async fn token(
        &self,
        registry: &str,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        login: Option<&Login>,
    ) -> Result<Token, Failure> {
        let realm_is_safe = url::host_of(realm).is_some();
        if !realm_is_safe {
            return Err(useless(&format!("https://{registry}"), "it names no place to get a token from"));
        }
        let client = self.client(realm)?;
        let call = if let Some(Login::Identity(identity)) = login {
            let mut form = format!("grant_type=refresh_token&client_id=plenum&scope={}", url::escaped(scope));
            for (name, value) in service
                .map(|service| ("service", service))
                .into_iter()
                .chain([("refresh_token", identity.as_str())])
            {
                form.push_str(&format!("&{name}={}", url::escaped(value)));
            }
            let call = client.call(Method::POST, realm).body(full(form));
            call.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        } else {
            let mut target = realm.to_owned();
            if let Some(service) = service {
                target = url::with_query(&target, "service", service);
            }
            let call = client.get(&url::with_query(&target, "scope", scope));
            match login {
                Some(Login::Basic { user, password }) => call
                    .credentials(&Credentials::Basic { principal: user.clone(), secret: password.clone() }),
                _ => call,
            }
        };
        let reply = call.deadline(self.settings.stall).header(USER_AGENT, "plenum").send().await;
        let reply = reply.map_err(Failure::from_client)?;
        if matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && login.is_none() {
            return Err(wants_credentials(registry));
        }
        let bytes = accepted(reply)?.bytes_up_to(TOKEN_MAX).await.map_err(Failure::from_client)?;
        let broken = || useless(&format!("https://{registry}"), "its token service gives no token");
        let reply: TokenReply = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let value =
            reply.token.or(reply.access_token).filter(|token| !token.is_empty()).ok_or_else(broken)?;
        // A minute when nothing is said, as the specification has it; a little less, since it travels.
        let seconds = reply.expires_in.unwrap_or(60).clamp(10, 3600) - 5;
        Ok(Token { value: Credentials::Bearer(value), until: Instant::now() + Duration::from_secs(seconds) })
    }
}

fn wants_credentials(host: &str) -> Failure {
    Failure::Denied(format!(
        "it wants credentials; give pull credentials for {host}, or check the image's name"
    ))
}

fn useless(at: &str, reason: &str) -> Failure {
    let registry = url::host_of(at).unwrap_or_else(|| "the registry".to_owned());
    Failure::Useless(ImageError::Unreachable { registry, reason: reason.to_owned() })
}

/// Tells logins apart without keeping them.
fn fingerprint(login: &Login) -> String {
    let text = match login {
        Login::Basic { user, password } => format!("b\n{user}\n{password}"),
        Login::Identity(token) => format!("i\n{token}"),
        Login::Bearer(token) => format!("t\n{token}"),
    };
    Digest::of(text.as_bytes()).to_string()
}

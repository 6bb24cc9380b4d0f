//! Every request's way through the front door: who is calling, what is asked, whether they may, and then the page or the relay.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, AUTHORIZATION, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use plenum_base::auth::{AuthError, Authenticator, Principal};
use plenum_base::serve::ConnInfo;

use crate::answers::{Failure, unauthorized};
use crate::headers::{self, Origin};
use crate::pages::Pages;
use crate::proxy::{Asked, Proxy};
use crate::route::{Access, Decision, Routed, route};

/// What every request needs.
#[derive(Debug)]
pub struct Door {
    /// Knows callers.
    pub authenticator: Arc<Authenticator>,
    /// Relays.
    pub proxy: Proxy,
    /// What is served from here.
    pub pages: Pages,
    /// Where plain HTTP is sent on to: the TLS port, if that is wanted.
    pub tls_port: Option<u16>,
    /// Whether callers without credentials are let in.
    pub open: bool,
}

/// The router: one handler for everything.
pub fn router(door: Arc<Door>) -> Router {
    Router::new().fallback(enter).with_state(door)
}

/// Who is calling, and the Authorization header that proves it to the next one.
struct Caller {
    principal: Option<Principal>,
    authorization: Option<HeaderValue>,
}

async fn enter(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let origin = match origin(&parts) {
        Ok(origin) => origin,
        Err(failure) => return failure.answer(&parts.headers),
    };
    if let Some(response) = door.to_tls(&parts, &origin) {
        return response;
    }
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let mut routed = door.decide(&method, &path);
    let caller = match door.identify(&parts.headers, &origin, &routed.access).await {
        Ok(caller) => caller,
        Err(error) => return refuse(error, &parts),
    };
    // Frameworks are asked for when a name is not known otherwise.
    if matches!(routed.decision, Decision::NoService(_)) && door.proxy.directory.refresh_frameworks().await {
        routed = door.decide(&method, &path);
    }
    if let Some(failure) = door.forbid(&caller, &routed.access) {
        return failure.answer(&parts.headers);
    }
    let access = routed.access;
    let relay = match routed.decision {
        Decision::Relay(relay) => relay,
        other => return door.serve(other, &parts).await,
    };
    let asking = parts.headers.clone();
    parts.extensions.remove::<ConnInfo>();
    let asked = Asked { parts, body, origin, authorization: caller.authorization };
    // What was allowed is this, and nothing that appeared meanwhile under a longer name.
    let again = || match door.decide(&method, &path) {
        Routed { access: now, decision: Decision::Relay(relay) } if now == access => Some(relay),
        _ => None,
    };
    match door.proxy.relay(asked, relay, again).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(%path, status = %failure.status, "{}", failure.message);
            failure.answer(&asking)
        }
    }
}

/// Where a request came from. One with two Host headers could be read in two ways.
fn origin(parts: &http::request::Parts) -> Result<Origin, Failure> {
    let conn = parts.extensions.get::<ConnInfo>();
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        let message = "the request has two Host headers; send one";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message));
    }
    let named = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let remote: Option<IpAddr> = conn.and_then(|conn| conn.remote).map(|remote| remote.ip().to_canonical());
    Ok(Origin { remote, tls: conn.is_some_and(|conn| conn.tls), host: host.cloned().or(named) })
}

fn refuse(error: AuthError, parts: &http::request::Parts) -> Response {
    match error {
        AuthError::Busy => {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", error.to_string()).answer(&parts.headers)
        }
        AuthError::Missing | AuthError::Invalid => {
            let back = if parts.method == Method::GET { parts.uri.path() } else { "/" };
            unauthorized(back, &error.to_string())
        }
    }
}

impl Door {
    fn decide(&self, method: &Method, path: &str) -> Routed {
        self.proxy.directory.read(|table| route(method, path, table))
    }

    /// Plain HTTP is answered with the TLS address where that is configured.
    fn to_tls(&self, parts: &http::request::Parts, origin: &Origin) -> Option<Response> {
        let port = self.tls_port.filter(|_| !origin.tls)?;
        let authority: http::uri::Authority = origin.host.as_ref()?.to_str().ok()?.parse().ok()?;
        let at = if port == 443 { String::new() } else { format!(":{port}") };
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Some(moved(&format!("https://{}{at}{path}", authority.host()), &parts.method))
    }

    /// Who is calling. Where anyone may enter nobody is asked, and what a client shows there (an old token beside a login) is left out.
    async fn identify(
        &self,
        headers: &HeaderMap,
        origin: &Origin,
        access: &Access,
    ) -> Result<Caller, AuthError> {
        if *access == Access::Anyone {
            return Ok(Caller { principal: None, authorization: None });
        }
        let shown = headers.get(AUTHORIZATION);
        if shown.is_some() {
            let principal = self.authenticator.identify(None, headers).await?;
            return Ok(Caller { principal: Some(principal), authorization: shown.cloned() });
        }
        let cookie = headers::cookie_token(headers)
            .filter(|_| !headers::is_cross_site(headers, origin.host.as_ref()))
            .and_then(|token| HeaderValue::try_from(format!("token={token}")).ok());
        if let Some(mut value) = cookie {
            value.set_sensitive(true);
            let mut carried = HeaderMap::new();
            carried.insert(AUTHORIZATION, value.clone());
            match self.authenticator.identify(None, &carried).await {
                Ok(principal) => {
                    return Ok(Caller { principal: Some(principal), authorization: Some(value) });
                }
                // A browser keeps old cookies; in an open cluster they hinder nobody.
                Err(error) if !self.open => return Err(error),
                Err(_) => {}
            }
        }
        let principal = self.authenticator.identify(None, &HeaderMap::new()).await?;
        Ok(Caller { principal: Some(principal), authorization: None })
    }

    /// Everything that is not a relay.
    async fn serve(&self, decision: Decision, parts: &http::request::Parts) -> Response {
        let fail = |status, code, message: String| Failure::new(status, code, message).answer(&parts.headers);
        let path = parts.uri.path();
        match decision {
            Decision::Page(page) => {
                self.pages.serve(page, &self.authenticator, &self.proxy, &parts.headers).await
            }
            Decision::Moved(to) => {
                let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                moved(&format!("{to}{query}"), &parts.method)
            }
            Decision::Bad(error) => fail(StatusCode::BAD_REQUEST, "BAD_PATH", error.to_string()),
            Decision::ReadOnly => {
                let message = "this address is only read; use GET or HEAD".to_owned();
                let mut response = fail(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            Decision::NoSuchMethod => {
                let message = format!("the gateway does not take {}", parts.method);
                fail(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
            }
            Decision::NoService(name) => {
                let message = format!(
                    "404 Not Found: service not found. No installed service or framework is called \"{name}\"; `plenum app list` shows what runs"
                );
                fail(StatusCode::NOT_FOUND, "NO_SERVICE", message)
            }
            Decision::Nothing | Decision::Relay(_) => {
                fail(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is nothing at {path}"))
            }
        }
    }

    fn forbid(&self, caller: &Caller, access: &Access) -> Option<Failure> {
        let Access::Permission(resource) = access else { return None };
        let allowed =
            caller.principal.as_ref().is_some_and(|who| self.authenticator.allows(who, resource, "full"));
        if allowed {
            return None;
        }
        let message =
            format!("your account lacks the permission {resource} (full); ask an administrator for it");
        Some(Failure::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
    }
}

fn moved(to: &str, method: &Method) -> Response {
    // 301 lets clients turn a POST into a GET.
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let status = if reads { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    match HeaderValue::try_from(to) {
        Ok(value) => (status, [(LOCATION, value)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

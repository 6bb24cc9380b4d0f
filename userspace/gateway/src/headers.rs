//! Headers between two connections: what belongs to one of them only is taken out, what says where a request came from is put in, and
//! redirects are translated back. Pure.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, LOCATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

/// The cookie that carries a token.
pub const AUTH_COOKIE: &str = "dcos-acs-auth-cookie";
/// The cookie that tells pages who is logged in.
pub const INFO_COOKIE: &str = "dcos-acs-info-cookie";

const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Belongs to one connection only, whatever the Connection header says. The length is not copied either: hyper writes it anew for each body.
const HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what belongs to one connection, including what its Connection header names.
pub fn strip_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The caller's address.
    pub remote: Option<IpAddr>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The authority it was sent to.
    pub host: Option<HeaderValue>,
}

/// Turns the headers of a request into those of its relay. Credentials are set afterwards by the caller: nothing that a client names in its
/// Connection header can take them out again.
pub fn to_upstream(headers: &mut HeaderMap, origin: &Origin) {
    strip_hops(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    headers.remove(http::header::AUTHORIZATION);
    strip_cookies(headers);
    if let Some(host) = &origin.host {
        headers.insert(HOST, host.clone());
    }
    headers.remove(&REAL_IP);
    if let Some(value) = origin.remote.and_then(|ip| HeaderValue::try_from(ip.to_string()).ok()) {
        let known: Vec<&[u8]> = headers.get_all(&FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        let mut all = known.join(&b", "[..]);
        if !all.is_empty() {
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(value.as_bytes());
        headers.insert(REAL_IP, value.clone());
        headers.insert(FORWARDED_FOR, HeaderValue::from_bytes(&all).unwrap_or(value));
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if origin.tls { "https" } else { "http" }));
}

/// The pairs of all Cookie headers.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

fn cookie_name(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

fn is_ours(pair: &[u8]) -> bool {
    let name = cookie_name(pair);
    name == AUTH_COOKIE.as_bytes() || name == INFO_COOKIE.as_bytes()
}

/// The token in the cookie, where there is one.
#[must_use]
pub fn cookie_token(headers: &HeaderMap) -> Option<String> {
    let pair = cookies(headers).find(|pair| cookie_name(pair) == AUTH_COOKIE.as_bytes())?;
    let value = pair.split_once_byte(b'=')?.trim_ascii();
    let text = std::str::from_utf8(value).ok()?.trim_matches('"');
    (!text.is_empty()).then(|| text.to_owned())
}

trait SplitOnce {
    fn split_once_byte(&self, at: u8) -> Option<&[u8]>;
}

impl SplitOnce for [u8] {
    /// What follows the first `at`.
    fn split_once_byte(&self, at: u8) -> Option<&[u8]> {
        let position = self.iter().position(|byte| *byte == at)?;
        self.get(position + 1..)
    }
}

/// Takes the cluster's own cookies out and leaves the others.
fn strip_cookies(headers: &mut HeaderMap) {
    if !cookies(headers).any(is_ours) {
        return;
    }
    let rest: Vec<&[u8]> = cookies(headers).filter(|pair| !is_ours(pair)).collect();
    let rest = HeaderValue::from_bytes(&rest.join(&b"; "[..])).ok().filter(|value| !value.is_empty());
    headers.remove(COOKIE);
    if let Some(value) = rest {
        headers.insert(COOKIE, value);
    }
}

/// Whether a browser says that a page of another site made this request: then cookies prove nothing.
#[must_use]
pub fn is_cross_site(headers: &HeaderMap, host: Option<&HeaderValue>) -> bool {
    let Some(origin) = headers.get(http::header::ORIGIN) else { return false };
    let authority =
        origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, authority)| authority);
    match (authority, host.and_then(|host| host.to_str().ok())) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// Whether the request asks to speak WebSocket from here on.
#[must_use]
pub fn wants_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name);
        let mut words =
            values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        words.any(|text| text.trim().eq_ignore_ascii_case(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// Whether the body is a stream of records, which ends when its sender wants it to.
#[must_use]
pub fn is_record_stream(headers: &HeaderMap) -> bool {
    let named = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let name = named.and_then(|text| text.split(';').next()).unwrap_or_default();
    name.trim().eq_ignore_ascii_case("application/recordio")
}

/// How a target's addresses are called here.
#[derive(Debug, Clone)]
pub struct Naming<'a> {
    /// The target's authority.
    pub authority: &'a str,
    /// The authority under which the client knows us.
    pub host: Option<&'a str>,
    /// The prefix here.
    pub public: &'a str,
    /// The prefix there.
    pub private: &'a str,
    /// Whether the target may set the cluster's own cookies: identity alone.
    pub may_log_in: bool,
}

/// Turns the headers of a target's reply into those of ours.
pub fn to_client(headers: &mut HeaderMap, naming: &Naming<'_>) {
    strip_hops(headers);
    let moved =
        headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| location(text, naming));
    if let Some(value) = moved.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(LOCATION, value);
    }
    if naming.may_log_in {
        return;
    }
    // A page of an installed service must not be able to log its visitors in as somebody else.
    if headers.get_all(SET_COOKIE).iter().any(|value| is_ours(value.as_bytes())) {
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|value| !is_ours(value.as_bytes())).cloned().collect();
        headers.remove(SET_COOKIE);
        for value in kept {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// A redirect to the target itself, translated into a path here; `None` to leave it as it is.
fn location(text: &str, naming: &Naming<'_>) -> Option<String> {
    let own = |authority: &str| {
        authority.eq_ignore_ascii_case(naming.authority)
            || naming.host.is_some_and(|host| authority.eq_ignore_ascii_case(host))
    };
    let without_scheme = text.strip_prefix("http:").or_else(|| text.strip_prefix("https:")).unwrap_or(text);
    let path = match without_scheme.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !own(authority) {
                return None;
            }
            path
        }
        None if text.starts_with('/') => text,
        None => return None,
    };
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    };
    if below(path, naming.public) && naming.public != naming.private {
        return Some(path.to_owned());
    }
    // Outside the prefix there, it has no name here.
    let rest = path.strip_prefix(naming.private).filter(|_| below(path, naming.private))?;
    let slash = if rest.starts_with('/') || naming.private.len() > 1 { "" } else { "/" };
    Some(format!("{}{slash}{rest}", naming.public))
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;

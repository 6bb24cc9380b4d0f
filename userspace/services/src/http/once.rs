//! The header `Idempotency-Key` of a request, and in whose name it is made.

use http::request::Parts;
use http::{HeaderName, Method};
use plenum_base::auth::Principal;
use plenum_base::places::Role;
use sha2::{Digest, Sha256};

use crate::core::error::ApiError;
use crate::core::once::Once;

/// The header.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Whom the catalog speaks for. From anybody else it is passed over.
const FOR: HeaderName = HeaderName::from_static("x-plenum-principal");
/// The longest key.
const MOST: usize = 255;

/// The key of a request that changes something; none where it has no key.
///
/// # Errors
/// [`ApiError::BadRequest`] for a key that is none, or several.
pub(super) fn of(head: &Parts, body: &[u8]) -> Result<Option<Once>, ApiError> {
    if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(None);
    }
    let mut keys = head.headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let good = |key: &[u8]| (1..=MOST).contains(&key.len()) && key.iter().all(|c| (0x20..0x7f).contains(c));
    if keys.next().is_some() || !good(key.as_bytes()) {
        let message = format!("Give one Idempotency-Key of 1 to {MOST} printable ASCII characters.");
        return Err(ApiError::BadRequest(message));
    }
    let principal = principal(head);
    let name = digest([principal.as_bytes(), key.as_bytes()]);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let digest = digest([head.method.as_str().as_bytes(), target.as_bytes(), body]);
    Ok(Some(Once { name, digest, principal }))
}

/// Who makes the request.
fn principal(head: &Parts) -> String {
    let Some(principal) = head.extensions.get::<Principal>() else { return "anonymous".to_owned() };
    let named = head.headers.get(FOR).and_then(|name| name.to_str().ok()).filter(|name| !name.is_empty());
    match named {
        Some(name) if principal.is_role(Role::Catalog.as_str()) => name.to_owned(),
        _ => principal.uid.clone(),
    }
}

/// The digest of parts whose borders count.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use plenum_base::auth::Kind;
    use plenum_base::pki::PeerName;

    use super::*;

    fn once(
        method: &str,
        uri: &str,
        keys: &[&str],
        who: Option<Principal>,
        body: &str,
    ) -> Result<Option<Once>, ApiError> {
        let mut request = Request::builder().method(method).uri(uri).header(FOR, "bob");
        for key in keys {
            request = request.header(KEY, *key);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        if let Some(who) = who {
            head.extensions.insert(who);
        }
        of(&head, body.as_bytes())
    }

    #[test]
    fn a_key_is_the_callers_own_and_stands_for_one_request() {
        let ann = || Some(Principal::new("ann", Kind::User));
        let first = once("POST", "/v2/apps", &["k 1"], ann(), "{}").unwrap().unwrap();
        assert_eq!((first.name.len(), first.principal.as_str()), (64, "ann"), "nobody speaks for others");
        let same = |other: &Once| (other.name == first.name, other.digest == first.digest);
        for (method, uri, key, who, body, want) in [
            ("POST", "/v2/apps", "k 1", ann(), "{}", (true, true)),
            ("PUT", "/v2/apps", "k 1", ann(), "{}", (true, false)),
            ("POST", "/v2/apps?force=true", "k 1", ann(), "{}", (true, false)),
            ("POST", "/v2/apps", "k 1", ann(), "{ }", (true, false)),
            ("POST", "/v2/apps", "k 2", ann(), "{}", (false, true)),
            ("POST", "/v2/apps", "k 1", None, "{}", (false, true)),
        ] {
            let other = once(method, uri, &[key], who, body).unwrap().unwrap();
            assert_eq!(same(&other), want, "{method} {uri} {key} {body}");
        }
        assert_eq!(once("GET", "/v2/apps", &["k"], ann(), ""), Ok(None));
        assert_eq!(once("POST", "/v2/apps", &[], ann(), ""), Ok(None));
        let long = "x".repeat(256);
        for bad in [&["a", "b"][..], &[""], &["\u{e9}"], &[&long]] {
            assert!(matches!(once("POST", "/", bad, ann(), ""), Err(ApiError::BadRequest(_))), "{bad:?}");
        }
        assert!(once("POST", "/", &[&long[1..]], ann(), "").unwrap().is_some());
    }

    #[test]
    fn the_catalog_speaks_for_its_callers() {
        let component =
            |role: &str| Some(Principal::of_component(PeerName::new("default", role, role).unwrap()));
        assert_eq!(once("POST", "/", &["k"], component("catalog"), "").unwrap().unwrap().principal, "bob");
        assert_ne!(once("POST", "/", &["k"], component("gateway"), "").unwrap().unwrap().principal, "bob");
    }
}

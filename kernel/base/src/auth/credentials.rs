//! Secrets and headers: argon2id hashes, comparisons that take the same time, and what an Authorization header can be.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The longest Authorization header that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

/// How much work a hash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashCost {
    /// 19 MiB, two passes: for what people choose.
    Full,
    /// 64 KiB, one pass: for tests and for random secrets of 128 bits and more.
    Light,
}

/// Hashes a secret with argon2id into a PHC string. Takes tens of milliseconds at full cost: call it off the async threads.
///
/// # Errors
/// The text of argon2's error; only for secrets of absurd length or without randomness.
pub fn hash_secret(secret: &[u8], cost: HashCost) -> Result<String, String> {
    let (memory, passes) = match cost {
        HashCost::Full => (19_456, 2),
        HashCost::Light => (64, 1),
    };
    let params = Params::new(memory, passes, 1, None).map_err(|e| e.to_string())?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon
        .hash_password(secret)
        .map(|hash: argon2::password_hash::phc::PasswordHash| hash.to_string())
        .map_err(|e| e.to_string())
}

/// Whether `secret` has the given PHC hash. A hash that does not parse is a no.
#[must_use]
pub fn verify_secret(secret: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
}

/// Compares in a time that depends on the lengths only.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// What an Authorization header carries.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Presented {
    /// No header.
    Nothing,
    /// A token.
    Token(String),
    /// A principal and its secret.
    Basic(String, String),
    /// Something else.
    Unknown,
}

impl Presented {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (value, more) = (values.next(), values.next());
        let Some(value) = value else { return Self::Nothing };
        // Two headers could be read differently by two readers.
        let (Ok(text), None) = (value.to_str(), more) else { return Self::Unknown };
        if text.len() > LONGEST {
            return Self::Unknown;
        }
        if let Some(token) = text.strip_prefix("token=") {
            return Self::Token(token.trim().to_owned());
        }
        match text.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => {
                Self::Token(rest.trim().to_owned())
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => basic(rest.trim()),
            _ => Self::Unknown,
        }
    }
}

fn basic(text: &str) -> Presented {
    let pair = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((principal, secret)) => Presented::Basic(principal.to_owned(), secret.to_owned()),
        None => Presented::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn hashes_verify_and_nothing_else_does() {
        let hash = hash_secret(b"secret", HashCost::Light).unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(verify_secret(b"secret", &hash));
        assert!(!verify_secret(b"Secret", &hash));
        for hostile in
            ["", "$", "$argon2id$", "plain", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAA$AAAA"]
        {
            assert!(!verify_secret(b"secret", hostile), "{hostile}");
        }
        assert!(same_bytes(b"a", b"a") && !same_bytes(b"a", b"b") && !same_bytes(b"a", b"ab"));
    }

    #[test]
    fn headers_are_read_in_every_form() {
        let pair = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let (with_colon, without) = (pair("p:s:t"), pair("nocolon"));
        let long = format!("token={}", "x".repeat(LONGEST));
        let token = |text: &str| Presented::Token(text.to_owned());
        let cases = [
            ("token=abc", token("abc")),
            ("Bearer abc", token("abc")),
            ("bearer  abc", token("abc")),
            (&with_colon, Presented::Basic("p".into(), "s:t".into())),
            (&without, Presented::Unknown),
            ("Basic !!!", Presented::Unknown),
            ("Digest x", Presented::Unknown),
            ("abc", Presented::Unknown),
            ("", Presented::Unknown),
            (&long, Presented::Unknown),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            assert!(Presented::read(&headers) == expected, "{text:.20}");
            headers.append(AUTHORIZATION, HeaderValue::from_static("token=other"));
            assert!(Presented::read(&headers) == Presented::Unknown, "two headers");
        }
        assert!(Presented::read(&HeaderMap::new()) == Presented::Nothing);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(b"token=\xff").unwrap());
        assert!(Presented::read(&headers) == Presented::Unknown);
    }
}

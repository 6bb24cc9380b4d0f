//! Tokens: signed RS256 with the cluster's key, as DC/OS clients expect, and the tokens that services sign with their own keys to log in.

use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use plenum_base::clock::wall_millis;
use plenum_base::pki::hex;
use serde::{Deserialize, Serialize};

/// What a token says: who, and until when (seconds since the epoch).
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    uid: String,
    exp: u64,
}

/// Signs tokens.
pub(crate) struct TokenSigner {
    kid: String,
    key: EncodingKey,
    jwk: Jwk,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSigner").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl TokenSigner {
    /// A new RSA key of 2048 bits, PKCS #8 PEM.
    pub(crate) fn generate() -> Result<String, String> {
        let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        pair.map(|pair| pair.serialize_pem()).map_err(|e| e.to_string())
    }

    /// A signer from a PEM key. The key id is the hash of the public key.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|e| e.to_string())?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).map_err(|e| e.to_string())?;
        let public = serde_json::to_vec(&jwk.algorithm).map_err(|e| e.to_string())?;
        let kid = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &public).as_ref());
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { kid, key, jwk })
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// The public keys that components check tokens with.
    pub(crate) fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.jwk.clone()] }
    }

    /// A token for `uid` that lasts for `life`.
    pub(crate) fn issue(&self, uid: &str, life: Duration) -> Result<String, String> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.kid.clone());
        let exp = (wall_millis() / 1000).saturating_add(life.as_secs());
        jsonwebtoken::encode(&header, &Claims { uid: uid.to_owned(), exp }, &self.key)
            .map_err(|e| e.to_string())
    }
}

/// Whether `pem` is an RSA public key that login tokens can be checked with.
pub(crate) fn is_public_key(pem: &str) -> bool {
    pem.len() <= 16 * 1024 && pem.contains("PUBLIC KEY") && DecodingKey::from_rsa_pem(pem.as_bytes()).is_ok()
}

/// The uid a login token speaks for, unchecked: it only says whose key to check with.
pub(crate) fn claimed_uid(token: &str) -> Option<String> {
    jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token).ok().map(|claims| claims.uid)
}

/// Whether a service's login token is signed by its key, names it and is not over. A minute of difference between clocks is fine.
pub(crate) fn is_login_token(token: &str, uid: &str, public_key: &str) -> bool {
    let Ok(key) = DecodingKey::from_rsa_pem(public_key.as_bytes()) else { return false };
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = 60;
    validation.validate_aud = false;
    validation.set_required_spec_claims(&["exp"]);
    jsonwebtoken::decode::<Claims>(token, &key, &validation).is_ok_and(|token| token.claims.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_have_stable_names_and_sign_what_they_publish() {
        let pem = TokenSigner::generate().unwrap();
        let (one, two) = (TokenSigner::from_pem(&pem).unwrap(), TokenSigner::from_pem(&pem).unwrap());
        assert_eq!(one.kid(), two.kid());
        let token = one.issue("ann", Duration::from_secs(60)).unwrap();
        let jwks = two.jwks();
        let key = DecodingKey::from_jwk(jwks.find(one.kid()).unwrap()).unwrap();
        let claims =
            jsonwebtoken::decode::<Claims>(&token, &key, &Validation::new(Algorithm::RS256)).unwrap().claims;
        assert_eq!(claims.uid, "ann");
        let head = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!((head.alg, head.typ.as_deref()), (Algorithm::RS256, Some("JWT")));
        assert!(!format!("{one:?}").contains("PRIVATE"));
    }

    #[test]
    fn login_tokens_must_be_signed_named_and_timely() {
        let pair = rcgen::KeyPair::from_pem(&TokenSigner::generate().unwrap()).unwrap();
        let public = pair.public_key_pem();
        assert!(is_public_key(&public));
        let other = rcgen::KeyPair::generate().unwrap();
        for hostile in [
            "",
            "x",
            &pair.serialize_pem(),
            &other.public_key_pem(),
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(!is_public_key(hostile), "{hostile}");
        }
        let sign = |claims: serde_json::Value| {
            let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
            jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap()
        };
        let now = wall_millis() / 1000;
        let good = sign(json!({"uid": "svc", "exp": now + 300}));
        assert_eq!(claimed_uid(&good).as_deref(), Some("svc"));
        assert!(is_login_token(&good, "svc", &public));
        assert!(!is_login_token(&good, "other", &public));
        assert!(!is_login_token(&good, "svc", &other.public_key_pem()));
        assert!(!is_login_token(&sign(json!({"uid": "svc", "exp": now - 300})), "svc", &public));
        assert!(!is_login_token(&sign(json!({"uid": "svc"})), "svc", &public));
        assert!(!is_login_token("a.b.c", "svc", &public));
    }
}

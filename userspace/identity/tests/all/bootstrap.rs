//! The first start, its repetition, and what is on disk afterwards.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use plenum_base::auth::Authenticator;
use plenum_base::places::Role;
use plenum_base::tls::Identity;
use plenum_identity::{BootstrapError, bootstrap, reset_admin};
use plenum_store::StoreError;
use serde_json::json;

use crate::fixture::{Site, config};

fn is_uuid4(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12]
        && text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && parts[2].starts_with('4')
        && parts[3].starts_with(['8', '9', 'a', 'b'])
}

#[tokio::test]
async fn repeating_changes_nothing_and_repairs_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let places = config.places();
    let first = bootstrap(&config).await.unwrap();
    assert!(is_uuid4(&first.cluster_id), "{}", first.cluster_id);
    let admin = first.admin.unwrap();
    assert!(admin.password.len() >= 24 && !format!("{admin:?}").contains(&admin.password));
    let load = |role: &Role| Identity::load(&places.identity(*role)).unwrap();
    let identities: Vec<_> = Role::ALL.iter().map(load).collect();
    assert_eq!(identities[2].peer().name.to_string(), "plenum://test/agent/agent");
    let number = Authenticator::open(&places.policy(), &places.ca(), false).policy_number();
    assert!(number > 0);

    std::fs::remove_file(&places.identity(Role::Agent).cert).unwrap();
    std::fs::write(places.identity(Role::Master).key, "broken").unwrap();
    std::fs::remove_file(places.policy()).unwrap();
    let second = bootstrap(&config).await.unwrap();
    assert!(second.admin.is_none(), "the password is given back once");
    assert_eq!((second.cluster_id, second.ca_fingerprint), (first.cluster_id, first.ca_fingerprint));
    for (role, before) in Role::ALL.iter().zip(&identities) {
        let after = load(role);
        let same_key = after.peer().key_fingerprint == before.peer().key_fingerprint;
        assert_eq!(same_key, *role != Role::Master, "{role}: a key is kept where it can be read");
        assert_eq!(after.chain() == before.chain(), !matches!(role, Role::Agent | Role::Master), "{role}");
    }
    assert_eq!(Authenticator::open(&places.policy(), &places.ca(), false).policy_number(), number);
}

#[tokio::test]
async fn nothing_secret_is_on_disk_in_clear() {
    let mut site = Site::start().await;
    let secrets = json!({"secret": "the-framework-secret"});
    assert_eq!(site.admin(Method::PUT, "/users/fw", Some(secrets)).await.0, 201);
    let (_, made) = site.admin(Method::POST, "/join-tokens", None).await;
    let join = made["token"].as_str().unwrap().split('.').nth(2).unwrap().to_owned();
    site.stop().await;
    let places = site.places();
    for (path, bytes) in site.everything_on_disk() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || path == places.ca(), "{} has mode {mode:o}", path.display());
        let text = String::from_utf8_lossy(&bytes);
        for secret in [site.admin.password.as_str(), "the-framework-secret", &join, &site.token] {
            assert!(!text.contains(secret), "{} holds a secret", path.display());
        }
        let is_key = path.ends_with("key.pem");
        assert_eq!(text.contains("PRIVATE KEY"), is_key, "{}", path.display());
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // Others may pass through the state folder (to a task's sandbox), not look into it.
    assert_eq!(mode(&places.state) & 0o066, 0);
    for folder in [places.pki(), places.data(Role::Identity), places.state.join("policy")] {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
    }
}

#[tokio::test]
async fn a_lost_master_key_is_an_error_and_not_a_new_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    bootstrap(&config).await.unwrap();
    let key = config.places().data(Role::Identity).join("master.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert!(bootstrap(&config).await.unwrap_err().to_string().contains("master.key"));
    std::fs::write(&key, [7; 32]).unwrap();
    assert!(bootstrap(&config).await.unwrap_err().to_string().contains("cannot be decrypted"));
    std::fs::write(&key, good).unwrap();
    bootstrap(&config).await.unwrap();
}

#[tokio::test]
async fn while_it_runs_the_store_is_its_own_and_a_lost_password_can_be_replaced_after() {
    let mut site = Site::start().await;
    let busy = bootstrap(&site.config).await;
    assert!(matches!(busy, Err(BootstrapError::Store(StoreError::InUse { .. }))), "{busy:?}");
    site.stop().await;
    let new = reset_admin(&site.config, "admin").await.unwrap();
    assert!(reset_admin(&site.config, "nobody").await.is_err());
    site.resume().await;
    let login = |password: &str| json!({"uid": "admin", "password": password});
    assert_eq!(site.login(login(&site.admin.password)).await.0, 401);
    assert_eq!(site.login(login(&new.password)).await.0, 200);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let mut site = Site::start().await;
    let (_, before) = site.send(Method::GET, "/internal/v1/cluster", None, None).await;
    assert_eq!(site.admin(Method::PUT, "/users/ann", Some(json!({"password": "ann-pass"}))).await.0, 201);
    // As if it had been killed between the store's commit and the publication.
    site.stop().await;
    std::fs::remove_file(site.places().policy()).unwrap();
    site.resume().await;
    let (_, after) = site.send(Method::GET, "/internal/v1/cluster", None, None).await;
    assert_eq!(before, after);
    assert_eq!(site.login(json!({"uid": "ann", "password": "ann-pass"})).await.0, 200);
    let (status, list) = site.admin(Method::GET, "/users", None).await;
    assert_eq!(status, 200, "a token from before is still good");
    assert_eq!(list["array"].as_array().unwrap().len(), 2);
}

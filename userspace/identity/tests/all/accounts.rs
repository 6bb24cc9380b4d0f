//! Accounts: shapes and codes of DC/OS, permissions, and how fast components learn of changes.

use std::time::Duration;

use base64::Engine;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use plenum_base::auth::{Authenticator, Kind, Principal};
use plenum_base::client::Client;
use plenum_base::places::Role;
use plenum_base::tls::{Expect, Identity};
use serde_json::{Value, json};

use crate::fixture::Site;

#[tokio::test]
async fn an_account_lives_through_its_life() {
    let site = Site::start().await;
    let body = Some(json!({"description": "Ann", "password": "ann-pass"}));
    assert_eq!(site.admin(Method::PUT, "/users/ann", body.clone()).await.0, 201);
    let (status, reply) = site.admin(Method::PUT, "/users/ann", body).await;
    assert_eq!((status.as_u16(), reply["code"].as_str()), (409, Some("ERR_USER_EXISTS")));
    let (_, shown) = site.admin(Method::GET, "/users/ann", None).await;
    let expected = json!({
        "uid": "ann", "url": "/acs/api/v1/users/ann", "description": "Ann", "is_service": false, "is_remote": false,
        "provider_type": "internal", "provider_id": "",
    });
    assert_eq!(shown, expected);
    let patch = Some(json!({"description": "Ann B", "password": "other-pass"}));
    assert_eq!(site.admin(Method::PATCH, "/users/ann", patch).await.0, 204);
    assert_eq!(site.login(json!({"uid": "ann", "password": "ann-pass"})).await.0, 401);
    let (_, login) = site.login(json!({"uid": "ann", "password": "other-pass"})).await;
    assert_eq!(login["first_name"], "Ann B");
    let ann = login["token"].as_str().unwrap();
    assert_eq!(site.send(Method::GET, "/acs/api/v1/users/ann", Some(ann), None).await.0, 200);

    assert_eq!(site.admin(Method::DELETE, "/users/ann", None).await.0, 204);
    let (status, reply) = site.admin(Method::DELETE, "/users/ann", None).await;
    assert_eq!((status.as_u16(), reply["code"].as_str()), (404, Some("ERR_UNKNOWN_USER_ID")));
    assert_eq!(site.admin(Method::GET, "/users/ann", None).await.0, 404);
    let gone = async {
        while site.send(Method::GET, "/acs/api/v1/users", Some(ann), None).await.0 != 401 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the token ends with the account");
    let actions: Vec<Value> =
        site.audit().iter().filter(|l| l["target"] == "ann").map(|l| l["action"].clone()).collect();
    assert!(
        ["user.create", "user.update", "user.delete"].iter().all(|a| actions.contains(&json!(a))),
        "{actions:?}"
    );
    assert!(site.audit().iter().all(|line| line["principal"].is_string() && line["time"].is_string()));
}

#[tokio::test]
async fn old_clients_and_services_have_their_shapes() {
    let site = Site::start().await;
    let call = site.client.put(&format!("{}/acs/api/v1/users/a@b.example", site.url("http")));
    let token = plenum_base::client::Credentials::Token(site.token.clone());
    assert_eq!(call.credentials(&token).send().await.unwrap().status, 201, "an empty body");
    let legacy = json!({"creator_uid": "x@y", "cluster_url": "http://z"});
    assert_eq!(site.admin(Method::PUT, "/users/c@d.example", Some(legacy)).await.0, 201);
    let oidc = json!({"provider_type": "oidc", "provider_id": "https://login.example"});
    assert_eq!(site.admin(Method::PUT, "/users/e@f.example", Some(oidc)).await.0, 201);
    assert_eq!(site.admin(Method::PUT, "/users/fw", Some(json!({"secret": "fw-secret"}))).await.0, 201);
    let (_, people) = site.admin(Method::GET, "/users", None).await;
    let uids: Vec<&str> =
        people["array"].as_array().unwrap().iter().map(|u| u["uid"].as_str().unwrap()).collect();
    assert_eq!(uids, ["a@b.example", "admin", "c@d.example", "e@f.example"]);
    assert_eq!(
        (people["array"][0]["is_remote"].as_bool(), people["array"][0]["provider_type"].as_str()),
        (Some(true), Some("oidc"))
    );
    let (_, services) = site.admin(Method::GET, "/users?type=service", None).await;
    assert_eq!(
        (services["array"][0]["uid"].as_str(), services["array"].as_array().unwrap().len()),
        (Some("fw"), 1)
    );
}

#[tokio::test]
async fn bad_accounts_are_refused_with_their_codes() {
    let site = Site::start().await;
    let cases = [
        ("/users/-x", json!({"password": "long-enough"}), "ERR_INVALID_USER_ID"),
        ("/users/a%2Fb", json!({"password": "long-enough"}), "ERR_INVALID_USER_ID"),
        ("/users/%ff", json!({"password": "long-enough"}), "ERR_INVALID_DATA"),
        ("/users/x", json!({"password": "abc"}), "ERR_INVALID_DATA"),
        ("/users/x", json!({"password": "a".repeat(2000)}), "ERR_INVALID_DATA"),
        ("/users/x", json!({"password": 5}), "ERR_INVALID_DATA"),
        ("/users/x", json!([1]), "ERR_INVALID_DATA"),
        ("/users/x", json!({"public_key": "nonsense"}), "ERR_INVALID_PUBLIC_KEY"),
        ("/users/x", json!({"secret": "long-enough", "password": "long-enough"}), "ERR_INVALID_DATA"),
        ("/users/x", json!({"provider_type": "oidc"}), "ERR_INVALID_DATA"),
        ("/users/x", json!({"provider_type": "magic", "provider_id": "x"}), "ERR_INVALID_DATA"),
    ];
    for (path, body, code) in cases {
        let (status, reply) = site.admin(Method::PUT, path, Some(body.clone())).await;
        assert_eq!((status.as_u16(), reply["code"].as_str()), (400, Some(code)), "{path} {body}");
    }
    let (_, users) = site.admin(Method::GET, "/users", None).await;
    assert_eq!(users["array"].as_array().unwrap().len(), 1, "none of them was made");
    let (status, last) = site.admin(Method::DELETE, "/users/admin", None).await;
    assert_eq!((status.as_u16(), last["code"].as_str()), (400, Some("ERR_NO_MORE_SUPERUSERS")));
    let big = json!({"description": "x".repeat(2_000_000)});
    assert_eq!(site.admin(Method::PUT, "/users/x", Some(big)).await.0, 413);
    for (uid, patch) in [("admin", json!({"secret": "long-enough"})), ("admin", json!({"uid": "x"}))] {
        assert_eq!(site.admin(Method::PATCH, &format!("/users/{uid}"), Some(patch)).await.0, 400);
    }
}

#[tokio::test]
async fn frameworks_authenticate_with_what_was_published() {
    let site = Site::start().await;
    let places = site.places();
    let elsewhere = Authenticator::open(&places.policy(), &places.ca(), false);
    let header = |pair: &str| {
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    };
    assert!(elsewhere.identify(None, &header("fw:fw-secret")).await.is_err());
    assert_eq!(site.admin(Method::PUT, "/users/fw", Some(json!({"secret": "fw-secret"}))).await.0, 201);
    let found = elsewhere.identify(None, &header("fw:fw-secret")).await;
    // A wrong answer is remembered per policy number only, so the new account holds at once.
    assert_eq!(found.unwrap(), Principal::new("fw", Kind::Service));
    assert_eq!(site.admin(Method::PATCH, "/users/fw", Some(json!({"secret": "new-secret"}))).await.0, 204);
    assert!(elsewhere.identify(None, &header("fw:new-secret")).await.is_ok());
    assert!(elsewhere.identify(None, &header("fw:fw-secret")).await.is_err());
}

#[tokio::test]
async fn with_permissions_enforced_only_those_who_may_do() {
    let site = Site::start_with(|config| config.enforce_permissions = true).await;
    assert_eq!(site.admin(Method::PUT, "/users/ann", Some(json!({"password": "ann-pass"}))).await.0, 201);
    let (_, login) = site.login(json!({"uid": "ann", "password": "ann-pass"})).await;
    let ann = login["token"].as_str().unwrap();
    let try_list = async || site.send(Method::GET, "/acs/api/v1/users", Some(ann), None).await.0.as_u16();
    assert_eq!(try_list().await, 403);
    let grant = "/acls/dcos:adminrouter:acs/users/ann/full";
    assert_eq!(site.admin(Method::PUT, grant, None).await.0, 204);
    assert_eq!(site.admin(Method::PUT, grant, None).await.1["code"], "ERR_PERMISSION_EXISTS");
    let (_, held) = site.admin(Method::GET, "/users/ann/permissions", None).await;
    assert_eq!(held["direct"][0]["rid"], "dcos:adminrouter:acs");
    let becomes = async |wanted: u16| {
        let wait = async {
            while try_list().await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.is_ok()
    };
    assert!(becomes(200).await);
    assert_eq!(site.admin(Method::DELETE, grant, None).await.0, 204);
    assert!(becomes(403).await);
    let encoded = "/acls/dcos:secrets:default:%252Fa%252Fb/users/ann/read";
    assert_eq!(site.admin(Method::PUT, encoded, None).await.0, 204);
    let (_, held) = site.admin(Method::GET, "/users/ann/permissions", None).await;
    assert_eq!(held["direct"][0]["rid"], "dcos:secrets:default:/a/b");
    let own = "/acls/dcos:superuser/users/admin/full";
    assert_eq!(site.admin(Method::DELETE, own, None).await.1["code"], "ERR_NO_MORE_SUPERUSERS");
    assert_eq!(site.admin(Method::PUT, "/acls/x/users/ann/fly", None).await.1["code"], "ERR_INVALID_ACTION");
}

#[tokio::test]
async fn the_gateway_has_no_rights_of_its_own_here() {
    let site = Site::start().await;
    let places = site.places();
    for (role, without) in [(Role::Gateway, 401), (Role::Master, 403)] {
        let identity = Identity::load(&places.identity(role)).unwrap();
        let client = Client::with_identity(&identity, Expect::Role("identity".into())).unwrap();
        let url = format!("{}/acs/api/v1/users", site.url("https"));
        assert_eq!(client.get(&url).send().await.unwrap().status, without, "{role}");
    }
    let identity = Identity::load(&places.identity(Role::Gateway)).unwrap();
    let client = Client::with_identity(&identity, Expect::Role("identity".into())).unwrap();
    let relayed = client.get(&format!("{}/acs/api/v1/users", site.url("https")));
    let token = plenum_base::client::Credentials::Token(site.token.clone());
    assert_eq!(relayed.credentials(&token).send().await.unwrap().status, 200, "it relays its callers");
}

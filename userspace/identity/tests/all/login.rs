//! Logging in and out in every way, and what is refused.

use base64::Engine;
use http::{HeaderMap, Method};
use plenum_base::client::Credentials;
use serde_json::{Value, json};

use crate::fixture::Site;

fn cookies(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_password_gives_a_token_and_cookies() {
    let site = Site::start().await;
    let body = json!({"uid": "admin", "password": site.admin.password});
    let call = site.client.post(&format!("{}/acs/api/v1/auth/login", site.url("http"))).json(&body);
    let reply =
        call.header(http::HeaderName::from_static("x-forwarded-proto"), "https").send().await.unwrap();
    assert_eq!(reply.status, 200);
    let headers = reply.headers.clone();
    let body: Value = reply.json().await.unwrap();
    let token = body["token"].as_str().unwrap();
    assert_eq!(body["uid"], "admin");

    let cookies = cookies(&headers);
    assert!(cookies[0].starts_with(&format!("dcos-acs-auth-cookie={token};")));
    assert!(
        cookies[0].contains("HttpOnly") && cookies[0].contains("Secure") && cookies[0].contains("Path=/")
    );
    let info = cookies[1].strip_prefix("dcos-acs-info-cookie=").unwrap().split(';').next().unwrap();
    let info: Value =
        serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(info).unwrap()).unwrap();
    assert_eq!(info, json!({"uid": "admin", "description": "Administrator", "is_remote": false}));

    let part = |n: usize| -> Value {
        let text = token.split('.').nth(n).unwrap();
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap())
            .unwrap()
    };
    assert_eq!((part(0)["alg"].as_str(), part(0)["typ"].as_str()), (Some("RS256"), Some("JWT")));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let exp = part(1)["exp"].as_u64().unwrap();
    assert!((now + 5 * 86_400 - 60..=now + 5 * 86_400).contains(&exp));
    assert_eq!(part(1).as_object().unwrap().len(), 2, "uid and exp only");
    let (_, jwks) = site.send(Method::GET, "/acs/api/v1/auth/jwks", None, None).await;
    assert_eq!((&jwks["keys"][0]["kid"], jwks["keys"][0]["kty"].as_str()), (&part(0)["kid"], Some("RSA")));

    let reply =
        site.client.get(&format!("{}/acs/api/v1/auth/logout", site.url("http"))).send().await.unwrap();
    assert!(reply.status == 200 && self::cookies(&reply.headers)[0].contains("Max-Age=0"));
}

#[tokio::test]
async fn wrong_logins_look_alike_and_are_braked() {
    let site = Site::start().await;
    let (status, unknown) = site.login(json!({"uid": "nobody", "password": "x-wrong"})).await;
    let (_, wrong) = site.login(json!({"uid": "admin", "password": "x-wrong"})).await;
    assert_eq!((status.as_u16(), &unknown), (401, &wrong));
    assert_eq!(wrong["code"], "ERR_INVALID_CREDENTIALS");
    assert!(wrong["title"].is_string() && wrong["description"].is_string());
    let hostile = [
        json!({}),
        json!({"uid": "admin"}),
        json!({"uid": "admin", "password": "x", "token": "y"}),
        json!({"password": "x"}),
        json!([]),
        json!({"uid": 5, "password": "x"}),
    ];
    for body in hostile {
        let (status, reply) = site.login(body.clone()).await;
        assert_eq!((status.as_u16(), reply["code"].as_str()), (400, Some("ERR_INVALID_DATA")), "{body}");
    }
    for uid in ["../site", "a/b", "", "\u{0}", "plenum://test/master/master"] {
        assert_eq!(site.login(json!({"uid": uid, "password": "x"})).await.0, 401, "{uid:?}");
    }
    let mut last = 0;
    for _ in 0..12 {
        last = site.login(json!({"uid": "victim", "password": "guess"})).await.0.as_u16();
    }
    assert_eq!(last, 429);
    assert_eq!(site.login(json!({"uid": "admin", "password": site.admin.password})).await.0, 200);
    assert!(site.audit().iter().any(|l| l["action"] == "login" && l["outcome"] == "ERR_INVALID_CREDENTIALS"));
}

#[tokio::test]
async fn a_service_logs_in_with_its_key() {
    let site = Site::start().await;
    let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let put = json!({"description": "robot", "public_key": pair.public_key_pem()});
    assert_eq!(site.admin(Method::PUT, "/users/robot", Some(put)).await.0, 201);
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    let now = plenum_base::clock::wall_millis() / 1000;
    let sign = |uid: &str, exp: u64| {
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        jsonwebtoken::encode(&header, &json!({"uid": uid, "exp": exp}), &key).unwrap()
    };
    let good = sign("robot", now + 300);
    let (status, reply) = site.login(json!({"uid": "robot", "token": good})).await;
    assert_eq!(status, 200);
    assert!(reply.get("uid").is_none(), "services get the token only");
    let token = reply["token"].as_str().unwrap();
    assert_eq!(site.send(Method::GET, "/acs/api/v1/users", Some(token), None).await.0, 200);
    let wrong = [
        json!({"uid": "robot", "token": sign("robot", now - 300)}),
        json!({"uid": "admin", "token": sign("admin", now + 300)}),
        json!({"uid": "robot", "token": sign("admin", now + 300)}),
        json!({"uid": "nobody", "token": good}),
        json!({"uid": "robot", "token": site.token}),
        json!({"uid": "robot", "token": "x.y.z"}),
    ];
    for body in wrong {
        let (status, reply) = site.login(body.clone()).await;
        assert_eq!(
            (status.as_u16(), reply["code"].as_str()),
            (401, Some("ERR_INVALID_CREDENTIALS")),
            "{body}"
        );
    }
}

#[tokio::test]
async fn what_clients_read_before_logging_in_is_open_and_the_rest_is_not() {
    let site = Site::start().await;
    let (_, providers) = site.send(Method::GET, "/acs/api/v1/auth/providers", None, None).await;
    let methods: Vec<&str> = providers
        .as_object()
        .unwrap()
        .values()
        .map(|entry| entry["client-method"].as_str().unwrap())
        .collect();
    assert!(methods.contains(&"dcos-usercredential-post-receive-authtoken"));
    assert!(methods.contains(&"dcos-servicecredential-post-receive-authtoken"));
    assert!(
        providers.as_object().unwrap().values().all(|entry| entry["config"]["start_flow_url"].is_string())
    );
    let (_, ui) = site.send(Method::GET, "/acs/api/v1/uiconfig/", None, None).await;
    assert_eq!(ui["uiConfiguration"]["plugins"]["mesos"]["logging-strategy"], "logrotate");
    assert!(ui["clusterConfiguration"]["id"].is_string());

    let closed = [
        (Method::GET, "/acs/api/v1/users"),
        (Method::PUT, "/acs/api/v1/users/x"),
        (Method::POST, "/acs/api/v1/join-tokens"),
        (Method::GET, "/acs/api/v1/members"),
        (Method::POST, "/internal/v1/certificates"),
        (Method::GET, "/internal/v1/policy"),
    ];
    for (method, path) in closed {
        for token in [None, Some("x"), Some("")] {
            let mut call = site.client.call(method.clone(), &format!("{}{path}", site.url("http")));
            if let Some(token) = token {
                call = call.credentials(&Credentials::Token(token.to_owned()));
            }
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, 401, "{method} {path} {token:?}");
            assert_eq!(reply.headers["www-authenticate"], "oauthjwt");
        }
    }
    assert_eq!(site.admin(Method::POST, "/auth/logout", None).await.0, 405);
    assert_eq!(site.admin(Method::GET, "/nothing", None).await.1["code"], "ERR_NOT_FOUND");
}

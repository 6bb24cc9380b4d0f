//! Join tokens: making, listing, revoking.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::world::World;

const TOKENS: &str = "/plenum/v1/tokens";

fn made() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({"id": "0123456789abcdef", "kind": "agent", "description": "rack \u{1b}[2J", "creator": "ops", "created": now, "expires": now + 3600,
        "uses_left": 3, "token": "plenum1.0123456789abcdef.5ec2e7.f00d", "masters": ["10.0.0.1", "10.0.0.2"]})
}

#[tokio::test]
async fn a_token_is_made_and_told_how_to_use() {
    let world = World::start().await;
    world.gateway.answer(&format!("POST {TOKENS}"), 201, &made());
    let words = ["node", "token", "create", "--role", "public", "--ttl", "90m", "--uses", "3"];
    let outcome = world.run(&words).await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.out.starts_with("plenum1.0123456789abcdef.5ec2e7.f00d\n\nGood for 3 hosts (agent) for 60m;"),
        "{outcome:?}"
    );
    let command =
        "  echo 'plenum1.0123456789abcdef.5ec2e7.f00d' | plenum join 10.0.0.1 10.0.0.2 --token-file -\n";
    assert!(outcome.out.ends_with(command), "{outcome:?}");
    let sent = world.gateway.seen().pop().unwrap().json();
    assert_eq!(sent, json!({"kind": "public", "ttl_seconds": 5400, "uses": 3, "description": ""}));
    let quiet = world.run(&["node", "token", "create", "-q"]).await;
    assert_eq!(quiet.out, "plenum1.0123456789abcdef.5ec2e7.f00d\n");
    let json = world.run(&["node", "token", "create", "-o", "json"]).await.json();
    assert_eq!(json["uses_left"], 3);
    assert!(json["command"].as_str().unwrap().contains("plenum join 10.0.0.1"));
    for bad in [&["--ttl", "1y"][..], &["--role", "root"], &["--uses", "-1"], &["--ttl", "0s"]] {
        let words: Vec<&str> = ["node", "token", "create"].iter().chain(bad).copied().collect();
        assert_eq!(world.run(&words).await.code, 2, "{bad:?}");
    }
}

#[tokio::test]
async fn tokens_are_listed_without_secrets_and_revoked() {
    let world = World::start().await;
    let mut listed = made();
    listed.as_object_mut().unwrap().remove("token");
    let mut spent = listed.clone();
    (spent["id"], spent["uses_left"], spent["expires"]) = (json!("fedcba9876543210"), json!(0), json!(1));
    world.gateway.answer(&format!("GET {TOKENS}"), 200, &json!({"tokens": [listed, spent]}));
    let table = world.run(&["node", "tokens", "ls"]).await;
    let rows: Vec<Vec<&str>> = table.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..4], ["fedcba9876543210", "agent", "0", "0s"], "{table:?}");
    assert_eq!(rows[2][..5], ["0123456789abcdef", "agent", "3", "60m", "ops"]);
    assert!(!table.out.contains('\u{1b}'));
    let json = world.run(&["node", "token", "list", "-o", "json"]).await.json();
    assert_eq!((json.as_array().unwrap().len(), json[0].get("token")), (2, None));

    let delete = format!("DELETE {TOKENS}/0123456789abcdef");
    world.gateway.raw(&delete, 204, "");
    let outcome = world.run(&["node", "token", "revoke", "plenum1.0123456789abcdef.5ec2e7.f00d"]).await;
    assert_eq!(outcome.out, "0123456789abcdef: revoked\n", "{outcome:?}");
    assert_eq!(world.gateway.lines().pop().unwrap(), delete, "the secret stays here");
    let unknown = world.run(&["node", "token", "revoke", "00000000"]).await;
    assert!(unknown.code == 1 && unknown.err.contains("plenum node token list"), "{unknown:?}");
    for bad in ["", "../users", "x y"] {
        assert_eq!(world.run(&["node", "token", "revoke", bad]).await.code, 2, "{bad}");
    }
}

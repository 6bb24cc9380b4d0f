//! Logging in, trust on first use, logging out.

use plenum_base::pki::Authority;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use crate::world::{TOKEN, World};

const LOGIN: &str = "POST /acs/api/v1/auth/login";

fn fingerprint(outcome: &str) -> String {
    let words = outcome.split_whitespace().find(|word| word.len() == 95 && word.contains(':'));
    words.unwrap_or_else(|| panic!("no fingerprint in {outcome}")).to_owned()
}

#[tokio::test]
async fn a_stranger_is_trusted_only_when_told_to() {
    let world = World::strange().await;
    let url = world.gateway.url();
    world.gateway.answer(LOGIN, 200, &json!({"token": TOKEN}));
    world.gateway.answer("GET /service/marathon/v2/apps", 200, &json!({"apps": []}));
    let before = world.run(&["app", "list", "--url", &url]).await;
    assert_eq!(before.code, 4, "{before:?}");
    assert!(before.err.contains("plenum login --instance default --url"), "{before:?}");

    let words = ["login", "--url", &url, "--username", "ann", "--password-stdin"];
    let refused = world.typed(&words, "s3cret\n", false).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(!world.gateway.lines().iter().any(|line| line.starts_with(LOGIN)), "no password was sent");
    let print = fingerprint(&refused.err);

    let wrong = print.replace(['0', '1', '2', '3'], "4");
    let mut with = words.to_vec();
    with.extend(["--fingerprint", &wrong]);
    let wrong = world.typed(&with, "s3cret\n", false).await;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.err.contains(&print) && wrong.err.contains("nothing was sent"), "{wrong:?}");

    let bare = print.replace(':', "").to_lowercase();
    *with.last_mut().unwrap() = &bare;
    let done = world.typed(&with, "s3cret\n", false).await;
    assert_eq!((done.code, done.out), (0, format!("logged in to {url} as ann\n")));
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with(LOGIN)).unwrap();
    assert_eq!(sent.json(), json!({"uid": "ann", "password": "s3cret"}));

    let saved = world.contexts.path(&"default".parse().unwrap());
    assert_eq!(std::fs::metadata(&saved).unwrap().permissions().mode() & 0o777, 0o600);
    let list = world.run(&["app", "list"]).await;
    assert_eq!(list.code, 0, "{list:?}");
}

#[tokio::test]
async fn a_person_is_asked_and_may_say_no() {
    let world = World::strange().await;
    let url = world.gateway.url();
    world.gateway.answer(LOGIN, 200, &json!({"token": TOKEN}));
    let words = ["login", "--url", &url, "--password-stdin", "--instance", "lab"];
    let no = world.typed(&words, "n\n", true).await;
    assert_eq!(no.code, 1, "{no:?}");
    assert!(no.err.contains("Trust it? [y/N]"), "{no:?}");
    let yes = world.typed(&words, "y\n\ns3cret\n", true).await;
    assert_eq!(yes.code, 0, "{yes:?}");
    assert!(yes.out.ends_with("as admin\n"), "{yes:?}");
    let out = world.run(&["logout", "--instance", "lab"]).await;
    assert_eq!((out.code, out.out), (0, format!("logged out of {url}\n")));
    let again = world.run(&["logout", "--instance", "lab"]).await;
    assert_eq!(again.out, "there was no login for lab\n");
    let list = world.run(&["app", "list", "--instance", "lab"]).await;
    assert_eq!(list.code, 4, "{list:?}");
    assert!(
        list.err.contains("you are not logged in") && list.err.contains("plenum login --instance lab"),
        "{list:?}"
    );
}

#[tokio::test]
async fn a_ca_that_did_not_sign_the_gateway_gets_no_password() {
    let world = World::strange().await;
    let url = world.gateway.url();
    let other = Authority::create("other", SystemTime::now()).unwrap();
    let file = world.dir.path().join("ca.pem");
    std::fs::write(&file, other.certificate_pem()).unwrap();
    let words =
        ["login", "--url", &url, "--username", "a", "--password-stdin", "--ca-file", file.to_str().unwrap()];
    let outcome = world.typed(&words, "s3cret\n", false).await;
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("authority"), "{outcome:?}");

    // A second certificate behind the right one is not trusted along with it.
    world.gateway.lie_about_ca(&format!("{}{}", other.certificate_pem(), world.gateway.ca));
    let print = other.fingerprint();
    let words = ["login", "--url", &url, "--username", "a", "--password-stdin", "--fingerprint", &print];
    let outcome = world.typed(&words, "s3cret\n", false).await;
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(!world.gateway.lines().iter().any(|line| line.starts_with(LOGIN)));
}

#[tokio::test]
async fn wrong_passwords_and_missing_words_are_told() {
    let world = World::start().await;
    world.remember(None);
    world.gateway.answer(
        LOGIN,
        401,
        &json!({"title": "Unauthorized", "description": "the uid or the password is wrong", "code": "ERR"}),
    );
    let outcome = world.typed(&["login", "--username", "a", "--password-stdin"], "bad\n", false).await;
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(outcome.err.contains("the uid or the password is wrong"), "{outcome:?}");
    for (words, input, want) in [
        (vec!["login", "--username", "a"], "", "--password-stdin"),
        (vec!["login", "--password-stdin"], "x\n", "--username"),
        (vec!["login", "--username", "a", "--password-stdin"], "\n", "empty"),
        (vec!["login", "--url", "http://far.example", "--username", "a"], "", "for everybody to read"),
        (vec!["login", "--instance", "none", "--username", "a"], "", "--url"),
    ] {
        let outcome = world.typed(&words, input, false).await;
        assert_eq!(outcome.code, 2, "{words:?}: {outcome:?}");
        assert!(outcome.err.contains(want), "{words:?}: {outcome:?}");
    }
}

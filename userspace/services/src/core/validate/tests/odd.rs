//! An app with every field, with something odd in the place of each value in turn: nothing breaks, and what is taken comes back as it is.

use serde_json::{Value, json};

use super::super::super::app::App;
use super::super::super::id::PathId;
use super::super::super::update;
use super::super::{changes, validate};

/// Every path within `value`.
fn paths(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(n, item)| (n.to_string(), item)).collect(),
        Value::Object(pairs) => pairs.iter().map(|(key, item)| (key.clone(), item)).collect(),
        _ => Vec::new(),
    };
    for (key, item) in inner {
        paths(item, &format!("{at}/{}", key.replace('/', "~1")), out);
    }
}

fn odd() -> Vec<Value> {
    let big = format!("/{}", "x".repeat(300));
    let numbers =
        [json!(-1), json!(0), json!(0.5), json!(1e308), json!(i64::MIN), json!(u64::MAX), json!(65_536)];
    let texts =
        ["", " ", "\0", "a/b", "../..", "host", "disabled", "unlimited", "\u{1f600}", "%", "[", "-1", &big];
    let rest = [
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({"": ""}),
        json!([["hostname", "LIKE", "("]]),
        json!({"secret": "none"}),
        json!({"type": "DOCKER"}),
        json!({"minimumHealthCapacity": 0, "maximumOverCapacity": 0}),
    ];
    numbers.into_iter().chain(texts.iter().map(|text| json!(text))).chain(rest).collect()
}

fn put(app: &mut App, body: &Value) -> bool {
    update::apply(app, body.as_object().unwrap(), "*").is_ok()
}

#[test]
fn nothing_odd_breaks_anything() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps");
    let (mut tried, mut taken) = (0, 0);
    for file in
        ["every_field", "old_docker_bridge", "old_ip_address", "persistent_volumes", "external_volumes"]
    {
        let text = std::fs::read_to_string(folder.join(format!("{file}.json"))).unwrap();
        let steps: Value = serde_json::from_str(&text).unwrap();
        let (id, sent) = (PathId::parse("/a").unwrap(), &steps[0]["send"]);
        let mut before = App::new(id.clone(), "*");
        assert!(put(&mut before, sent));
        let mut all = Vec::new();
        paths(sent, "", &mut all);
        for path in all.iter().filter(|path| !path.is_empty()) {
            for value in odd() {
                let mut body = sent.clone();
                *body.pointer_mut(path).unwrap() = value;
                let mut app = App::new(id.clone(), "*");
                tried += 1;
                if !put(&mut app, &body) {
                    continue;
                }
                changes(&before, &app);
                if !validate(&app).is_empty() {
                    continue;
                }
                taken += 1;
                app.version = "2020-01-01T00:00:00.000Z".to_owned();
                let mut again = App::new(id.clone(), "*");
                assert!(put(&mut again, &Value::Object(app.to_json())), "{body}");
                assert!(!again.differs_in_config(&app), "{path} {body}\n{again:?}\n{app:?}");
                assert_eq!(validate(&again), [], "{body}");
            }
        }
    }
    assert!(tried > 3000 && taken > 100, "{tried} {taken}");
}

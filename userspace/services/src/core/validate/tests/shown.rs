//! What is sent and what comes back: `tests/apps/*.json`, one app a file, its first body and then partial updates, each with the app as it
//! is shown afterwards. `UPDATE_GOLDEN=1` writes what is shown anew. What is shown makes the same app when it is sent.

use serde_json::{Value, json};

use super::super::super::app::App;
use super::super::super::id::PathId;
use super::super::super::update;

fn put(app: &mut App, body: &Value) {
    update::apply(app, body.as_object().unwrap(), "*").unwrap_or_else(|error| panic!("{body}: {error:?}"));
}

fn check(path: &std::path::Path) {
    let mut steps: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let id = PathId::parse(steps[0]["send"]["id"].as_str().unwrap()).unwrap();
    let mut app = App::new(id.clone(), "*");
    let before = steps.clone();
    for (n, step) in steps.iter_mut().enumerate() {
        put(&mut app, &step["send"]);
        let flaws = super::super::rules(&app).0;
        assert!(flaws.is_empty(), "{} {n}: {flaws:?}", path.display());
        // Only apps that are new have what a new one gets.
        app.version = "2020-01-01T00:00:00.000Z".to_owned();
        let mut shown = app.to_json();
        for moment in ["version", "versionInfo"] {
            shown.remove(moment);
        }
        let mut again = App::new(id.clone(), "*");
        put(&mut again, &Value::Object(shown.clone()));
        assert!(!again.differs_in_config(&app), "{} {n}: {again:?}\n{app:?}", path.display());
        let stored: App = serde_json::from_value(json!(app)).unwrap();
        assert_eq!(stored, app, "{} {n}", path.display());
        step["shown"] = Value::Object(shown);
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut text = serde_json::to_string_pretty(&steps).unwrap();
        text.push('\n');
        std::fs::write(path, text).unwrap();
        return;
    }
    for (n, (step, before)) in steps.iter().zip(&before).enumerate() {
        assert_eq!(step["shown"], before["shown"], "{} {n}", path.display());
    }
}

#[test]
fn what_comes_back_is_what_marathon_would_send_back() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "the apps are there");
    for file in files {
        check(&file);
    }
}

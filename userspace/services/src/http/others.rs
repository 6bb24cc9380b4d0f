//! Tasks, deployments, the queue, pods and what this process tells about itself.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{json_answer, text_answer};
use super::{Api, Ask, no_such};
use crate::core::error::{ApiError, Flaw};
use crate::core::requests::{Killing, Kind};
use crate::core::view;

/// Whether a client asks for plain text rather than JSON.
pub(super) fn wants_text(accept: &str) -> bool {
    accept.contains("text/plain") && !accept.contains("json")
}

pub(super) async fn tasks(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) if wants_text(&ask.accept) => {
            Ok(text_answer(api.handle.read(|state, _| view::tasks_text(state)).await?))
        }
        ("GET" | "HEAD", []) => {
            let states = ask.query.all("status").chain(ask.query.all("status[]"));
            let states: Vec<String> = states.map(str::to_owned).collect();
            let tasks = api.handle.read(move |state, _| {
                let states: Vec<&str> = states.iter().map(String::as_str).collect();
                view::tasks(state, &states)
            });
            Ok(json_answer(StatusCode::OK, &json!({"tasks": tasks.await?})))
        }
        ("GET" | "HEAD", ["unknown"]) => {
            let body = api.handle.read(|state, _| view::strangers(state)).await?;
            Ok(json_answer(StatusCode::OK, &body))
        }
        ("POST", ["adopt"]) => {
            let tasks = ids(ask)?;
            ask.change(api, Kind::Adopt(tasks), false).await
        }
        ("POST", ["delete"]) => {
            let tasks = ids(ask)?;
            let scale = ask.query.flag("scale", false)?;
            let wipe = ask.query.flag("wipe", false)?;
            if scale && wipe {
                return Err(ApiError::BadRequest(
                    "You cannot use scale and wipe at the same time.".to_owned(),
                ));
            }
            let kind = Kind::Kill(Killing { app: None, tasks: Some(tasks), host: None, scale, wipe });
            ask.change(api, kind, ask.query.flag("force", false)?).await
        }
        _ => Err(no_such()),
    }
}

/// The tasks that a body names.
fn ids(ask: &Ask) -> Result<Vec<String>, ApiError> {
    let body = ask.object()?;
    let wrong = || ApiError::BadFields(vec![Flaw::new("/ids", "error.expected.jsarray")]);
    let ids = body.get("ids").and_then(Value::as_array).ok_or_else(wrong)?;
    ids.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>().ok_or_else(wrong)
}

pub(super) async fn deployments(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) => {
            let list = api.handle.read(|state, _| view::deployments(state)).await?;
            Ok(json_answer(StatusCode::OK, &Value::from(list)))
        }
        ("DELETE", [id]) => {
            let force = ask.query.flag("force", false)?;
            ask.change(api, Kind::Cancel((*id).to_owned()), force).await
        }
        _ => Err(no_such()),
    }
}

pub(super) async fn queue(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) => {
            let offers = ask.query.all("embed").any(|e| e == "lastUnusedOffers");
            let body = api.handle.read(move |state, now| view::queue(state, now, offers)).await?;
            Ok(json_answer(StatusCode::OK, &body))
        }
        ("DELETE", [app @ .., "delay"]) if !app.is_empty() => {
            ask.change(api, Kind::ResetDelay(super::apps::id(app)?), false).await
        }
        _ => Err(no_such()),
    }
}

pub(super) async fn info(api: &Api) -> Result<Response, ApiError> {
    let framework = api.handle.read(|state, _| state.framework.clone()).await?;
    let about = &api.about;
    let body = json!({
        "name": "marathon",
        "version": "1.11.24",
        "buildref": concat!("plenum-", env!("CARGO_PKG_VERSION")),
        "elected": true,
        "leader": about.leader,
        "frameworkId": framework,
        "marathon_config": {
            "master": about.master,
            "framework_name": about.framework,
            "failover_timeout": about.failover_timeout,
            "checkpoint": true,
            "ha": about.ha,
            "features": ["gpu_resources", "secrets"],
        },
        "zookeeper_config": {},
        "http_config": {},
    });
    Ok(json_answer(StatusCode::OK, &body))
}

/// The same in the text format of Prometheus, with names as Marathon's reporter makes them.
pub(super) async fn prometheus(api: &Api) -> Result<Response, ApiError> {
    let counts = api.handle.read(|state, _| view::counts(state)).await?;
    let events = api.handle.events().counts();
    let mut text = String::new();
    let mut say = |name: &str, kind: &str, value: &Value| {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
    };
    for (name, value) in &counts {
        say(name, "gauge", value);
    }
    say("service.mesosphere.marathon.http.event-streams.active", "gauge", &json!(events.listening));
    say("plenum.services.events.ring.bytes", "gauge", &json!(events.bytes));
    say("plenum.services.events.encoded.total", "counter", &json!(events.encoded));
    Ok(text_answer(text))
}

pub(super) async fn metrics(api: &Api) -> Result<Response, ApiError> {
    let counts = api.handle.read(|state, _| view::counts(state)).await?;
    let mut gauges: Map<String, Value> =
        counts.into_iter().map(|(name, value)| (name, json!({"value": value}))).collect();
    let events = api.handle.events().counts();
    let listening = ("service.mesosphere.marathon.http.event-streams.active", events.listening);
    let more = [listening, ("plenum.services.events.ring.bytes", events.bytes)];
    gauges.extend(more.map(|(name, value)| (name.to_owned(), json!({"value": value}))));
    let body = json!({
        "version": "4.0.0", "gauges": gauges, "counters": {"plenum.services.events.encoded": {"count": events.encoded}}, "histograms": {}, "meters": {}, "timers": {},
    });
    Ok(json_answer(StatusCode::OK, &body))
}

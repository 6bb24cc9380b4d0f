//! What every scheduler answers, whether it decides or stands by, and where those that stand by send their callers.

use axum::response::Response;
use http::header::{LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use plenum_base::leading;
use serde_json::json;

use super::About;
use super::answer::{json_answer, text_answer};
use crate::shell::{Handle, Phase};

/// The scheduler to ask, or the answer that needs none. Bodies of requests are not read for that.
pub(super) fn answer(
    about: &About,
    phase: &Phase,
    head: &Parts,
    path: &[String],
) -> Result<Handle, Box<Response>> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match path.as_slice() {
        ["ping"] => return Err(Box::new(text_answer("pong"))),
        ["leader"] if reads => return Err(Box::new(leader(about, phase))),
        ["v2", "leader"] if reads => return Err(Box::new(marathons_leader(about, phase))),
        _ => {}
    }
    match phase {
        Phase::Leading(handle, _) if handle.leads() => Ok(handle.clone()),
        Phase::Standby(Some(leader)) => {
            let rest = head.uri.path_and_query().map_or("/", |rest| rest.as_str());
            let mut response = json_answer(
                StatusCode::TEMPORARY_REDIRECT,
                &json!({"message": "Another scheduler leads: ask there."}),
            );
            match HeaderValue::from_str(&format!("{}{rest}", leader.candidate)) {
                Ok(there) => response.headers_mut().insert(LOCATION, there),
                Err(_) => return Err(Box::new(nobody())),
            };
            Err(Box::new(response))
        }
        Phase::Standby(None) | Phase::Leading(..) => Err(Box::new(nobody())),
    }
}

/// Nobody leads, or it is not known.
pub(super) fn nobody() -> Response {
    let message = "No scheduler leads right now: try again in a moment.";
    let mut response = json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"message": message}));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn leader(about: &About, phase: &Phase) -> Response {
    let answer = match phase {
        Phase::Leading(handle, term) if handle.leads() => {
            leading::Answer { leader: Some(format!("https://{}", about.leader)), own: true, term: *term }
        }
        Phase::Standby(Some(leader)) => {
            leading::Answer { leader: Some(leader.candidate.clone()), own: false, term: leader.term }
        }
        Phase::Standby(None) | Phase::Leading(..) => leading::Answer::default(),
    };
    json_answer(StatusCode::OK, &json!(answer))
}

fn marathons_leader(about: &About, phase: &Phase) -> Response {
    let leader = match phase {
        Phase::Leading(handle, _) if handle.leads() => Some(about.leader.clone()),
        // Marathon names host and port only.
        Phase::Standby(Some(leader)) => Some(
            leader.candidate.split_once("://").map_or(leader.candidate.as_str(), |(_, rest)| rest).to_owned(),
        ),
        Phase::Standby(None) | Phase::Leading(..) => None,
    };
    match leader {
        Some(leader) => json_answer(StatusCode::OK, &json!({ "leader": leader })),
        None => json_answer(StatusCode::NOT_FOUND, &json!({"message": "There is no leader"})),
    }
}

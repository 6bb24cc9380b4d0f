//! Why a verb failed, in words that name the next step, and the exit code that scripts see. Reading the many forms of refusals is here, too.

use std::fmt::Write as _;

use http::StatusCode;
use plenum_base::client::ClientError;
use serde_json::Value;

use crate::text::clean;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, CliError>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed, or a file that was named, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Nothing answers, or not in time.
    #[error("{0}")]
    Unreachable(String),
    /// The cluster does not know the caller.
    #[error("{0}")]
    NotLoggedIn(String),
    /// The cluster said no.
    #[error("{}", refusal_text(*status, message, details, hint))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The sentence.
        message: String,
        /// Particulars, one a line.
        details: Vec<String>,
        /// The next step; empty where there is none to name.
        hint: String,
    },
    /// The answer is not one that such a cluster gives.
    #[error(
        "the answer of {url} is not understood ({reason}); is this the address of a gateway? See `plenum status`"
    )]
    Answer {
        /// The address.
        url: String,
        /// Where it differs.
        reason: String,
    },
    /// Something on this machine.
    #[error("{0}")]
    Local(String),
    /// What was asked for was accepted, and has not come about.
    #[error("{0}")]
    Unfinished(String),
    /// A program that is not there, or may not be run, and the code that shells have for it.
    #[error("{0}")]
    NoProgram(String, u8),
    /// A command inside a task ended so; there is nothing to say about it.
    #[error("the command ended with code {0}")]
    Exited(u8),
    /// Who reads our output has gone.
    #[error("the output was closed")]
    Closed,
}

impl CliError {
    /// 0 ok, 1 refused or failed, 2 usage, 3 unreachable, 4 not logged in; a command inside a task has its own.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::NotLoggedIn(_) => 4,
            Self::NoProgram(_, code) | Self::Exited(code) => *code,
            Self::Refused { .. } | Self::Answer { .. } | Self::Local(_) | Self::Unfinished(_) => 1,
        }
    }

    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it may be otherwise in a moment: a component that restarts.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_)) || self.status().is_some_and(|status| status >= 500)
    }

    /// The same refusal with another next step; other errors stay as they are.
    #[must_use]
    pub fn or_else_try(mut self, on: u16, next: &str) -> Self {
        if let Self::Refused { status, hint, .. } = &mut self
            && *status == on
        {
            next.clone_into(hint);
        }
        self
    }

    /// A refusal from a status and a body in any of the forms that a cluster's components use.
    #[must_use]
    pub fn refusal(status: StatusCode, body: &[u8]) -> Self {
        let (message, details) = read_refusal(body);
        let message = if message.is_empty() {
            status.canonical_reason().unwrap_or("no reason was given").to_owned()
        } else {
            message
        };
        Self::Refused { status: status.as_u16(), message, details, hint: hint(status).to_owned() }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Local(format!("the output cannot be written: {error}"))
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Request { url, reason } => {
                Self::Usage(format!("{} is no usable address: {}", clean(&url), clean(&reason)))
            }
            ClientError::Transport { url, reason, .. } => Self::Unreachable(unreachable(&url, &reason)),
            ClientError::Deadline { url, waited } => Self::Unreachable(format!(
                "{} did not answer within {} s; try again, and see `plenum status`",
                clean(&url),
                waited.as_secs()
            )),
            ClientError::TooLarge { url, limit } => {
                Self::Answer { url: clean(&url), reason: format!("it has more than {limit} bytes") }
            }
            ClientError::Status { status, body, .. } => Self::refusal(status, body.as_bytes()),
            ClientError::Content { url, reason } => Self::Answer { url: clean(&url), reason: clean(&reason) },
        }
    }
}

fn unreachable(url: &str, reason: &str) -> String {
    let (url, reason) = (clean(url), clean(reason));
    let next = if reason.contains("certificate") || reason.contains("UnknownIssuer") {
        "it does not show a certificate of the authority that was trusted at login; if the cluster was made anew, run `plenum login` again"
    } else {
        "see `plenum status`, start it with `plenum up`, or name another cluster with --instance or --url"
    };
    format!("{url} cannot be reached: {reason}; {next}")
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "ask an administrator of the cluster for the permission",
        404 => "the list verbs show what there is",
        429 => "wait a minute and try again",
        502..=504 => "the component behind the gateway is not ready; see `plenum status` and try again",
        _ => "",
    }
}

fn refusal_text(status: u16, message: &str, details: &[String], hint: &str) -> String {
    let mut text = format!("{message} ({status})");
    for detail in details {
        let _ = write!(text, "\n  {detail}");
    }
    if !hint.is_empty() {
        let _ = write!(text, "\nnext: {hint}");
    }
    text
}

/// Most particulars that are shown.
const DETAILS: usize = 20;

/// The sentence and the particulars of a refusal: Marathon's `{message, details: [{path, errors}]}`, Cosmos' `{type, message, data}`,
/// identity's `{title, description, code}`, our own `{code, message, details}`, or a first line of text.
fn read_refusal(body: &[u8]) -> (String, Vec<String>) {
    let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(body) else {
        return (first_line(&String::from_utf8_lossy(body)), Vec::new());
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let message = text("message").or(text("description")).or(text("title")).or(text("error"));
    let mut details = Vec::new();
    if let Some(value) = map.get("details") {
        particulars(value, &mut details);
    }
    if let Some(errors) = map.get("data").and_then(|data| data.get("errors")) {
        particulars(errors, &mut details);
    }
    for deployment in map.get("deployments").and_then(Value::as_array).into_iter().flatten() {
        if let Some(id) = deployment.get("id").and_then(Value::as_str) {
            details.push(format!("deployment {}", clean(id)));
        }
    }
    details.truncate(DETAILS);
    (message.map(clean).unwrap_or_default(), details)
}

fn particulars(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().take(DETAILS).for_each(|item| particulars(item, out)),
        Value::String(text) => out.push(clean(text)),
        Value::Object(map) => {
            let path = map.get("path").or_else(|| map.get("instance")).and_then(Value::as_str);
            let one = map.get("message").or_else(|| map.get("error")).and_then(Value::as_str);
            let many = map.get("errors").and_then(Value::as_array).into_iter().flatten();
            let errors: Vec<&str> = many.filter_map(Value::as_str).chain(one).collect();
            match (path, errors.is_empty()) {
                (Some(path), false) => {
                    out.push(format!("{}: {}", clean(path), clean(&errors.join("; "))));
                }
                (None, false) => out.push(clean(&errors.join("; "))),
                (_, true) => out.push(clean(&value.to_string())),
            }
        }
        Value::Null => {}
        other => out.push(other.to_string()),
    }
}

/// The first line with words, without markup: for pages of HTML and plain text.
fn first_line(text: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for c in text.chars().take(4000) {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    let line = plain.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    clean(&line.chars().take(300).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: u16, body: &str) -> String {
        CliError::refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    }

    #[test]
    fn refusals_of_all_forms_are_read() {
        for (status, body, want) in [
            (
                422,
                r#"{"message":"Object is not valid","details":[{"path":"/cpus","errors":["is negative","is odd"]}]}"#,
                "Object is not valid (422)\n  /cpus: is negative; is odd",
            ),
            (400, r#"{"message":"Invalid JSON","details":"line 1"}"#, "Invalid JSON (400)\n  line 1"),
            (
                409,
                r#"{"message":"App is locked","deployments":[{"id":"D1"},{}]}"#,
                "App is locked (409)\n  deployment D1",
            ),
            (
                400,
                r#"{"type":"JsonSchemaMismatch","message":"Options mismatch","data":{"errors":[{"instance":"/a","message":"no"}]}}"#,
                "Options mismatch (400)\n  /a: no",
            ),
            (
                403,
                r#"{"title":"Forbidden","description":"not you","code":"ERR_FORBIDDEN"}"#,
                "not you (403)\nnext: ask an administrator of the cluster for the permission",
            ),
            (418, "<html><head></head>\n <body>tea \u{1b}[31mpot</body>", "tea \u{fffd}[31mpot (418)"),
            (500, "", "Internal Server Error (500)"),
            (500, "[1]", "[1] (500)"),
            (500, r#"{"message":{"x":1},"details":{"a":2}}"#, "Internal Server Error (500)\n  {\"a\":2}"),
        ] {
            assert_eq!(shown(status, body), want);
        }
    }

    #[test]
    fn particulars_are_bounded() {
        let many = format!("{{\"message\":\"m\",\"details\":[{}1]}}", "\"x\",".repeat(5000));
        assert_eq!(shown(422, &many).lines().count(), 1 + DETAILS);
    }

    #[test]
    fn every_kind_has_its_code() {
        let refused = CliError::refusal(StatusCode::CONFLICT, b"");
        assert_eq!((refused.exit_code(), refused.status()), (1, Some(409)));
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::Unreachable(String::new()).exit_code(), 3);
        assert_eq!(CliError::NotLoggedIn(String::new()).exit_code(), 4);
        assert_eq!(CliError::Closed.exit_code(), 0);
        assert!(refused.or_else_try(409, "go").to_string().ends_with("next: go"));
    }
}

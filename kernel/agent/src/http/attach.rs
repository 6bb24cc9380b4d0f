//! `ATTACH_CONTAINER_INPUT`, whose request's body is a stream of records, and `ATTACH_CONTAINER_OUTPUT`, whose answer is one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use plenum_api::agent::call::attach_container_input::Type as Step;
use plenum_api::agent::call::{AttachContainerInput, AttachContainerOutput};
use plenum_api::agent::process_io::{Type as IoType, control::Type as ControlType, data::Type as DataType};
use plenum_api::agent::{ProcessIo, call::Type as Asked};
use plenum_api::mesos::ContainerId;
use plenum_containers::{Input, RuntimeError, Size};

use super::nested::{Found, bad, check_id, find, missing};
use super::recordio::{Calls, form, message_encoding};
use super::sessions::{Source, records};
use super::{Http, PATIENCE, text};
use crate::shell::sessions::{Nested, key};

/// After the end of the command what its client still sends is taken for so long, so that the client can finish and read the answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// What Mesos says of a container without an input that one could connect to; clients compare it.
const NO_SWITCHBOARD: &str = "I/O switchboard server was disabled for this container";
/// What it says where somebody is connected already.
const TAKEN: &str = "Multiple input connections are not allowed";

/// A call whose body is a stream of records: only this one has such.
pub(super) async fn input(http: &Http, headers: &HeaderMap, body: Body) -> Result<Response, Response> {
    let mut calls = Calls::new(body, message_encoding(headers)?);
    let answer = take(http, &mut calls).await;
    if answer.is_err() {
        // Who is still sending when the connection closes may never see the answer.
        let _client_goes_on = tokio::time::timeout(FAREWELL, calls.discard()).await;
    }
    answer
}

async fn take(http: &Http, calls: &mut Calls) -> Result<Response, Response> {
    let first = match tokio::time::timeout(PATIENCE, calls.next()).await {
        Ok(Ok(Some(call))) => call,
        Ok(Ok(None)) => return Err(bad("Received EOF while reading request body")),
        Ok(Err(words)) => return Err(bad(&words)),
        Err(_) => return Err(text(StatusCode::REQUEST_TIMEOUT, "The first record did not arrive in time.")),
    };
    if first.r#type() != Asked::AttachContainerInput {
        let words = format!(
            "Streaming 'Content-Type' application/recordio is not supported for {} call",
            first.r#type().as_str_name()
        );
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &words));
    }
    let attach = first.attach_container_input.ok_or_else(|| missing("attach_container_input"))?;
    if attach.r#type() != Step::ContainerId {
        return Err(bad("Expecting 'attach_container_input.type' to be CONTAINER_ID"));
    }
    let id = attach.container_id.ok_or_else(|| missing("attach_container_input.container_id"))?;
    check_id(&id, false)?;
    let nested = match meant(http, &id).await? {
        Meant::Command(nested) => nested,
        Meant::Task(container) => return type_on(http, &container, calls).await,
    };
    let Ok(mut input) = Arc::clone(&nested.input).try_lock_owned() else {
        return Err(text(StatusCode::CONFLICT, TAKEN));
    };
    tokio::select! {
        carried = carry(calls, &mut input, nested.terminal) => carried?,
        _ = nested.wait() => {
            let _client_goes_on = tokio::time::timeout(FAREWELL, calls.discard()).await;
        }
    }
    drop(input);
    Ok(StatusCode::OK.into_response())
}

/// Containers whose terminal somebody types on: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Typed(Mutex<BTreeSet<String>>);

impl Typed {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, container: &str) -> Option<Typing> {
        self.lock().insert(container.to_owned()).then(|| Typing(Arc::clone(self), container.to_owned()))
    }
}

/// Who types; dropped when they leave.
struct Typing(Arc<Typed>, String);

impl Drop for Typing {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// Carries records to the terminal of a task.
async fn type_on(http: &Http, container: &str, calls: &mut Calls) -> Result<Response, Response> {
    let _turn = http.typed.take(container).ok_or_else(|| text(StatusCode::CONFLICT, TAKEN))?;
    let terminal = http.runtime.terminal(container).await.map_err(|error| failed(&error))?;
    let mut input = terminal.ok_or_else(|| text(StatusCode::INTERNAL_SERVER_ERROR, NO_SWITCHBOARD))?;
    tokio::select! {
        carried = carry(calls, &mut input, true) => carried?,
        _ = http.runtime.wait(container) => {
            let _client_goes_on = tokio::time::timeout(FAREWELL, calls.discard()).await;
        }
    }
    Ok(StatusCode::OK.into_response())
}

fn failed(error: &RuntimeError) -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
}

/// What an id of an attachment means.
enum Meant {
    /// A command inside of a container.
    Command(Arc<Nested>),
    /// A task's own program, in this container of the runtime.
    Task(String),
}

async fn meant(http: &Http, id: &ContainerId) -> Result<Meant, Response> {
    if let Some(nested) = http.sessions.find(id) {
        return Ok(Meant::Command(nested));
    }
    let (view, _) = http.view().await?;
    if let Found::Container(host) = find(&view, id) {
        return Ok(Meant::Task(host.container));
    }
    unknown(&view, id)
}

/// Neither: a pod, which has no program of its own, a command that has ended, or nothing at all.
fn unknown(view: &crate::core::View, id: &ContainerId) -> Result<Meant, Response> {
    // Clients take 500 for a command that has ended already, and go on.
    let own = !matches!(find(view, id), Found::Nothing);
    let mut above = id.parent.as_deref();
    let mut below = false;
    while let Some(one) = above {
        below |= !matches!(find(view, one), Found::Nothing);
        above = one.parent.as_deref();
    }
    Err(match (own, below) {
        (true, _) => text(StatusCode::INTERNAL_SERVER_ERROR, NO_SWITCHBOARD),
        (false, true) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("Unknown container {}; it may have ended", key(id)),
        ),
        (false, false) => text(StatusCode::NOT_FOUND, &format!("Container {} cannot be found", key(id))),
    })
}

/// Carries records to the command until the body's end. Nothing is read while the command does not read.
async fn carry(calls: &mut Calls, input: &mut Input, terminal: bool) -> Result<(), Response> {
    // A command that closed its input, or never reads it, is not in the wrong: what comes for it is thrown away.
    let mut open = true;
    while let Some(call) = calls.next().await.map_err(|words| bad(&words))? {
        let step = call.attach_container_input.ok_or_else(|| missing("attach_container_input"))?;
        match check(step).map_err(bad)? {
            Wanted::Write(bytes) if bytes.is_empty() => {
                // On a terminal the client sends the sign for the end itself.
                if !terminal {
                    let _closed = input.close().await;
                    open = false;
                }
            }
            Wanted::Write(bytes) if open => open = input.write(&bytes).await.is_ok(),
            Wanted::Write(_) | Wanted::Nothing => {}
            Wanted::Resize(size) => {
                input
                    .resize(size)
                    .map_err(|error| bad(&format!("Unable to set the window size: {error}")))?;
            }
        }
    }
    Ok(())
}

/// What a record asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Write(bytes::Bytes),
    Resize(Size),
    Nothing,
}

fn check(step: AttachContainerInput) -> Result<Wanted, &'static str> {
    if step.r#type() != Step::ProcessIo {
        return Err("Expecting 'attach_container_input.type' to be 'PROCESS_IO'");
    }
    let said: ProcessIo =
        step.process_io.ok_or("Expecting 'attach_container_input.process_io' to be present")?;
    match said.r#type() {
        IoType::Data => {
            let data = said.data.ok_or("Expecting 'process_io.data' to be present")?;
            if data.r#type() != DataType::Stdin {
                return Err("Expecting 'process_io.data.type' to be 'STDIN'");
            }
            data.data.map(Wanted::Write).ok_or("Expecting 'process_io.data.data' to be present")
        }
        IoType::Control => {
            let control = said.control.ok_or("Expecting 'process_io.control' to be present")?;
            match control.r#type() {
                ControlType::TtyInfo => {
                    let tty =
                        control.tty_info.ok_or("Expecting 'process_io.control.tty_info' to be present")?;
                    let window = tty.window_size.ok_or("Expecting 'tty_info.window_size' to be present")?;
                    Ok(Wanted::Resize(super::nested::size(Some(&window))))
                }
                ControlType::Heartbeat if control.heartbeat.is_some() => Ok(Wanted::Nothing),
                ControlType::Heartbeat => Err("Expecting 'process_io.control.heartbeat' to be present"),
                ControlType::Unknown => Err("'process_io.control.type' is unknown"),
            }
        }
        IoType::Unknown => Err("'process_io.type' is unknown"),
    }
}

/// `ATTACH_CONTAINER_OUTPUT`: what a command or a task writes from now on.
pub(super) async fn output(
    http: &Http,
    headers: &HeaderMap,
    attach: AttachContainerOutput,
) -> Result<Response, Response> {
    let form = form(headers)?;
    check_id(&attach.container_id, false)?;
    let nested = match meant(http, &attach.container_id).await? {
        Meant::Command(nested) => nested,
        Meant::Task(container) => {
            let output = http.runtime.listen(&container).await.map_err(|error| failed(&error))?;
            return Ok(form.answer(records(form, Source::Listener(output))));
        }
    };
    if nested.ended().is_some() {
        let words = format!("Container {} has ended", key(&attach.container_id));
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, &words));
    }
    let listener = nested.listen().ok_or_else(|| {
        let words = "As many as may listen to this container do already; end one of them.";
        text(StatusCode::TOO_MANY_REQUESTS, words)
    })?;
    Ok(form.answer(records(form, Source::Listener(listener))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_api::codec::{Encoding, decode};

    fn wanted(json: &str) -> Result<Wanted, String> {
        let step: AttachContainerInput =
            decode(Encoding::Json, json.as_bytes()).map_err(|no| no.to_string())?;
        check(step).map_err(str::to_owned)
    }

    #[test]
    fn records_of_input_are_checked() {
        let io = |io: &str| wanted(&format!(r#"{{"type":"PROCESS_IO","process_io":{io}}}"#));
        assert_eq!(
            io(r#"{"type":"DATA","data":{"type":"STDIN","data":"aGk="}}"#),
            Ok(Wanted::Write(bytes::Bytes::from_static(b"hi")))
        );
        assert_eq!(
            io(
                r#"{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{"window_size":{"rows":4,"columns":5}}}}"#
            ),
            Ok(Wanted::Resize(Size { rows: 4, columns: 5 }))
        );
        assert_eq!(
            io(
                r#"{"type":"CONTROL","control":{"type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":1}}}}"#
            ),
            Ok(Wanted::Nothing)
        );
        for bad in [
            "{}",
            r#"{"type":"DATA"}"#,
            r#"{"type":"DATA","data":{"type":"STDOUT","data":""}}"#,
            r#"{"type":"DATA","data":{"type":"STDIN"}}"#,
            r#"{"type":"CONTROL"}"#,
            r#"{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{}}}"#,
            r#"{"type":"CONTROL","control":{"type":"HEARTBEAT"}}"#,
        ] {
            assert!(io(bad).is_err(), "{bad}");
        }
        assert!(wanted(r#"{"type":"CONTAINER_ID","container_id":{"value":"x"}}"#).is_err());
    }
}

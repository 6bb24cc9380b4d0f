//! Commands inside of tasks: starting one, what it writes, what it reads, how it ended. The agent's calls for it are Mesos'.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderName, Method};
use http_body::{Body, Frame};
use plenum_api::recordio::{self, Decoder};
use plenum_base::client::{BoxError, CallBody, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Session;
use super::nodes::ClusterTask;
use crate::error::{CliError, Result};
use crate::text::{clean, encode};

const MESSAGE_TYPE: HeaderName = HeaderName::from_static("message-content-type");
const MESSAGE_ACCEPT: HeaderName = HeaderName::from_static("message-accept");
/// Bytes of one record of output; agents send pieces of 32 KiB.
const RECORD: usize = 4 << 20;
/// Longer than anybody types.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often an input that is quiet says that it is there.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(30);

/// A running task's container, and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Inside {
    agent: String,
    container: Value,
}

/// Something that a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// To standard error.
    pub error: bool,
    /// What.
    pub bytes: Bytes,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// Nobody knows.
    Unknown,
}

impl Ended {
    fn from_wait(status: Option<i64>) -> Self {
        // As `waitpid` packs it; both fit by their masks.
        let part = |bits: i64| u8::try_from(bits).unwrap_or(u8::MAX);
        match status {
            Some(status) if status & 0x7f != 0 => Self::Signal(part(status & 0x7f)),
            Some(status) => Self::Code(part((status >> 8) & 0xff)),
            None => Self::Unknown,
        }
    }

    /// As a shell gives it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
            Self::Unknown => 1,
        }
    }
}

/// What somebody says to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Bytes; none mean the end.
    Input(Bytes),
    /// The terminal has this many rows and columns now.
    Resized(u16, u16),
    /// Still there.
    Heartbeat,
}

fn record(value: &Value) -> Bytes {
    recordio::encode(
        json!({"type": "ATTACH_CONTAINER_INPUT", "attach_container_input": value}).to_string().as_bytes(),
    )
}

impl Said {
    fn record(&self) -> Bytes {
        let io = match self {
            Self::Input(bytes) => {
                json!({"type": "DATA", "data": {"type": "STDIN", "data": STANDARD.encode(bytes)}})
            }
            Self::Resized(rows, columns) => json!({"type": "CONTROL", "control": {"type": "TTY_INFO",
                "tty_info": {"window_size": {"rows": rows, "columns": columns}}}}),
            Self::Heartbeat => {
                let nanoseconds = u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX);
                json!({"type": "CONTROL", "control": {"type": "HEARTBEAT",
                    "heartbeat": {"interval": {"nanoseconds": nanoseconds}}}})
            }
        };
        record(&json!({"type": "PROCESS_IO", "process_io": io}))
    }
}

/// A request's body that is said bit by bit. What has not been sent holds up whoever says more.
struct Saying {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Said>,
}

impl Body for Saying {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.rest.poll_recv(cx).map(|said| said.map(|said| Ok(Frame::data(said.record()))))
    }
}

/// What a command writes, as it comes.
#[derive(Debug)]
pub struct Output {
    stream: Stream,
    decoder: Decoder,
    url: String,
}

#[derive(Deserialize)]
struct ProcessIo {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: String,
}

impl Output {
    /// The next piece; nothing at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let wrong = |reason: &dyn std::fmt::Display| CliError::Answer {
                url: self.url.clone(),
                reason: clean(&reason.to_string()),
            };
            if let Some(record) = self.decoder.next_record().map_err(|error| wrong(&error))? {
                let io: ProcessIo = serde_json::from_slice(&record).map_err(|error| wrong(&error))?;
                // Heartbeats have no data.
                let Some(data) = io.data else { continue };
                let bytes = STANDARD.decode(&data.data).map_err(|error| wrong(&error))?;
                return Ok(Some(Piece { error: data.kind == "STDERR", bytes: bytes.into() }));
            }
            match self.stream.next().await {
                Ok(Some(bytes)) => self.decoder.feed(&bytes),
                Ok(None) => return Ok(None),
                Err(_) => {
                    return Err(broke());
                }
            }
        }
    }
}

/// Whoever carried the command is gone, and the command with it.
fn broke() -> CliError {
    CliError::Unreachable(
        "the connection to the command broke, and the command was ended with it: its node, the agent there or the gateway went away; \
         `plenum task list` shows whether the task runs, `plenum cluster status` how the cluster is"
            .to_owned(),
    )
}

impl ClusterTask {
    /// Its container while it runs.
    ///
    /// # Errors
    /// [`CliError::Unfinished`].
    pub fn inside(&self) -> Result<Inside> {
        let id = clean(&self.id);
        if self.completed || self.state != "TASK_RUNNING" {
            let state = self.state.trim_start_matches("TASK_").to_lowercase();
            return Err(CliError::Unfinished(format!(
                "{id} does not run (it is {}); `plenum task list` shows those that do, `plenum task logs {id}` what it printed",
                clean(&state)
            )));
        }
        let of = |status: &super::nodes::Status| {
            status.other.get("container_status")?.get("container_id").cloned()
        };
        let container = self.statuses.iter().rev().find_map(of).ok_or_else(|| {
            CliError::Unfinished(format!(
                "the cluster does not know the container of {id} yet; try again in a moment"
            ))
        })?;
        Ok(Inside { agent: self.slave_id.clone(), container })
    }
}

impl Inside {
    fn below(&self, name: &str) -> Self {
        Self { agent: self.agent.clone(), container: json!({"value": name, "parent": self.container}) }
    }
}

impl Session {
    fn agent_call(&self, inside: &Inside) -> plenum_base::client::Call {
        self.call(Method::POST, &format!("/agent/{}/api/v1", encode(&inside.agent, false)))
    }

    async fn output(&self, inside: &Inside, call: &Value) -> Result<Output> {
        let request = self
            .agent_call(inside)
            .header(ACCEPT, "application/recordio")
            .header(MESSAGE_ACCEPT, "application/json")
            .json(call);
        let stream = self.send(request).await?.stream();
        Ok(Output { stream, decoder: Decoder::new(RECORD), url: self.url().to_owned() })
    }

    /// Starts a command, with a terminal of so many rows and columns if one is wanted. Gives its place and what it writes; it ends when
    /// that is dropped.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn exec(
        &self,
        inside: &Inside,
        argv: &[String],
        terminal: Option<(u16, u16)>,
    ) -> Result<(Inside, Output)> {
        let own = inside.below(&uuid::Uuid::new_v4().to_string());
        let command = json!({"shell": false, "value": argv.first(), "arguments": argv});
        let mut launch = json!({"container_id": own.container, "command": command});
        if let (Some((rows, columns)), Some(map)) = (terminal, launch.as_object_mut()) {
            let window = json!({"window_size": {"rows": rows, "columns": columns}});
            map.insert("container".to_owned(), json!({"type": "MESOS", "tty_info": window}));
        }
        let call =
            json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": launch});
        let output = self.output(inside, &call).await?;
        Ok((own, output))
    }

    /// What a task itself writes from now on.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn listen(&self, inside: &Inside) -> Result<Output> {
        let attach = json!({"container_id": inside.container});
        self.output(inside, &json!({"type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": attach}))
            .await
    }

    /// Carries everything that comes from `said` to a command; returns when that or the command has ended.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn say(&self, inside: &Inside, said: mpsc::Receiver<Said>) -> Result<()> {
        let first = record(&json!({"type": "CONTAINER_ID", "container_id": inside.container}));
        let request = self
            .agent_call(inside)
            .header(CONTENT_TYPE, "application/recordio")
            .header(MESSAGE_TYPE, "application/json")
            .body(CallBody::new(Saying { first: Some(first), rest: said }))
            .deadline(FAR);
        self.send(request).await.map(drop)
    }

    /// How a command ended whose output has ended; then it is forgotten.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn ended(&self, inside: &Inside) -> Result<Ended> {
        let ended = match self.end(inside).await {
            // An agent that was started again knows nothing of it: commands end with their agent.
            Err(error) if error.status() == Some(404) => return Err(broke()),
            ended => ended?,
        };
        let remove =
            json!({"type": "REMOVE_CONTAINER", "remove_container": {"container_id": inside.container}});
        // It would be forgotten with its task.
        let _forgotten = self.send(self.agent_call(inside).json(&remove)).await;
        Ok(ended)
    }

    /// Waits for the end of a container for as long as it takes; who is in between may give up earlier.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn end(&self, inside: &Inside) -> Result<Ended> {
        #[derive(Deserialize)]
        struct Answer {
            wait_container: Wait,
        }
        #[derive(Deserialize)]
        struct Wait {
            exit_status: Option<i64>,
        }
        let wait = json!({"type": "WAIT_CONTAINER", "wait_container": {"container_id": inside.container}});
        let reply = self.send(self.agent_call(inside).json(&wait).deadline(FAR)).await?;
        let answer: Answer = super::read(self.url(), reply).await?;
        Ok(Ended::from_wait(answer.wait_container.exit_status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_a_shells_codes() {
        for (status, want) in [(Some(0), 0), (Some(3 << 8), 3), (Some(9), 137), (Some(15), 143), (None, 1)] {
            assert_eq!(Ended::from_wait(status).code(), want, "{status:?}");
        }
    }

    #[test]
    fn only_a_running_task_has_an_inside() {
        let task = |state: &str, statuses: Value| -> ClusterTask {
            serde_json::from_value(json!({"id": "t", "state": state, "slave_id": "S", "statuses": statuses}))
                .unwrap()
        };
        let container = json!({"value": "c", "parent": {"value": "pod"}});
        let known = json!([{"state": "TASK_RUNNING", "timestamp": 1, "container_status": {"container_id": container}}]);
        let inside = task("TASK_RUNNING", known.clone()).inside().unwrap();
        assert_eq!((inside.agent.as_str(), &inside.container), ("S", &container));
        assert_eq!(inside.below("x").container, json!({"value": "x", "parent": container}));
        for (task, words) in [
            (task("TASK_FAILED", known), "it is failed"),
            (task("TASK_RUNNING", json!([{"state": "TASK_RUNNING", "timestamp": 1}])), "try again"),
        ] {
            let error = task.inside().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_said_is_as_mesos_reads_it() {
        let text = |said: Said| String::from_utf8(said.record().to_vec()).unwrap();
        assert_eq!(
            text(Said::Input(Bytes::from_static(b"hi"))),
            "147\n{\"attach_container_input\":{\"process_io\":{\"data\":{\"data\":\"aGk=\",\"type\":\"STDIN\"},\
             \"type\":\"DATA\"},\"type\":\"PROCESS_IO\"},\"type\":\"ATTACH_CONTAINER_INPUT\"}"
        );
        assert!(text(Said::Resized(4, 5)).contains(r#""window_size":{"columns":5,"rows":4}"#));
        assert!(text(Said::Heartbeat).contains("30000000000"));
    }
}

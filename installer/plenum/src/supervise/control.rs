//! The supervisor's own socket: one JSON request a line in, JSON lines out. Only the owner of the instance can open it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What is asked of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// One [`Report`].
    Status,
    /// A [`Report`] now and after each change, until the supervisor ends.
    Watch,
    /// Stop all roles, then end. Reports go on until then.
    Stop,
}

/// How the instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The instance's name.
    pub instance: String,
    /// Whether every role has been ready.
    pub up: bool,
    /// Set in the last report: why everything stopped. Empty where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The supervisor's process id.
    pub pid: u32,
    /// The roles in the order of their start.
    pub roles: Vec<RoleReport>,
}

/// How one role is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// Its name.
    pub role: String,
    /// Its condition: waiting, starting, running, restarting, stopping or stopped.
    pub condition: String,
    /// Its process id while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// How often it was restarted.
    pub restarts: u32,
    /// How its last process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Where it logs.
    pub log: String,
}

/// Reports as a client reads them.
pub struct Reports(BufReader<UnixStream>);

impl Reports {
    /// Asks the supervisor behind `socket`; `patience` bounds each wait for a line.
    pub fn ask(socket: &Path, request: Request, patience: Duration) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).context("no supervisor answers")?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_string(&request)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The next report; nothing once the supervisor has closed.
    pub fn next(&mut self) -> Result<Option<Report>> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).context("the supervisor does not answer")?;
        if read == 0 { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    }
}

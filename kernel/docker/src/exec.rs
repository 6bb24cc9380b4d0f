//! Commands inside a running container, by the engine: those that are waited for, and those that are talked to.

use crate::engine::EngineError;
use crate::inner::Inner;
use crate::spec::container_name;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures_util::{Stream, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use plenum_containers::session::{Hold, Input, Open, Output, Session, Size};
use plenum_containers::spec::check_strings;
use plenum_containers::{Command, Enter, Entered, ExitStatus, RuntimeError};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// Kept of the output of a command that is waited for.
const OUTPUT_MAX: usize = 64 * 1024;
/// Pieces of output that wait for a reader.
const WAITING: usize = 8;
/// Size of a piece of input.
const PIECE: usize = 32 * 1024;
/// For the engine to know how a command ended whose output has ended.
const SETTLE: Duration = Duration::from_secs(5);

/// What a command writes.
pub type Answer = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
/// What it reads.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A command that the engine runs.
struct Running {
    id: String,
    output: Answer,
    input: Writer,
}

async fn start(
    inner: &Inner,
    container: &str,
    command: &Command,
    env: &BTreeMap<String, String>,
    input: bool,
    terminal: bool,
) -> Result<Running, RuntimeError> {
    inner.running(container)?;
    check_strings(&command.argv(), env)?;
    let cmd = match command {
        Command::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Command::Argv(argv) => argv.clone(),
        // Refused above: there is nothing to run.
        Command::Hold => Vec::new(),
    };
    let options = CreateExecOptions {
        attach_stdin: Some(input),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(terminal),
        env: Some(env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(cmd),
        ..CreateExecOptions::default()
    };
    let name = container_name(container);
    let create = |docker: bollard::Docker| async move { docker.create_exec(&name, options).await };
    let made = match inner.engine.call("prepare a command", inner.config.call, create).await {
        Err(error) if matches!(error.status(), Some(404 | 409)) => {
            return Err(RuntimeError::Ended(container.to_owned()));
        }
        made => made?,
    };
    if terminal {
        return start_terminal(inner, made.id).await;
    }
    let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(PIECE) };
    let id = made.id.clone();
    let begin = |docker: bollard::Docker| async move { docker.start_exec(&id, Some(options)).await };
    match inner.engine.call("start a command", inner.config.call, begin).await? {
        StartExecResults::Attached { output, input } => Ok(Running { id: made.id, output, input }),
        StartExecResults::Detached => Err(RuntimeError::Engine("the Docker engine keeps the output".into())),
    }
}

async fn start_terminal(inner: &Inner, id: String) -> Result<Running, RuntimeError> {
    let what = "start a command with a terminal";
    let (socket, exec) = (inner.config.socket.clone(), id.clone());
    let begin = |docker: bollard::Docker| async move {
        let api = docker.client_version().to_string();
        let begun = crate::hijack::start_terminal(&socket, &api, &exec).await;
        begun.map_err(|err| bollard::errors::Error::IOError { err })
    };
    let (output, input) = inner.engine.call(what, inner.config.call, begin).await?;
    Ok(Running { id, output, input })
}

/// See [`plenum_containers::Runtime::enter`].
pub async fn enter(inner: &Arc<Inner>, id: &str, enter: Enter) -> Result<Entered, RuntimeError> {
    let until = tokio::time::Instant::now() + enter.deadline;
    let begin = start(inner, id, &enter.command, &enter.env, false, false);
    let Ok(begun) = tokio::time::timeout_at(until, begin).await else {
        return Ok(Entered { status: ExitStatus::Unknown, timed_out: true, output: Vec::new() });
    };
    let mut running = begun?;
    let mut output = Vec::new();
    let read = async {
        while let Some(item) = running.output.next().await {
            let bytes = item.map_err(|error| EngineError::sort("run a command", error))?.into_bytes();
            let room = OUTPUT_MAX.saturating_sub(output.len()).min(bytes.len());
            output.extend_from_slice(bytes.get(..room).unwrap_or_default());
        }
        Ok::<_, EngineError>(())
    };
    match tokio::time::timeout_at(until, read).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => {
            end(inner, &running.id).await;
            return Ok(Entered { status: ExitStatus::Unknown, timed_out: true, output });
        }
    }
    // Output can end before the command does.
    let settle = SETTLE.max(until.saturating_duration_since(tokio::time::Instant::now()));
    let ended = tokio::time::timeout(settle, ending(inner, &running.id)).await;
    match ended {
        Ok(status) => Ok(Entered { status: status?, timed_out: false, output }),
        Err(_) => {
            end(inner, &running.id).await;
            Ok(Entered { status: ExitStatus::Unknown, timed_out: true, output })
        }
    }
}

/// How a command ended; waits for it.
async fn ending(inner: &Inner, exec: &str) -> Result<ExitStatus, RuntimeError> {
    let mut pause = Duration::from_millis(5);
    loop {
        let ask = |docker: bollard::Docker| async move { docker.inspect_exec(exec).await };
        let found = inner.engine.call("describe a command", inner.config.call, ask).await?;
        if !found.running.unwrap_or(false)
            && let Some(code) = found.exit_code
        {
            return Ok(i32::try_from(code).map_or(ExitStatus::Unknown, ExitStatus::Code));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// The process of a command on the host; `None` if it has ended. The engine answers a start before there is a process,
/// so a command that has neither process nor end is about to begin.
async fn process(inner: &Inner, exec: &str) -> Option<i32> {
    let until = tokio::time::Instant::now() + SETTLE;
    loop {
        let ask = |docker: bollard::Docker| async move { docker.inspect_exec(exec).await };
        let found = inner.engine.call("describe a command", inner.config.call, ask).await.ok()?;
        let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        match (found.running.unwrap_or(false), pid) {
            (true, Some(pid)) => return Some(pid),
            (false, _) if found.exit_code.is_some() => return None,
            _ if tokio::time::Instant::now() > until => return None,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Kills a command with what it started. The engine has no call for it.
async fn end(inner: &Inner, exec: &str) {
    let Some(pid) = process(inner, exec).await else { return };
    let all = plenum_shim::proc::descendants(pid);
    signal_group(pid, Signal::SIGKILL);
    for one in all {
        let _gone = kill(Pid::from_raw(one), Signal::SIGKILL);
    }
}

/// Signals a command's process group, if it leads one.
fn signal_group(pid: i32, signal: Signal) {
    let who = Pid::from_raw(pid);
    let group = if getpgid(Some(who)) == Ok(who) { Pid::from_raw(-pid) } else { who };
    let _gone = kill(group, signal);
}

/// See [`plenum_containers::Runtime::open`].
pub async fn open(inner: &Arc<Inner>, id: &str, open: Open) -> Result<Session, RuntimeError> {
    let running = start(inner, id, &open.command, &open.env, true, open.terminal.is_some()).await?;
    let failed = |error| RuntimeError::Io { what: "making the pipe of a session".into(), error };
    let (sender, receiver) = pipe::pipe().map_err(failed)?;
    let (sizes, asked) = mpsc::channel(16);
    if let Some(size) = open.terminal {
        resize(inner, &running.id, size).await;
    }
    let (to, output) = mpsc::channel(WAITING);
    let (hold, signals) = Hold::new();
    let (told, exit) = oneshot::channel();
    let Running { id: exec, output: answer, input } = running;
    let feeding = tokio::spawn(feed(receiver, input));
    let work = Talk { inner: Arc::clone(inner), exec, signals, asked };
    tokio::spawn(async move {
        let status = work.run(answer, to).await;
        feeding.abort();
        let _nobody_waits = told.send(status);
    });
    Ok(Session { output, input: Input::passed(sender, open.terminal.map(|_| sizes)), exit, hold })
}

/// Hands on what is written until the writer closes.
pub async fn feed(mut from: pipe::Receiver, mut to: Writer) {
    let mut piece = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        if to.write_all(piece.get(..n).unwrap_or_default()).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _it_has_ended = to.shutdown().await;
}

async fn resize(inner: &Inner, exec: &str, size: Size) {
    let options = ResizeExecOptions { height: size.rows, width: size.columns };
    let call = |docker: bollard::Docker| async move { docker.resize_exec(exec, options).await };
    if let Err(error) = inner.engine.call("resize a terminal", inner.config.call, call).await {
        tracing::debug!(%error, "a terminal keeps its size");
    }
}

/// A command that is talked to.
struct Talk {
    inner: Arc<Inner>,
    exec: String,
    signals: mpsc::Receiver<i32>,
    asked: mpsc::Receiver<Size>,
}

impl Talk {
    /// Carries output until there is no more, or until the session is dropped: then the command is killed.
    async fn run(mut self, mut answer: Answer, to: mpsc::Sender<Output>) -> Result<ExitStatus, RuntimeError> {
        let mut sizes = true;
        let mut piece: Option<Output> = None;
        loop {
            tokio::select! {
                // While a piece waits for a reader no more is read.
                sent = to.reserve(), if piece.is_some() => {
                    if let (Ok(place), Some(piece)) = (sent, piece.take()) {
                        place.send(piece);
                    }
                }
                item = answer.next(), if piece.is_none() => match item {
                    Some(Ok(LogOutput::StdErr { message })) => piece = Some(Output::Stderr(message)),
                    Some(Ok(other)) => piece = Some(Output::Stdout(other.into_bytes())),
                    Some(Err(error)) => {
                        return Err(EngineError::sort("carry a command's output", error).into());
                    }
                    None => break,
                },
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.signal(signal).await,
                    None => {
                        end(&self.inner, &self.exec).await;
                        return Ok(ExitStatus::Unknown);
                    }
                },
                size = self.asked.recv(), if sizes => match size {
                    Some(size) => resize(&self.inner, &self.exec, size).await,
                    None => sizes = false,
                },
            }
        }
        drop(to);
        let status = tokio::select! {
            status = ending(&self.inner, &self.exec) => return status,
            () = dropped(&mut self.signals) => ExitStatus::Unknown,
        };
        end(&self.inner, &self.exec).await;
        Ok(status)
    }

    async fn signal(&self, number: i32) {
        if let (Ok(signal), Some(pid)) = (Signal::try_from(number), process(&self.inner, &self.exec).await) {
            signal_group(pid, signal);
        }
    }
}

/// Waits until the session is dropped.
async fn dropped(signals: &mut mpsc::Receiver<i32>) {
    while signals.recv().await.is_some() {}
}

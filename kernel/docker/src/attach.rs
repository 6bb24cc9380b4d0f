//! A task's own terminal and output, by the engine: what the container's first program writes from now on, and the way to what it reads.

use crate::exec::{Answer, Writer, feed};
use crate::hijack;
use crate::inner::Inner;
use crate::spec::container_name;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::query_parameters::{AttachContainerOptions, ResizeContainerTTYOptions};
use futures_util::StreamExt;
use plenum_containers::RuntimeError;
use plenum_containers::session::{Input, Output, Size};
use std::sync::Arc;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Pieces of output that wait for a reader before no more is taken from the engine.
const WAITING: usize = 8;
/// Sizes that wait for the engine; one more is dropped.
const SIZES: usize = 16;

/// What a container was made with.
struct Ends {
    terminal: bool,
    input: bool,
}

async fn ends(inner: &Inner, id: &str) -> Result<Ends, RuntimeError> {
    inner.running(id)?;
    let name = container_name(id);
    let ask = |docker: bollard::Docker| async move { docker.inspect_container(&name, None).await };
    let found = match inner.engine.call("describe a container", inner.config.call, ask).await {
        Err(error) if error.status() == Some(404) => return Err(RuntimeError::Ended(id.to_owned())),
        found => found?,
    };
    let config = found.config.unwrap_or_default();
    Ok(Ends { terminal: config.tty.unwrap_or(false), input: config.open_stdin.unwrap_or(false) })
}

/// See [`plenum_containers::Runtime::listen`].
pub async fn listen(inner: &Arc<Inner>, id: &str) -> Result<mpsc::Receiver<Output>, RuntimeError> {
    let ends = ends(inner, id).await?;
    let mut answer = if ends.terminal { raw(inner, id, false).await?.0 } else { framed(inner, id).await? };
    let (to, output) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                item = answer.next() => item,
                () = to.closed() => return,
            };
            let piece = match item {
                Some(Ok(LogOutput::StdErr { message })) => Output::Stderr(message),
                Some(Ok(other)) => Output::Stdout(other.into_bytes()),
                // The engine went away, or the container did: whoever listens asks again.
                Some(Err(_)) | None => return,
            };
            if to.send(piece).await.is_err() {
                return;
            }
        }
    });
    Ok(output)
}

/// See [`plenum_containers::Runtime::terminal`].
pub async fn terminal(inner: &Arc<Inner>, id: &str) -> Result<Option<Input>, RuntimeError> {
    let ends = ends(inner, id).await?;
    if !(ends.terminal && ends.input) {
        return Ok(None);
    }
    let (_, input) = raw(inner, id, true).await?;
    let failed = |error| RuntimeError::Io { what: "making the pipe of a terminal".into(), error };
    let (sender, receiver) = pipe::pipe().map_err(failed)?;
    let (sizes, mut asked) = mpsc::channel(SIZES);
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    tokio::spawn(async move {
        // Both end when the input is dropped: it holds the other ends.
        let resizing = async {
            while let Some(size) = asked.recv().await {
                resize(&inner, &id, size).await;
            }
        };
        tokio::join!(feed(receiver, input), resizing);
    });
    Ok(Some(Input::passed(sender, Some(sizes))))
}

/// A connection that is the terminal: to what it shows, or to its keys.
async fn raw(inner: &Inner, id: &str, keys: bool) -> Result<(Answer, Writer), RuntimeError> {
    let (socket, name) = (inner.config.socket.clone(), container_name(id));
    let begin = |docker: bollard::Docker| async move {
        let api = docker.client_version().to_string();
        let ends = if keys { "stdin=1" } else { "stdout=1&stderr=1" };
        let at = format!("/v{api}/containers/{name}/attach?stream=1&{ends}");
        let begun = hijack::begin(&socket, &at, "").await;
        begun.map_err(|err| bollard::errors::Error::IOError { err })
    };
    Ok(inner.engine.call("attach to a terminal", inner.config.call, begin).await?)
}

async fn framed(inner: &Inner, id: &str) -> Result<Answer, RuntimeError> {
    let name = container_name(id);
    let options = AttachContainerOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..AttachContainerOptions::default()
    };
    let begin = |docker: bollard::Docker| async move { docker.attach_container(&name, Some(options)).await };
    let AttachContainerResults { output, .. } =
        inner.engine.call("attach to a container", inner.config.call, begin).await?;
    Ok(output)
}

async fn resize(inner: &Inner, id: &str, size: Size) {
    let name = container_name(id);
    let options = ResizeContainerTTYOptions { h: size.rows.into(), w: size.columns.into() };
    let call = |docker: bollard::Docker| async move { docker.resize_container_tty(&name, options).await };
    if let Err(error) = inner.engine.call("resize a terminal", inner.config.call, call).await {
        tracing::debug!(%error, "a terminal keeps its size");
    }
}

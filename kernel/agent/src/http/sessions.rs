//! `LAUNCH_NESTED_CONTAINER_SESSION`, a command that lives as long as the connection that reads it, and `LAUNCH_NESTED_CONTAINER`, one
//! that writes into its parent's sandbox.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use http::{HeaderMap, StatusCode};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use plenum_api::agent::ProcessIo;
use plenum_api::agent::call::LaunchNestedContainerSession;
use plenum_api::agent::process_io::control::{Heartbeat, Type as ControlType};
use plenum_api::agent::process_io::data::Type as DataType;
use plenum_api::agent::process_io::{Control, Data, Type as IoType};
use plenum_api::mesos::{CommandInfo, ContainerId, ContainerInfo, DurationInfo};
use plenum_api::{codec, recordio};
use plenum_containers::Output;
use tokio::sync::mpsc;

use super::nested::{bad, check_id, host_of, not_started, to_open};
use super::recordio::{Form, form};
use super::{Http, PATIENCE};
use crate::shell::sessions::{Feed, key};

/// How often a stream says that it is alive, where nothing else is said.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Where the output of nested containers lies in a sandbox.
const FOLDER: &str = "containers";

/// Something that gives pieces of output.
pub(super) enum Source {
    /// The one whose end is the command's.
    Feed(Feed),
    /// One that listens.
    Listener(mpsc::Receiver<Output>),
}

impl Source {
    async fn next(&mut self) -> Option<Output> {
        match self {
            Self::Feed(feed) => feed.next().await,
            Self::Listener(listener) => listener.recv().await,
        }
    }
}

/// `LAUNCH_NESTED_CONTAINER_SESSION`.
pub(super) async fn session(
    http: &Http,
    headers: &HeaderMap,
    launch: LaunchNestedContainerSession,
) -> Result<Response, Response> {
    let form = form(headers)?;
    check_id(&launch.container_id, true)?;
    let host = host_of(http, &launch.container_id).await?;
    host.check_user(launch.command.as_ref())?;
    let open = to_open(launch.command, launch.container)?;
    let opened = http.sessions.open(&launch.container_id, &host.container, open).await;
    let (_, feed) = opened.map_err(|error| not_started(&error))?;
    tracing::info!(session = key(&launch.container_id), "a session has begun");
    Ok(form.answer(records(form, Source::Feed(feed))))
}

/// Output as records, with a heartbeat where it is quiet. Nothing is read ahead: a client that does not read holds the command up.
pub(super) fn records(form: Form, source: Source) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold(source, move |mut source| async move {
        let said = match tokio::time::timeout(HEARTBEAT, source.next()).await {
            Ok(None) => return None,
            Ok(Some(piece)) => data(piece),
            Err(_) => heartbeat(),
        };
        let record = codec::encode(form.encoding, &said);
        Some((Ok(recordio::encode(&record)), source))
    })
}

fn data(piece: Output) -> ProcessIo {
    let (kind, bytes) = match piece {
        Output::Stdout(bytes) => (DataType::Stdout, bytes),
        Output::Stderr(bytes) => (DataType::Stderr, bytes),
    };
    let mut data = Data { data: Some(bytes), ..Default::default() };
    data.set_type(kind);
    let mut said = ProcessIo { data: Some(data), ..Default::default() };
    said.set_type(IoType::Data);
    said
}

fn heartbeat() -> ProcessIo {
    let nanoseconds = i64::try_from(HEARTBEAT.as_nanos()).unwrap_or(i64::MAX);
    let mut control = Control {
        heartbeat: Some(Heartbeat { interval: Some(DurationInfo { nanoseconds }) }),
        ..Default::default()
    };
    control.set_type(ControlType::Heartbeat);
    let mut said = ProcessIo { control: Some(control), ..Default::default() };
    said.set_type(IoType::Control);
    said
}

/// `LAUNCH_NESTED_CONTAINER`, and `LAUNCH_CONTAINER` with a parent.
pub(super) async fn launch(
    http: &Http,
    id: ContainerId,
    command: Option<CommandInfo>,
    container: Option<ContainerInfo>,
) -> Result<Response, Response> {
    check_id(&id, true)?;
    let host = host_of(http, &id).await?;
    host.check_user(command.as_ref())?;
    let open = to_open(command, container)?;
    let terminal = open.terminal.is_some();
    if http.sessions.find(&id).is_some() {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let (directory, name) = (host.directory.clone(), id.value.clone());
    let made = tokio::task::spawn_blocking(move || files(Path::new(&directory), &name));
    let files = match tokio::time::timeout(PATIENCE, made).await {
        Ok(Ok(Ok(files))) => files,
        Ok(Ok(Err(error))) => return Err(bad(&format!("Failed to create the nested sandbox: {error}"))),
        _ => return Err(bad("Failed to create the nested sandbox: the disk does not answer")),
    };
    let opened = http.sessions.open(&id, &host.container, open).await;
    let (nested, feed) = opened.map_err(|error| not_started(&error))?;
    if !terminal {
        // As in Mesos there is nothing to read where nobody can be attached.
        let _is_at_its_end = nested.input.lock().await.close().await;
    }
    tracing::info!(container = key(&id), "a nested container has begun");
    tokio::spawn(keep(feed, files));
    Ok(StatusCode::OK.into_response())
}

/// Writes what it says until its end. Where the disk takes no more, it is read and thrown away: it must not hang for that.
async fn keep(mut feed: Feed, files: [File; 2]) {
    let mut files = files.map(tokio::fs::File::from_std);
    let mut told = false;
    while let Some(piece) = feed.next().await {
        let [stdout, stderr] = &mut files;
        let (file, bytes) = match piece {
            Output::Stdout(bytes) => (stdout, bytes),
            Output::Stderr(bytes) => (stderr, bytes),
        };
        let written = write(file, &bytes).await;
        if let Err(error) = written
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%error, "the output of a nested container cannot be written");
        }
    }
}

async fn write(file: &mut tokio::fs::File, bytes: &[u8]) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    file.write_all(bytes).await?;
    // Whoever reads the file wants to see it; it goes no further than the kernel.
    file.flush().await
}

/// `containers/<name>/stdout` and `stderr` below a sandbox. The sandbox is its task's: no link in it is followed, and what is made
/// belongs to whom the sandbox belongs to.
fn files(sandbox: &Path, name: &str) -> std::io::Result<[File; 2]> {
    let folder = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let sandbox: OwnedFd = nix::fcntl::open(sandbox, folder, Mode::empty())?;
    let stat = fstat(sandbox.as_fd())?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let below = |parent: &OwnedFd, name: &str| -> std::io::Result<OwnedFd> {
        match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = openat(parent, name, folder, Mode::empty())?;
        fchown(&made, Some(owner.0), Some(owner.1))?;
        Ok(made)
    };
    let own = below(&below(&sandbox, FOLDER)?, name)?;
    let file = |name: &str| -> std::io::Result<File> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_APPEND
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let made = openat(&own, name, flags, Mode::from_bits_truncate(0o644))?;
        fchown(&made, Some(owner.0), Some(owner.1))?;
        let mut file = File::from(made);
        file.flush()?;
        Ok(file)
    };
    Ok([file("stdout")?, file("stderr")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_lies_in_the_sandbox_and_links_lead_nowhere() {
        let sandbox = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let [mut out, _] = files(sandbox.path(), "one").unwrap();
        out.write_all(b"hello").unwrap();
        assert_eq!(std::fs::read(sandbox.path().join("containers/one/stdout")).unwrap(), b"hello");
        assert!(files(sandbox.path(), "one").is_err(), "what is there is not written over");
        std::os::unix::fs::symlink(outside.path(), sandbox.path().join("containers/two")).unwrap();
        assert!(files(sandbox.path(), "two").is_err());
        std::fs::remove_dir_all(sandbox.path().join("containers")).unwrap();
        std::os::unix::fs::symlink(outside.path(), sandbox.path().join("containers")).unwrap();
        assert!(files(sandbox.path(), "three").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn records_are_as_mesos_writes_them() {
        let json = |said: &ProcessIo| {
            String::from_utf8(codec::encode(codec::Encoding::Json, said).to_vec()).unwrap()
        };
        assert_eq!(
            json(&data(Output::Stderr(Bytes::from_static(b"hi")))),
            r#"{"type":"DATA","data":{"type":"STDERR","data":"aGk="}}"#
        );
        assert_eq!(
            json(&heartbeat()),
            r#"{"type":"CONTROL","control":{"type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":30000000000}}}}"#
        );
    }
}

//! A task's own terminal and output: what it writes goes to the files of its sandbox, and is read there again; what it reads comes through a
//! descriptor of its terminal, which its supervisor hands over. Nothing of it costs anything while nobody is attached.

use super::connection::{self, Inbox};
use super::session::receive;
use super::{Inner, Reply, Request};
use crate::runtime::RuntimeError;
use crate::session::{Input, Output, Way};
use bytes::Bytes;
use plenum_shim::files::path;
use plenum_shim::launch::LAUNCH;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Between two looks at files that say nothing new.
const LOOK: Duration = Duration::from_millis(20);
/// Size of a piece.
const PIECE: usize = 32 * 1024;
/// Pieces that wait for a reader before no more is read.
const WAITING: usize = 8;
/// For the supervisor to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of a task's output, and whether it has a terminal.
struct Files {
    stdout: PathBuf,
    stderr: Option<PathBuf>,
    terminal: bool,
}

fn files(run_dir: &Path) -> Result<Files, RuntimeError> {
    let file = run_dir.join(LAUNCH);
    let read =
        connection::read_file(&file).map_err(RuntimeError::io(format!("reading {}", file.display())))?;
    let (launch, terminal) = match read {
        Request::Launch(launch) => (*launch, false),
        Request::Contain(contain) => (contain.launch, contain.more.terminal.is_some()),
        _ => return Err(RuntimeError::Refused(format!("{} is no launch description", file.display()))),
    };
    let stderr = (!terminal && launch.stderr != launch.stdout).then(|| path(&launch.stderr).to_owned());
    Ok(Files { stdout: path(&launch.stdout).to_owned(), stderr, terminal })
}

/// See [`crate::Runtime::listen`].
pub async fn listen(inner: &Arc<Inner>, id: &str) -> Result<mpsc::Receiver<Output>, RuntimeError> {
    let (handle, _) = inner.running(id)?;
    let dir = inner.dir(id);
    let open = move || {
        let files = files(&dir)?;
        let out = Follower::at_end(&files.stdout)?;
        let err = files.stderr.map(|file| Follower::at_end(&file)).transpose()?;
        Ok((out, err))
    };
    let opened: Result<_, RuntimeError> =
        tokio::task::spawn_blocking(open).await.map_err(|_| super::helper::shutdown())?;
    let (mut out, mut err) = opened?;
    let (to, output) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut over = false;
        loop {
            let mut quiet = true;
            for (follower, kind) in
                [(Some(&mut out), Output::Stdout as fn(Bytes) -> Output), (err.as_mut(), Output::Stderr)]
            {
                let Some(piece) = follower.and_then(Follower::next) else { continue };
                quiet = false;
                if to.send(kind(piece)).await.is_err() {
                    return;
                }
            }
            if !quiet {
                continue;
            }
            if over {
                return;
            }
            // All that was written is in the files when the end is told.
            tokio::select! {
                _ = handle.wait() => over = true,
                () = tokio::time::sleep(LOOK) => {}
                () = to.closed() => return,
            }
        }
    });
    Ok(output)
}

/// See [`crate::Runtime::terminal`].
pub async fn terminal(inner: &Arc<Inner>, id: &str) -> Result<Option<Input>, RuntimeError> {
    inner.running(id)?;
    let dir = inner.dir(id);
    if !files(&dir)?.terminal {
        return Ok(None);
    }
    let ask = async {
        let lost = || RuntimeError::io(format!("asking the supervisor of container {id}"));
        let mut stream = connection::dial(&dir).await.map_err(lost())?;
        let mut inbox = Inbox::default();
        connection::write(&mut stream, &connection::hello()).await.map_err(lost())?;
        inbox.next(&mut stream).await.map_err(lost())?;
        connection::write(&mut stream, &Request::Terminal).await.map_err(lost())?;
        loop {
            stream.readable().await.map_err(lost())?;
            let (ends, bytes) = match stream.try_io(tokio::io::Interest::READABLE, || receive(&stream)) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                received => received.map_err(lost())?,
            };
            inbox.feed(&bytes);
            return match (inbox.next(&mut stream).await.map_err(lost())?, ends.into_iter().next()) {
                (Reply::Opened, Some(end)) => Ok(end),
                (Reply::Refused { reason }, _) => Err(RuntimeError::Refused(reason)),
                _ => Err(RuntimeError::Refused("the supervisor's answer makes no sense".into())),
            };
        }
    };
    let late = |_| RuntimeError::Deadline(format!("the terminal of container {id}"));
    let end = tokio::time::timeout(PATIENCE, ask).await.map_err(late)??;
    // SAFETY: an `OwnedFd` names the same open file until it is dropped, and nothing takes it out before.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register(end) };
    let terminal = registered.map_err(|error| RuntimeError::io("taking over a terminal")(error.into()))?;
    Ok(Some(Input(Way::Terminal(Arc::new(terminal)))))
}

/// Reads a file that grows, is put aside when it is full, and begins anew.
struct Follower {
    path: PathBuf,
    file: File,
    at: u64,
}

impl Follower {
    fn at_end(path: &Path) -> Result<Self, RuntimeError> {
        let failed = || RuntimeError::io(format!("reading {}", path.display()));
        let file = open(path).map_err(failed())?;
        let at = file.metadata().map_err(failed())?.len();
        Ok(Self { path: path.to_owned(), file, at })
    }

    /// What is new, if anything is.
    fn next(&mut self) -> Option<Bytes> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = self.file.read_at(&mut piece, self.at).unwrap_or(0);
            if read > 0 {
                self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(0));
                piece.truncate(read);
                return Some(piece.into());
            }
            let own = self.file.metadata().ok()?;
            if own.len() < self.at {
                // It was shortened by the task itself.
                self.at = own.len();
            }
            // Another file has the name: this one is full and read to its end.
            let named = std::fs::symlink_metadata(&self.path).ok()?;
            if (named.dev(), named.ino()) == (own.dev(), own.ino()) || !named.is_file() {
                return None;
            }
            self.file = open(&self.path).ok()?;
            self.at = 0;
        }
    }
}

/// The sandbox is the task's: what has the file's name there may be anything.
fn open(path: &Path) -> std::io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_followed_over_its_successors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        std::fs::write(&path, "before").unwrap();
        let mut follower = Follower::at_end(&path).unwrap();
        let mut read = || {
            let mut all = Vec::new();
            while let Some(piece) = follower.next() {
                all.extend_from_slice(&piece);
            }
            String::from_utf8(all).unwrap()
        };
        let append = |text: &str| {
            File::options().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap()
        };
        assert_eq!(read(), "");
        append("one");
        assert_eq!(read(), "one");
        append("two");
        std::fs::rename(&path, dir.path().join("stdout.1")).unwrap();
        std::fs::write(&path, "three").unwrap();
        assert_eq!(read(), "twothree");
        File::create(&path).unwrap();
        assert_eq!(read(), "");
        append("four");
        assert_eq!(read(), "four");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read(), "");
    }
}

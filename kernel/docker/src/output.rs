//! The two files of a container's output in its sandbox. The sandbox is the task's: what lies at their names is not trusted.

use crate::journal::Journal;
use crate::record::{Position, Record, Records, Written};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A note of how far it is, at the latest after so many bytes ...
const NOTE_BYTES: u64 = 1 << 20;
/// ... or this time.
const NOTE_EVERY: Duration = Duration::from_millis(500);

/// The most that is compared with what the engine says after a restart, bytes.
const COMPARED: u64 = 64 << 20;

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Out,
    /// Standard error.
    Err,
}

#[derive(Debug)]
struct Half {
    path: PathBuf,
    file: Option<File>,
    journal: Journal,
}

impl Half {
    fn open(path: PathBuf, written: Written) -> std::io::Result<Self> {
        let (file, len) = open(&path)?;
        let mut beyond = Vec::new();
        if written == Written::default() && len > COMPARED {
            // The note is lost, and there is too much to compare: what is older than the file's last change is in it.
            let changed = file.metadata()?;
            let at = changed.mtime().saturating_mul(1_000_000_000).saturating_add(changed.mtime_nsec());
            let journal = Journal::resume(Written { at, same: u32::MAX, len }, beyond);
            return Ok(Self { path, file: Some(file), journal });
        }
        if len > written.len {
            // Where there is a note it is never further behind than a part of this.
            let mut reader = File::open(&path)?;
            reader.seek(SeekFrom::Start(written.len))?;
            reader.take(COMPARED).read_to_end(&mut beyond)?;
        }
        Ok(Self { path, file: Some(file), journal: Journal::resume(written, beyond) })
    }

    fn write(&mut self, at: i64, text: &[u8]) -> std::io::Result<u64> {
        let left = self.journal.take(at, text);
        if left.is_empty() {
            return Ok(0);
        }
        if self.file.is_none() {
            self.file = Some(open(&self.path)?.0);
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        file.write_all(left)?;
        Ok(u64::try_from(left.len()).unwrap_or(0))
    }
}

/// Opens a file for appending, and says how long it is. Links and pipes that a task put there are replaced.
fn open(path: &std::path::Path) -> std::io::Result<(File, u64)> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let attempt = || OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(flags).open(path);
    let plain = |file: File| {
        let found = file.metadata()?;
        Ok::<_, std::io::Error>(found.is_file().then_some((file, found.len())))
    };
    if let Ok(file) = attempt()
        && let Some(opened) = plain(file)?
    {
        return Ok(opened);
    }
    std::fs::remove_file(path)?;
    plain(attempt()?)?.ok_or_else(|| std::io::Error::other("not a file"))
}

/// Both files, and how far they are.
#[derive(Debug)]
pub struct Output {
    id: String,
    records: Records,
    out: Half,
    err: Half,
    unnoted: u64,
    noted: Instant,
}

impl Output {
    /// Opens them and finds out what is written.
    pub fn open(record: &Record, records: &Records) -> std::io::Result<Self> {
        let position = records.position(&record.id);
        let half = |name: &str, written| Half::open(record.sandbox.join(name), written);
        Ok(Self {
            id: record.id.clone(),
            records: records.clone(),
            out: half(&record.stdout, position.out)?,
            err: half(&record.stderr, position.err)?,
            unnoted: 0,
            noted: Instant::now(),
        })
    }

    /// The engine is asked anew: from this second on.
    pub fn again(&mut self) -> i32 {
        self.out.journal.again();
        self.err.journal.again();
        // The two streams are not in order with each other, and the engine counts in seconds.
        let last = self.out.journal.written().at.max(self.err.journal.written().at);
        i32::try_from((last / 1_000_000_000).saturating_sub(5).max(0)).unwrap_or(0)
    }

    /// Writes entries.
    pub fn write(&mut self, entries: &[(Stream, i64, bytes::Bytes)]) -> std::io::Result<()> {
        for (stream, at, text) in entries {
            let half = match stream {
                Stream::Out => &mut self.out,
                Stream::Err => &mut self.err,
            };
            self.unnoted = self.unnoted.saturating_add(half.write(*at, text)?);
        }
        if self.unnoted >= NOTE_BYTES || (self.unnoted > 0 && self.noted.elapsed() >= NOTE_EVERY) {
            self.note();
        }
        Ok(())
    }

    /// Notes how far it is. A note that fails costs a comparison after a restart, no more.
    pub fn note(&mut self) {
        let position = Position { out: self.out.journal.written(), err: self.err.journal.written() };
        (self.unnoted, self.noted) = (0, Instant::now());
        if let Err(error) = self.records.write_position(&self.id, &position) {
            tracing::debug!(container = self.id, %error, "the position of output cannot be noted");
        }
    }

    /// Whether something is written that is not noted.
    #[must_use]
    pub fn is_unnoted(&self) -> bool {
        self.unnoted > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_puts_in_place_of_its_output_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("secret"), "kept").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("stdout")).unwrap();
        nix::unistd::mkfifo(&at("stderr"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let record = Record {
            id: "c".into(),
            sandbox: folder.path().to_owned(),
            stdout: "stdout".into(),
            stderr: "stderr".into(),
            ..blank()
        };
        let records = Records(at("run"));
        records.write(&record).unwrap();
        let mut output = Output::open(&record, &records).unwrap();
        let entry = |stream, at, text: &'static str| (stream, at, bytes::Bytes::from_static(text.as_bytes()));
        output.write(&[entry(Stream::Out, 1, "a\n"), entry(Stream::Err, 2, "b\n")]).unwrap();
        output.note();
        assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(at("stdout")).unwrap(), "a\n");
        // Another life: what is there is not written again.
        let mut output = Output::open(&record, &records).unwrap();
        output.again();
        output.write(&[entry(Stream::Out, 1, "a\n"), entry(Stream::Err, 2, "b\n")]).unwrap();
        output.write(&[entry(Stream::Err, 2, "c\n")]).unwrap();
        assert_eq!(std::fs::read_to_string(at("stdout")).unwrap(), "a\n");
        assert_eq!(std::fs::read_to_string(at("stderr")).unwrap(), "b\nc\n");
        // A note that is lost: the whole file is compared.
        std::fs::remove_file(at("run/c/output.json")).unwrap();
        let mut output = Output::open(&record, &records).unwrap();
        let all = [entry(Stream::Err, 2, "b\n"), entry(Stream::Err, 2, "c\n"), entry(Stream::Err, 3, "d\n")];
        output.write(&all).unwrap();
        assert_eq!(std::fs::read_to_string(at("stderr")).unwrap(), "b\nc\nd\n");
    }

    #[test]
    fn a_large_file_without_a_note_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        // A file with a hole costs nothing.
        File::create(&path).unwrap().set_len(COMPARED + 1).unwrap();
        let mut half = Half::open(path.clone(), Written::default()).unwrap();
        assert_eq!(half.write(1_000_000_000, b"long ago\n").unwrap(), 0);
        assert_eq!(half.write(i64::MAX, b"new\n").unwrap(), 4);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), COMPARED + 5);
    }

    fn blank() -> Record {
        serde_json::from_str(r#"{"id":"","sandbox":"","stdout":"","stderr":""}"#).unwrap()
    }
}

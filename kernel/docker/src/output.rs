//! The two files of a container's output in its sandbox. The sandbox is the task's: what lies at their names is not trusted.

use crate::journal::Journal;
use crate::record::{Position, Record, Records, Written};
use plenum_containers::LogBudget;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

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
    fn open(path: PathBuf, mut written: Written) -> std::io::Result<Self> {
        let (file, len) = open(&path)?;
        let before = || std::fs::symlink_metadata(numbered(&path, 1)).map_or(0, |found| found.len());
        if len < written.len && before() == written.len {
            // The agent died between renaming the file, which was noted to its end, and noting that.
            written.len = len;
        }
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

    /// Whether an entry is new and does not fit in the file any more.
    fn is_full(&mut self, at: i64, text: &[u8], file_bytes: u64) -> bool {
        let more = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let fits = |len: u64| len == 0 || len.saturating_add(more) <= file_bytes;
        if !self.journal.is_new(at) || fits(self.journal.written().len) {
            return false;
        }
        // The task may have shortened the file, as one does to files that grow.
        let len = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len());
        if fits(len) {
            self.journal.shortened(len);
        }
        !fits(len)
    }

    /// Puts the file aside as the newest of those that are kept. What cannot be put aside is lost: its room is needed.
    fn rotate(&mut self, files: u32) {
        let last = files.saturating_sub(1);
        for number in (1..last).rev() {
            let _none = std::fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        let aside = if last > 0 { std::fs::rename(&self.path, numbered(&self.path, 1)) } else { Ok(()) };
        if last == 0 || aside.is_err() {
            let _gone = std::fs::remove_file(&self.path);
        }
        self.file = None;
        self.journal.shortened(0);
    }
}

/// `stdout.1` and so on.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
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
    budget: Option<LogBudget>,
    out: Half,
    err: Half,
    unnoted: u64,
    noted: Instant,
}

impl Output {
    /// Opens them and finds out what is written.
    pub fn open(record: &Record, records: &Records, budget: Option<LogBudget>) -> std::io::Result<Self> {
        let position = records.position(&record.id);
        let half = |name: &str, written| Half::open(record.sandbox.join(name), written);
        Ok(Self {
            id: record.id.clone(),
            records: records.clone(),
            budget,
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

    /// Writes entries. False if the engine has to be asked anew, because it repeats itself.
    pub fn write(&mut self, entries: &[(Stream, i64, bytes::Bytes)]) -> std::io::Result<bool> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        for (stream, at, text) in entries {
            if self.half(*stream).journal.repeats(*at, now) {
                return Ok(false);
            }
            if let Some(budget) = self.budget
                && self.half(*stream).is_full(*at, text, budget.file_bytes)
            {
                // Noted before and after: a note never speaks of bytes of two files.
                self.note();
                self.half(*stream).rotate(budget.files);
                self.note();
            }
            let written = self.half(*stream).write(*at, text)?;
            self.unnoted = self.unnoted.saturating_add(written);
        }
        if self.unnoted >= NOTE_BYTES || (self.unnoted > 0 && self.noted.elapsed() >= NOTE_EVERY) {
            self.note();
        }
        Ok(true)
    }

    fn half(&mut self, stream: Stream) -> &mut Half {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
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
        let mut output = Output::open(&record, &records, None).unwrap();
        let entry = |stream, at, text: &'static str| (stream, at, bytes::Bytes::from_static(text.as_bytes()));
        output.write(&[entry(Stream::Out, 1, "a\n"), entry(Stream::Err, 2, "b\n")]).unwrap();
        output.note();
        assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(at("stdout")).unwrap(), "a\n");
        // Another life: what is there is not written again.
        let mut output = Output::open(&record, &records, None).unwrap();
        output.again();
        output.write(&[entry(Stream::Out, 1, "a\n"), entry(Stream::Err, 2, "b\n")]).unwrap();
        output.write(&[entry(Stream::Err, 2, "c\n")]).unwrap();
        assert_eq!(std::fs::read_to_string(at("stdout")).unwrap(), "a\n");
        assert_eq!(std::fs::read_to_string(at("stderr")).unwrap(), "b\nc\n");
        // A note that is lost: the whole file is compared.
        std::fs::remove_file(at("run/c/output.json")).unwrap();
        let mut output = Output::open(&record, &records, None).unwrap();
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

    #[test]
    fn files_are_rotated_and_nothing_is_lost_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record {
            id: "c".into(),
            sandbox: folder.path().to_owned(),
            stdout: "stdout".into(),
            stderr: "stderr".into(),
            ..blank()
        };
        let records = Records(folder.path().join("run"));
        records.write(&record).unwrap();
        let budget = Some(LogBudget { file_bytes: 100, files: 3 });
        let entry = |number: i64| {
            let text = format!("entry {number:03}\n");
            (Stream::Out, number / 2, bytes::Bytes::from(text))
        };
        // Every few entries the agent dies, having noted little, and is told the last ones again.
        for first in (0..60).step_by(7) {
            let mut output = Output::open(&record, &records, budget).unwrap();
            output.again();
            let all: Vec<_> = (0..first + 7).map(entry).collect();
            output.write(&all).unwrap();
            if first % 2 == 0 {
                output.note();
            }
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let kept = format!("{}{}{}", read("stdout.2"), read("stdout.1"), read("stdout"));
        let said: String = (0..63).map(|number| format!("entry {number:03}\n")).collect();
        assert!(said.ends_with(&kept) && kept.len() >= 200, "{kept}");
        assert_eq!((read("stdout.1").len(), read("stdout.2").len()), (100, 100));
        assert!(!folder.path().join("stdout.3").exists());
        // It died between the renaming and the note of it.
        let mut output = Output::open(&record, &records, budget).unwrap();
        output.note();
        std::fs::rename(folder.path().join("stdout"), folder.path().join("stdout.1")).unwrap();
        let mut output = Output::open(&record, &records, budget).unwrap();
        output.again();
        output.write(&(0..64).map(entry).collect::<Vec<_>>()).unwrap();
        assert_eq!(read("stdout"), "entry 063\n");
        // Something that cannot be moved away is in the way, and the task shortens its file.
        std::fs::remove_file(folder.path().join("stdout.1")).unwrap();
        std::fs::create_dir_all(folder.path().join("stdout.1/x")).unwrap();
        std::fs::create_dir_all(folder.path().join("stdout.2.d")).unwrap();
        std::fs::remove_file(folder.path().join("stdout.2")).unwrap();
        std::fs::create_dir_all(folder.path().join("stdout.2/x")).unwrap();
        output.again();
        output.write(&(0..75).map(entry).collect::<Vec<_>>()).unwrap();
        assert_eq!(read("stdout"), "entry 073\nentry 074\n");
        std::fs::write(folder.path().join("stdout"), "").unwrap();
        output.write(&(75..84).map(entry).collect::<Vec<_>>()).unwrap();
        assert_eq!(read("stdout").lines().count(), 9, "the whole budget again");
    }

    fn blank() -> Record {
        serde_json::from_str(r#"{"id":"","sandbox":"","stdout":"","stderr":""}"#).unwrap()
    }
}

//! How a process logs: to standard error, filtered, as lines for people, JSON, or for the journal where that is what standard error is.

use std::io::{self, Write};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Compact,
    /// One JSON object a line.
    Json,
}

/// What is logged and how. Logs go to standard error.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// The look of a line.
    pub format: LogFormat,
    /// A filter as `tracing_subscriber::EnvFilter` reads it, such as `info` or `info,plenum_master=debug`.
    pub filter: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: LogFormat::Compact, filter: "info".to_owned() }
    }
}

/// Makes the writer of one event: for the journal, each of its lines begins with the event's priority.
#[derive(Debug, Clone, Copy)]
struct Lines {
    journal: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LogWriter<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        LogWriter { to: io::stderr(), priority: None }
    }

    fn make_writer_for(&'a self, event: &tracing::Metadata<'_>) -> Self::Writer {
        LogWriter { to: io::stderr(), priority: self.journal.then(|| priority(*event.level())) }
    }
}

/// The number that syslog and the journal give a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Standard error, where a line that cannot be written (its disk is full) is lost and nothing else: tracing would go on to print that, and
/// printing panics where standard error fails.
struct LogWriter<W> {
    to: W,
    priority: Option<u8>,
}

impl<W: Write> Write for LogWriter<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // An event comes as one text, and leaves as one.
        let written = match self.priority {
            None => self.to.write(text),
            Some(priority) => self.to.write_all(&prefixed(priority, text)).map(|()| text.len()),
        };
        Ok(written.unwrap_or(text.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.to.flush();
        Ok(())
    }
}

fn prefixed(priority: u8, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        out.extend_from_slice(format!("<{priority}>").as_bytes());
        out.extend_from_slice(line);
    }
    out
}

/// Whether standard error is the journal: `JOURNAL_STREAM` then names its device and inode.
fn to_journal() -> bool {
    use std::os::fd::AsFd;
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stat = nix::sys::stat::fstat(std::io::stderr().as_fd());
    stat.is_ok_and(|stat| is_stream(&named, stat.st_dev, stat.st_ino))
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let pair = named.split_once(':').and_then(|(dev, ino)| Some((dev.parse().ok()?, ino.parse().ok()?)));
    pair == Some((device, inode))
}

/// Sends tracing to standard error. Where that is the journal, lines carry their priority and leave time and level to it. A second call in
/// one process changes nothing; a filter that does not parse becomes `info`.
pub fn init_tracing(logging: &Logging) {
    use tracing_subscriber::EnvFilter;
    let (filter, wrong) = match EnvFilter::try_new(&logging.filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let journal = to_journal();
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines { journal });
    // The only error is that a subscriber is already there, as in tests.
    let _ = match (logging.format, journal) {
        (LogFormat::Compact, false) => base.compact().with_ansi(false).try_init(),
        (LogFormat::Compact, true) => {
            base.compact().with_ansi(false).without_time().with_level(false).try_init()
        }
        (LogFormat::Json, false) => base.json().try_init(),
        (LogFormat::Json, true) => base.json().without_time().try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, filter = logging.filter, "the log filter does not parse; using info");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_priority() {
        assert_eq!(prefixed(priority(Level::WARN), b"a\nb\n"), b"<4>a\n<4>b\n");
        assert_eq!(prefixed(priority(Level::ERROR), b"a"), b"<3>a");
        let mut writer = LogWriter { to: Vec::new(), priority: Some(priority(Level::INFO)) };
        assert_eq!(writer.write(b"line\n").unwrap(), 5);
        assert_eq!(writer.to, b"<6>line\n");
    }

    #[test]
    fn a_log_on_a_full_disk_loses_lines_and_nothing_else() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        LogWriter { to: Full, priority: None }.write_all(b"a line\n").unwrap();
        LogWriter { to: Full, priority: None }.flush().unwrap();
        LogWriter { to: Full, priority: Some(6) }.write_all(b"a line\n").unwrap();
        let mut kept = Vec::new();
        LogWriter { to: &mut kept, priority: None }.write_all(b"a line\n").unwrap();
        assert_eq!(kept, b"a line\n");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("9:120", 9, 120));
        for other in ["", "9", "9:121", "8:120", "x:120", "9:120:1"] {
            assert!(!is_stream(other, 9, 120), "{other}");
        }
    }
}

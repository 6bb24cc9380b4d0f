//! Running the host's own programs, each with a deadline: `systemctl`, `useradd`, `nft`. Their output is bounded.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// It ended with 0.
    pub ok: bool,
    /// Its exit code; none where a signal or the deadline ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The line of what it complained about that says most, for a sentence.
    #[must_use]
    pub fn complaint(&self) -> String {
        let error = |line: &&str| line.to_ascii_lowercase().contains("error");
        let line = |text: &str| {
            let lines = || text.trim().lines().filter(|line| !line.is_empty());
            lines().find(error).or_else(|| lines().next_back()).map(str::to_owned)
        };
        line(&self.err).or_else(|| line(&self.out)).unwrap_or_else(|| "it said nothing".to_owned())
    }
}

const MOST: u64 = 8 << 20;

/// Runs a program with the host's usual `PATH`, no input and the language `C`. A program that is missing or late is a [`Said`] that is
/// not ok.
#[must_use]
pub fn run(program: &str, arguments: &[&str], deadline: Duration) -> Said {
    run_with(program, arguments, "", deadline)
}

/// The same with text on standard input.
#[must_use]
pub fn run_with(program: &str, arguments: &[&str], input: &str, deadline: Duration) -> Said {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Said { err: format!("{program}: {error}"), ..Said::default() },
    };
    let gather = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(MOST).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = gather(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = gather(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input.as_bytes());
    }
    let end = Instant::now() + deadline;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(3)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let Some(status) = status else {
        let err = format!("{program} did not end within {} s", deadline.as_secs());
        return Said { err, ..Said::default() };
    };
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Said { ok: status.success(), code: status.code(), out: text(out), err: text(err) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_a_deadline_and_may_be_missing() {
        let said = run_with("sh", &["-c", "cat; echo bad >&2; exit 3"], "text", Duration::from_secs(5));
        assert_eq!((said.ok, said.code, said.out.as_str()), (false, Some(3), "text"));
        assert_eq!(said.complaint(), "bad");
        let late = run("sleep", &["60"], Duration::from_millis(30));
        assert!(!late.ok && late.err.contains("did not end"), "{late:?}");
        assert!(run("/no/such/program", &[], Duration::from_secs(1)).err.contains("/no/such/program"));
    }
}

//! Child processes of a test or a measurement: they die with their parent, are stopped by id, and tell what they use.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Lets this process be killed when its parent ends. `parent` is the parent's id as the parent told it, so that one that has already
/// ended is noticed, too.
///
/// # Errors
/// When the parent has ended, or the kernel refuses.
pub fn die_with(parent: u32) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != Pid::from_raw(i32::try_from(parent)?) {
        bail!("the parent has ended");
    }
    Ok(())
}

/// Allows as many open files as the hard limit permits. Returns how many that are.
///
/// # Errors
/// When the kernel refuses.
pub fn allow_many_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// A child that answers in lines on its standard output. It is killed when this is dropped.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Helper {
    /// Starts a program. Its standard error is the caller's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the child has no output")?;
        Ok(Self { child, input, lines: reader(output) })
    }

    /// The process' id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it does not read any more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        use std::io::Write;
        let input = self.input.as_mut().context("the child's input is closed")?;
        writeln!(input, "{line}").and_then(|()| input.flush()).context("the child does not read")
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// When there is none within `wait`, or it has ended.
    pub fn line(&self, wait: Duration) -> Result<String> {
        self.lines.recv_timeout(wait).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("the child said nothing for {wait:?}"),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the child has ended"),
        })
    }

    /// Closes its input, which asks it to end, and waits; kills it after `wait`.
    pub fn stop(mut self, wait: Duration) {
        drop(self.input.take());
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Fails only when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reader(output: ChildStdout) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Processor time a process has used, all its threads, user and system. `/proc/<id>/stat`, in steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(id: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold anything; what follows it does not.
    let rest = text.rsplit_once(") ").map(|(_, rest)| rest).context("no process state")?;
    let ticks = |n: usize| -> Result<u64> { Ok(rest.split(' ').nth(n).context("a short line")?.parse()?) };
    // Fields 14 and 15 of the line; the first after the name is field 3. Linux has 100 ticks a second for every program.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Memory of a process in bytes, pages shared with others in proportion (PSS).
///
/// # Errors
/// When there is no such process, or its maps may not be read.
pub fn memory(id: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let mut sum = 0_u64;
        let began = Instant::now();
        while cpu_time(std::process::id()).unwrap() < Duration::from_millis(10) {
            sum = std::hint::black_box(sum.wrapping_add(1));
            assert!(began.elapsed() < Duration::from_secs(30), "processor time is not counted");
        }
        let before = memory(std::process::id()).unwrap();
        let more = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(memory(std::process::id()).unwrap() > before + (60 << 20));
        drop(more);
    }

    #[test]
    fn a_helper_answers_and_ends() {
        let mut helper = Helper::start(Path::new("/bin/cat"), &[]).unwrap();
        helper.say("hello").unwrap();
        assert_eq!(helper.line(Duration::from_secs(20)).unwrap(), "hello");
        assert!(helper.line(Duration::from_millis(1)).is_err());
        let id = helper.id();
        helper.stop(Duration::from_secs(20));
        assert!(cpu_time(id).is_err(), "the process is gone");
    }
}

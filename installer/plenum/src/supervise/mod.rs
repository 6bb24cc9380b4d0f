//! `plenum supervise`: a small single-threaded process that owns the listening sockets and starts, watches and restarts the
//! roles of one instance. Decisions are in [`core`]; this module waits (one `poll`) and carries them out. Killed, it leaves the
//! roles running; the next one adopts them together with their sockets.

mod child;
pub mod control;
pub mod core;
pub mod sockets;

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::{Deserialize, Serialize};

use self::child::{Child, Launch, Record};
use self::control::{Report, Request, RoleReport};
use self::core::{Effect, Event, Outcome, Patience, Supervisor};
use self::sockets::Listening;

/// One role to run: a subcommand of this binary and where it listens.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// The subcommand.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its listening sockets, in the order in which they are handed over.
    pub listening: Vec<Listening>,
}

/// What the supervisor is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instance's name.
    pub instance: String,
    /// Sockets and the record of processes live here.
    pub run: PathBuf,
    /// The roles' logs live here.
    pub logs: PathBuf,
    /// The roles, in the order of their start.
    pub roles: Vec<RoleSpec>,
}

impl Settings {
    /// The control socket of an instance whose runtime folder is `run`.
    pub fn control(run: &Path) -> PathBuf {
        run.join("supervisor.sock")
    }

    fn records(&self) -> PathBuf {
        self.run.join("roles.json")
    }

    fn log(&self, role: &str) -> PathBuf {
        self.logs.join(format!("{role}.log"))
    }
}

/// The processes as written down for the next supervisor.
#[derive(Default, Serialize, Deserialize)]
struct Records {
    boot: String,
    roles: Vec<Record>,
}

struct Process {
    child: Option<Child>,
    sockets: Vec<(&'static str, OwnedFd)>,
    notify: UnixDatagram,
    notify_path: PathBuf,
}

struct Watcher {
    stream: UnixStream,
    watching: bool,
    closed: bool,
}

struct Shell {
    settings: Settings,
    core: Supervisor,
    processes: Vec<Process>,
    watchers: Vec<Watcher>,
    started: Instant,
    outcome: Option<Outcome>,
}

/// Runs until everything has stopped. The error says what failed; the reports have said the rest.
pub fn run(settings: Settings) -> Result<()> {
    let _lock = lock(&settings.run)?;
    let signals = block_signals()?;
    let control = listen(&Settings::control(&settings.run))?;
    let mut shell = Shell::new(settings)?;
    shell.adopt()?;
    shell.feed(Event::Start);
    while shell.outcome.is_none() {
        shell.turn(&signals, &control)?;
    }
    let _ = std::fs::remove_file(Settings::control(&shell.settings.run));
    let _ = std::fs::remove_file(shell.settings.records());
    match shell.outcome {
        Some(Outcome::Failed { role, why }) => {
            anyhow::bail!("{} {why}", shell.settings.roles.get(role).map_or("a role", |role| role.name))
        }
        _ => Ok(()),
    }
}

/// One supervisor an instance.
fn lock(run: &Path) -> Result<std::fs::File> {
    let path = run.join("supervisor.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("another supervisor runs this instance")?;
    Ok(file)
}

fn block_signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn listen(path: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What woke the loop.
enum Woken {
    Signal,
    Control,
    Notified(usize),
    Ended(usize),
    Asked(usize),
}

impl Shell {
    fn new(settings: Settings) -> Result<Self> {
        let processes = settings
            .roles
            .iter()
            .map(|role| {
                let notify_path = settings.run.join(format!("{}.notify", role.name));
                let _ = std::fs::remove_file(&notify_path);
                let notify = UnixDatagram::bind(&notify_path)
                    .with_context(|| format!("bind {}", notify_path.display()))?;
                notify.set_nonblocking(true)?;
                Ok(Process { child: None, sockets: Vec::new(), notify, notify_path })
            })
            .collect::<Result<Vec<_>>>()?;
        let core = Supervisor::new(processes.len(), Patience::default());
        Ok(Self { settings, core, processes, watchers: Vec::new(), started: Instant::now(), outcome: None })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes over what an earlier supervisor left running, and opens the sockets of everything else.
    fn adopt(&mut self) -> Result<()> {
        let records: Records = std::fs::read(self.settings.records())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let here = records.boot == child::boot_id()?;
        for record in records.roles.into_iter().filter(|_| here) {
            let Some(index) = self.settings.roles.iter().position(|role| role.name == record.role) else {
                continue;
            };
            let listening = self.settings.roles[index].listening.clone();
            if let Some((child, fds)) = Child::adopt(record)
                && fds.len() == listening.len()
            {
                self.processes[index].sockets = listening.iter().map(|one| one.name).zip(fds).collect();
                self.processes[index].child = Some(child);
                self.feed(Event::Adopted { role: index });
            }
        }
        for (role, process) in self.settings.roles.iter().zip(&mut self.processes) {
            if process.child.is_none() {
                process.sockets = role
                    .listening
                    .iter()
                    .map(|one| Ok((one.name, sockets::open(one)?)))
                    .collect::<Result<_>>()
                    .with_context(|| format!("role {}", role.name))?;
            }
        }
        Ok(())
    }

    /// Waits for one thing to happen, at most until the core's next deadline, and handles it.
    fn turn(&mut self, signals: &SignalFd, control: &UnixListener) -> Result<()> {
        let timeout = match self.core.wakes_at() {
            Some(at) => {
                PollTimeout::try_from(at.saturating_sub(self.now()).min(60_000)).unwrap_or(PollTimeout::ZERO)
            }
            None => PollTimeout::NONE,
        };
        let woken = self.wait(signals, control, timeout)?;
        for one in woken {
            match one {
                Woken::Signal => self.signalled(signals)?,
                Woken::Control => self.accept(control),
                Woken::Notified(role) => self.notified(role),
                Woken::Ended(role) => self.ended(role),
                Woken::Asked(watcher) => self.asked(watcher),
            }
        }
        self.watchers.retain(|watcher| !watcher.closed);
        self.feed(Event::Tick);
        Ok(())
    }

    fn wait(&self, signals: &SignalFd, control: &UnixListener, timeout: PollTimeout) -> Result<Vec<Woken>> {
        let mut what = vec![Woken::Signal, Woken::Control];
        let mut fds: Vec<BorrowedFd<'_>> = vec![signals.as_fd(), control.as_fd()];
        for (index, process) in self.processes.iter().enumerate() {
            what.push(Woken::Notified(index));
            fds.push(process.notify.as_fd());
            if let Some(child) = &process.child {
                what.push(Woken::Ended(index));
                fds.push(child.ended());
            }
        }
        for (index, watcher) in self.watchers.iter().enumerate() {
            what.push(Woken::Asked(index));
            fds.push(watcher.stream.as_fd());
        }
        let mut polled: Vec<_> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match nix::poll::poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let ready = polled.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(what.into_iter().zip(ready).filter_map(|(what, ready)| ready.then_some(what)).collect())
    }

    fn signalled(&mut self, signals: &SignalFd) -> Result<()> {
        while let Some(signal) = signals.read_signal()? {
            // SIGCHLD only wakes the loop: each process has a descriptor that says more.
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.feed(Event::Stop);
            }
        }
        Ok(())
    }

    fn notified(&mut self, role: usize) {
        let mut message = [0; 1024];
        while let Ok(length) = self.processes[role].notify.recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]);
            if text.lines().any(|line| line == "READY=1") {
                self.feed(Event::Ready { role });
            }
        }
    }

    fn ended(&mut self, role: usize) {
        if let Some(child) = self.processes[role].child.take() {
            let how = child.exit();
            self.record();
            self.feed(Event::Exited { role, how });
        }
    }

    fn accept(&mut self, control: &UnixListener) {
        while let Ok((stream, _)) = control.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.watchers.push(Watcher { stream, watching: false, closed: false });
            }
        }
    }

    /// Reads a request. Requests are short: one that does not arrive in one piece is not one of ours.
    fn asked(&mut self, index: usize) {
        let report = self.report(None);
        let Some(watcher) = self.watchers.get_mut(index) else { return };
        let mut line = [0; 256];
        let length = watcher.stream.read(&mut line).unwrap_or(0);
        let Ok(request) = serde_json::from_slice::<Request>(&line[..length]) else {
            watcher.closed = true;
            return;
        };
        send(&mut watcher.stream, &report);
        match request {
            Request::Status => watcher.closed = true,
            Request::Watch => watcher.watching = true,
            Request::Stop => {
                watcher.watching = true;
                self.feed(Event::Stop);
            }
        }
    }

    fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            for effect in self.core.handle(event.clone(), now) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Spawn(role) => return self.spawn(role),
            Effect::Terminate(role) => self.signal(role, rustix::process::Signal::TERM),
            Effect::Kill(role) => self.signal(role, rustix::process::Signal::KILL),
            Effect::Changed(_) | Effect::Raised => self.tell(None),
            Effect::Lowered(outcome) => {
                let failed = match &outcome {
                    Outcome::Asked => String::new(),
                    Outcome::Failed { role, why } => format!("{} {why}", self.settings.roles[*role].name),
                };
                self.tell(Some(failed));
                self.outcome = Some(outcome);
            }
        }
        None
    }

    fn spawn(&mut self, role: usize) -> Option<Event> {
        let (spec, process) = (&self.settings.roles[role], &mut self.processes[role]);
        let launch = Launch {
            role: spec.name,
            arguments: &spec.arguments,
            sockets: &process.sockets,
            notify: &process.notify_path,
            log: &self.settings.log(spec.name),
        };
        match Child::spawn(&launch) {
            Ok(child) => {
                process.child = Some(child);
                self.record();
                None
            }
            Err(error) => Some(Event::Exited { role, how: format!("could not be started: {error:#}") }),
        }
    }

    fn signal(&self, role: usize, signal: rustix::process::Signal) {
        if let Some(child) = &self.processes[role].child {
            child.signal(signal);
        }
    }

    /// Writes down who runs, for the supervisor that comes after a kill of this one.
    fn record(&self) {
        let roles = self.processes.iter().filter_map(|process| Some(process.child.as_ref()?.record.clone()));
        let records = Records { boot: child::boot_id().unwrap_or_default(), roles: roles.collect() };
        let (path, new) = (self.settings.records(), self.settings.run.join("roles.json.new"));
        let written = serde_json::to_vec(&records)
            .map_err(std::io::Error::from)
            .and_then(|bytes| std::fs::write(&new, bytes))
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = written {
            // Not `eprintln!`, which panics where the log cannot be written either.
            let _ = writeln!(
                std::io::stderr(),
                "cannot write {}: {error}; a later supervisor could not adopt the roles",
                path.display()
            );
        }
    }

    fn report(&self, failed: Option<String>) -> Report {
        let roles = self.core.roles().map(|(index, role)| RoleReport {
            role: self.settings.roles[index].name.to_owned(),
            condition: role.condition.word().to_owned(),
            pid: self.processes[index].child.as_ref().map(|child| child.record.pid),
            restarts: role.restarts,
            last_exit: role.last_exit.clone(),
            log: self.settings.log(self.settings.roles[index].name).to_string_lossy().into_owned(),
        });
        Report {
            instance: self.settings.instance.clone(),
            up: self.core.is_up(),
            failed,
            pid: std::process::id(),
            roles: roles.collect(),
        }
    }

    fn tell(&mut self, failed: Option<String>) {
        let report = self.report(failed);
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.watching) {
            send(&mut watcher.stream, &report);
        }
    }
}

/// A watcher that does not read loses reports, never the supervisor's time.
fn send(stream: &mut UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = stream.write_all(&line);
    }
}

/// The processes that a killed supervisor left running in the runtime folder `run`.
fn orphans(run: &Path) -> Result<Vec<Child>> {
    let records: Records = match std::fs::read(run.join("roles.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("roles.json cannot be read")?,
        Err(_) => return Ok(Vec::new()),
    };
    if records.boot != child::boot_id()? {
        return Ok(Vec::new());
    }
    Ok(records.roles.into_iter().rev().filter_map(|record| Some(Child::adopt(record)?.0)).collect())
}

/// Whether there are such processes.
pub fn has_orphans(run: &Path) -> Result<bool> {
    Ok(!orphans(run)?.is_empty())
}

/// Stops such processes.
pub fn stop_orphans(run: &Path) -> Result<()> {
    let orphans = orphans(run)?;
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        for orphan in &orphans {
            orphan.signal(signal);
        }
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        for orphan in &orphans {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fd = [PollFd::new(orphan.ended(), PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut fd, timeout);
        }
    }
    let _ = std::fs::remove_file(run.join("roles.json"));
    Ok(())
}

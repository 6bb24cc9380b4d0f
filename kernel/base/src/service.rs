//! The skeleton of a role: runtime, tracing, crypto provider, panic hook, signals, readiness. What the role does is the closure it is given.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells every part of a process to end. Clones are the same switch; a child also ends with its parent, not the other way round.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A switch that nothing has pressed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody who holds this switch, or a child of it, to end. Pressing twice changes nothing.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was pressed.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once it is pressed.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// A switch of its own that is pressed with this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `work` until it ends or the switch is pressed; `None` in the second case (the work is dropped).
    pub async fn until<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }

    /// Waits for `delay` or the switch; true when the whole delay passed.
    pub async fn sleep(&self, delay: Duration) -> bool {
        self.until(tokio::time::sleep(delay)).await.is_some()
    }

    /// Presses the switch at the first SIGTERM or SIGINT. A second one ends the process at once with code 130.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for again in [false, true] {
                let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
                if again {
                    tracing::warn!(signal = name, "second signal: ending at once");
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "ending");
                shutdown.trigger();
            }
        });
        Ok(())
    }
}

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

/// Standard error, where a line that cannot be written (its disk is full) is lost and nothing else: tracing would go on to print that, and
/// printing panics where standard error fails.
struct LogWriter<W>(W);

impl<W: Write> Write for LogWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(line).unwrap_or(line.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Sends tracing to standard error. A second call in one process changes nothing; a filter that does not parse becomes `info`.
pub fn init_tracing(logging: &Logging) {
    use tracing_subscriber::EnvFilter;
    let (filter, wrong) = match EnvFilter::try_new(&logging.filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter(std::io::stderr()));
    // The only error is that a subscriber is already there, as in tests.
    let _ = match logging.format {
        LogFormat::Compact => base.compact().with_ansi(false).try_init(),
        LogFormat::Json => base.json().try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, filter = logging.filter, "the log filter does not parse; using info");
    }
}

/// Makes aws-lc-rs the process' TLS provider. Idempotent.
pub fn install_crypto() {
    // The only error is that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Logs panics as errors (with their place) before the default handling goes on.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("?"), "panic: {text}");
    }));
}

/// Tells the supervisor (systemd's protocol: a datagram to `NOTIFY_SOCKET`) that the role serves now. Without one this does nothing.
pub fn ready() {
    notify("READY=1");
}

/// Tells the supervisor that the role is ending.
pub fn stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify_at(&path, state) {
        tracing::warn!(%error, "the supervisor could not be told: {state}");
    }
}

fn notify_at(path: &std::ffi::OsStr, state: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
        _ => std::os::unix::net::SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// Runs a role: tracing, crypto, panic hook, a multi-threaded runtime, signals; then `body` until it returns.
/// After a signal `body` has `grace` to come back. Returns the process' exit code; an error is logged and is code 1.
pub fn run<F, Fut, E>(role: &str, logging: &Logging, grace: Duration, body: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    init_tracing(logging);
    install_crypto();
    install_panic_hook();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(role).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(role, %error, "the runtime could not start");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let shutdown = Shutdown::new();
        if let Err(error) = shutdown.on_signals() {
            tracing::error!(role, %error, "signals cannot be handled");
            return ExitCode::FAILURE;
        }
        tracing::info!(role, pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "starting");
        let late = async {
            shutdown.wait().await;
            stopping();
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            done = body(shutdown.clone()) => match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(role, "ended with an error: {error}");
                    ExitCode::FAILURE
                }
            },
            () = late => {
                tracing::warn!(role, ?grace, "did not end in time; leaving");
                ExitCode::FAILURE
            }
        }
    });
    // Blocking threads (a hung disk) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

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
        LogWriter(Full).write_all(b"a line\n").unwrap();
        LogWriter(Full).flush().unwrap();
        let mut kept = Vec::new();
        LogWriter(&mut kept).write_all(b"a line\n").unwrap();
        assert_eq!(kept, b"a line\n");
    }

    #[tokio::test]
    async fn a_child_ends_with_its_parent_only() {
        let parent = Shutdown::new();
        let (one, two) = (parent.child(), parent.child());
        one.trigger();
        assert!(one.is_triggered() && !parent.is_triggered() && !two.is_triggered());
        parent.trigger();
        two.wait().await;
        assert_eq!(two.until(std::future::pending::<()>()).await, None);
        assert!(!two.sleep(Duration::from_secs(60)).await);
    }

    #[test]
    fn readiness_reaches_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        notify_at(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 32];
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        assert!(notify_at(std::ffi::OsStr::new("/nonexistent/socket"), "x").is_err());
    }

    #[test]
    fn a_role_ends_with_its_body() {
        let logging = Logging { filter: "off".into(), ..Logging::default() };
        let code = run("test", &logging, Duration::from_secs(1), |_| async { Ok::<(), String>(()) });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        let code = run("test", &logging, Duration::from_secs(1), |_| async { Err("no") });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        let late = run("test", &logging, Duration::from_millis(10), |shutdown| async move {
            shutdown.trigger();
            std::future::pending::<Result<(), String>>().await
        });
        assert_eq!(format!("{late:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}

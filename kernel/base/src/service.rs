//! The skeleton of a role: runtime, crypto provider, panic hook, signals, what the supervisor is told. What the role does is the closure
//! it is given; how it logs is in `logging`.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use crate::logging::{LogFormat, Logging, init_tracing};
pub use crate::notify::{ready, status, stopping};

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

/// How long a thread for blocking work stays without any: a burst leaves a hundred of them, each with its stack.
const IDLE_THREAD: Duration = Duration::from_secs(2);

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
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(role)
        .thread_keep_alive(IDLE_THREAD)
        .build()
    {
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
        tokio::spawn(crate::notify::watchdog());
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

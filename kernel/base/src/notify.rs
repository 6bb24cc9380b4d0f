//! What the supervisor is told (systemd's protocol: datagrams to `NOTIFY_SOCKET`): ready, ending, what goes on, and that the process is
//! alive. Without a supervisor that listens, nothing is sent.

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The role serves now.
pub fn ready() {
    notify("READY=1");
}

/// The role is ending.
pub fn stopping() {
    notify("STOPPING=1");
}

/// One line on what goes on, for `systemctl status`.
pub fn status(text: &str) {
    notify(&status_line(text));
}

fn status_line(text: &str) -> String {
    // Another line would be another message.
    format!("STATUS={}", text.replace(['\n', '\r'], " "))
}

/// Keeps telling that the process is alive where the supervisor asks for it (`WATCHDOG_USEC`). Spawn it on the runtime that does the work: a
/// runtime that is stuck says nothing, and is restarted.
pub async fn watchdog() {
    let env = |key: &str| std::env::var(key).ok();
    let Some(period) = period(env("WATCHDOG_USEC"), env("WATCHDOG_PID"), std::process::id()) else { return };
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    ping(&path, period).await;
}

async fn ping(path: &OsStr, period: Duration) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = notify_at(path, "WATCHDOG=1") {
            tracing::warn!(%error, "the supervisor could not be told that this process is alive");
        }
    }
}

/// How often to tell: three times within what the supervisor waits for. `None` when it does not wait, or for another process.
fn period(micros: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let micros: u64 = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros((micros / 3).max(1000)))
}

fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify_at(&path, state) {
        tracing::warn!(%error, "the supervisor could not be told: {state}");
    }
}

fn notify_at(path: &OsStr, state: &str) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (tempfile::TempDir, UnixDatagram, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (dir, socket, path)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn what_is_said_reaches_the_socket() {
        let (_dir, socket, path) = supervisor();
        notify_at(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");
        notify_at(path.as_os_str(), &status_line("leads\nREADY=1")).unwrap();
        assert_eq!(heard(&socket), "STATUS=leads READY=1");
        assert!(notify_at(OsStr::new("/nonexistent/socket"), "x").is_err());
    }

    #[test]
    fn when_to_say_that_it_is_alive() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(period(some("30000000"), None, 7), Some(Duration::from_secs(10)));
        assert_eq!(period(some("30000000"), some("7"), 7), Some(Duration::from_secs(10)));
        assert_eq!(period(some("3"), None, 7), Some(Duration::from_millis(1)));
        for (micros, pid) in [(None, None), (some("0"), None), (some("x"), None), (some("3000"), some("8"))] {
            assert_eq!(period(micros, pid, 7), None);
        }
    }

    #[test]
    fn a_runtime_that_is_stuck_falls_silent() {
        let (_dir, socket, path) = supervisor();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        runtime.spawn(async move { ping(path.as_os_str(), Duration::from_millis(5)).await });
        assert_eq!([heard(&socket), heard(&socket)], ["WATCHDOG=1", "WATCHDOG=1"]);
        let (stuck, on) = std::sync::mpsc::channel::<()>();
        let (is, begins) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            is.send(()).unwrap();
            let _ = on.recv();
        });
        begins.recv().unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 64]).is_ok() {}
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(socket.recv(&mut [0; 64]).is_err(), "the only worker is stuck");
        stuck.send(()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }
}

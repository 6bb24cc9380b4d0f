//! Listening sockets that outlive their process: taken from the supervisor (ours, or systemd) as in `sd_listen_fds`, or bound here when none
//! is handed over.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

/// The first inherited descriptor.
const FIRST: RawFd = 3;

/// What was handed over and not taken yet.
static HANDED: Mutex<Option<Table>> = Mutex::new(None);

type Table = BTreeMap<String, Vec<RawFd>>;

fn with_table<T>(use_it: impl FnOnce(&mut Table) -> T) -> T {
    let mut handed = HANDED.lock();
    use_it(handed.get_or_insert_with(|| {
        let env = |key: &str| std::env::var(key).ok();
        parse(env("LISTEN_PID"), env("LISTEN_FDS"), env("LISTEN_FDNAMES"), std::process::id())
    }))
}

/// Takes the descriptor handed over under `name`, once: a second call for the same name gets `None` or the next one of that name.
#[must_use]
pub fn take(name: &str) -> Option<OwnedFd> {
    let fd = with_table(|table| {
        let fds = table.get_mut(name)?;
        (!fds.is_empty()).then(|| fds.remove(0))
    })?;
    adopt(fd)
}

/// Takes the socket handed over under `name`; where there is none of that name, one of this kind that is bound to the port of `address`. All
/// sockets of one systemd unit have one name, so their ports tell which is which.
fn take_socket(name: &str, kind: Type, address: SocketAddr) -> Option<OwnedFd> {
    if let Some(fd) = take(name) {
        return Some(fd);
    }
    let fd = with_table(|table| take_matching(table, |fd| is_bound(fd, kind, address)))?;
    adopt(fd)
}

fn take_matching(table: &mut Table, fits: impl Fn(RawFd) -> bool) -> Option<RawFd> {
    table.values_mut().find_map(|fds| {
        let place = fds.iter().position(|fd| fits(*fd))?;
        Some(fds.remove(place))
    })
}

/// Whether an inherited descriptor is a socket of this kind, at this port, and at this address or every one.
#[allow(unsafe_code)]
fn is_bound(fd: RawFd, kind: Type, address: SocketAddr) -> bool {
    // SAFETY: the number is only looked at, by calls that fail on one that is closed or no socket; nothing is closed by a borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let socket = SockRef::from(&fd);
    let Some(bound) = socket.local_addr().ok().and_then(|bound| bound.as_socket()) else { return false };
    socket.r#type().is_ok_and(|found| found == kind)
        && bound.port() == address.port()
        && address.port() != 0
        && (bound.ip() == address.ip() || bound.ip().is_unspecified() || address.ip().is_unspecified())
}

/// Which descriptor has which name. Descriptors without a name are called `unknown`, as systemd does.
fn parse(pid: Option<String>, count: Option<String>, names: Option<String>, own: u32) -> Table {
    let mut table = Table::new();
    // systemd sets the process id; our supervisor leaves it out, because it does not know it before the fork.
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return table;
    }
    let count: RawFd = count.and_then(|count| count.parse().ok()).unwrap_or(0).clamp(0, 1024);
    let names = names.unwrap_or_default();
    let mut names = names.split(':');
    for fd in FIRST..FIRST + count {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        table.entry(name.to_owned()).or_default().push(fd);
    }
    table
}

#[allow(unsafe_code)]
fn adopt(fd: RawFd) -> Option<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: the supervisor handed this number over for this process alone and `take` removes it from the table, so nobody else owns it.
    // Whether it is open is checked before it is used; a closed number is forgotten without closing it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(fd),
        Err(_) => {
            std::mem::forget(fd);
            None
        }
    }
}

/// The TCP listener named `name` if one was handed over, else one bound to `address` (SO_REUSEADDR).
///
/// # Errors
/// When binding fails; the text names the address.
pub fn tcp(name: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let listener: std::net::TcpListener = match take_socket(name, Type::STREAM, address) {
        Some(fd) => fd.into(),
        None => bind_tcp(address)?.into(),
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Opens a listening TCP socket for handing over, or for [`tcp`].
///
/// # Errors
/// When binding fails; the text names the address.
pub fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    bind().map_err(|error: io::Error| named(error, &address))
}

/// The UDP socket named `name` if one was handed over, else one bound to `address`.
///
/// # Errors
/// When binding fails; the text names the address.
pub fn udp(name: &str, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket: std::net::UdpSocket = match take_socket(name, Type::DGRAM, address) {
        Some(fd) => fd.into(),
        None => bind_udp(address)?.into(),
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Opens a UDP socket for handing over, or for [`udp`].
///
/// # Errors
/// When binding fails; the text names the address.
pub fn bind_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    std::net::UdpSocket::bind(address).map(Into::into).map_err(|error| named(error, &address))
}

/// The Unix listener named `name` if one was handed over, else one bound to `path` (a dead socket file there is replaced).
///
/// # Errors
/// When binding fails, also because another process still answers on `path`.
pub fn unix(name: &str, path: &Path) -> io::Result<UnixListener> {
    let listener: std::os::unix::net::UnixListener = match take(name) {
        Some(fd) => fd.into(),
        None => bind_unix(path).map_err(|error| named(error, &path.display()))?,
    };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::net::{UnixListener, UnixStream};
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Has the kernel notice that the other end is gone without a word (a power cut, a cable): a silent connection is probed at each `interval`,
/// and broken once nothing was acknowledged for `silence`. Also one whose reader stands still for so long, so not for bulk data.
///
/// # Errors
/// What the operating system says.
pub fn watch_peer(stream: &tokio::net::TcpStream, interval: Duration, silence: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(silence))
}

fn named(error: io::Error, address: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

/// Makes `command` start its program with `sockets` handed over under their names. The caller keeps them open for the next start.
///
/// # Errors
/// When a name is empty or contains a colon, or a descriptor cannot be duplicated.
#[allow(unsafe_code)]
pub fn hand_over(command: &mut Command, sockets: &[(&str, &OwnedFd)]) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    let count = RawFd::try_from(sockets.len()).map_err(io::Error::other)?;
    let mut names = Vec::new();
    let mut copies: Vec<OwnedFd> = Vec::new();
    for (name, fd) in sockets {
        if name.is_empty() || name.contains(':') {
            return Err(io::Error::other(format!("\"{name}\" cannot name a socket")));
        }
        names.push(*name);
        // Copies above the target range, so that no dup2 below overwrites one that is still needed.
        let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count)).map_err(io::Error::from)?;
        // SAFETY: F_DUPFD_CLOEXEC returned a new descriptor that nobody else owns.
        copies.push(unsafe { OwnedFd::from_raw_fd(copy) });
    }
    command
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .env_remove("LISTEN_PID");
    let place = move || {
        for (target, copy) in (FIRST..).zip(&copies) {
            // SAFETY: dup2 is async-signal-safe, both numbers are plain integers, and the duplicate loses close-on-exec as wanted.
            if unsafe { libc::dup2(copy.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and only calls dup2, which is async-signal-safe; it allocates nothing.
    unsafe { command.pre_exec(place) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn names_are_read_as_systemd_writes_them() {
        let table = parse(None, some("4"), some("http:dns::http"), 7);
        assert_eq!(table["http"], [3, 6]);
        assert_eq!(table["dns"], [4]);
        assert_eq!(table["unknown"], [5]);
        assert!(parse(some("8"), some("1"), some("http"), 7).is_empty(), "meant for another process");
        assert_eq!(parse(some("7"), some("1"), some("http"), 7)["http"], [3]);
        for hostile in ["-3", "x", "", "99999999999999"] {
            assert!(parse(None, some(hostile), None, 7).is_empty());
        }
        assert_eq!(parse(None, some("2147483647"), None, 7)["unknown"].len(), 1024);
    }

    #[test]
    fn sockets_of_one_name_are_told_apart_by_their_ports() {
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = std::net::TcpListener::from(tcp.try_clone().unwrap()).local_addr().unwrap();
        let udp = bind_udp(at).unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let numbers = [&file, &udp, &tcp].map(AsRawFd::as_raw_fd);
        let mut table = Table::from([("plenum-x.socket".to_owned(), numbers.to_vec())]);
        let mut find =
            |kind, address: SocketAddr| take_matching(&mut table, |fd| is_bound(fd, kind, address));
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
        assert_eq!(find(Type::STREAM, elsewhere), None);
        assert_eq!(find(Type::STREAM, SocketAddr::new(at.ip(), 1)), None);
        assert_eq!(
            find(Type::STREAM, SocketAddr::new("0.0.0.0".parse().unwrap(), at.port())),
            Some(numbers[2])
        );
        assert_eq!(find(Type::STREAM, at), None, "once");
        assert_eq!(find(Type::DGRAM, at), Some(numbers[1]));
    }

    #[test]
    fn a_socket_reaches_the_program() {
        let socket = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = std::net::TcpListener::from(socket.try_clone().unwrap());
        let port = listener.local_addr().unwrap().port();
        let other = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $LISTEN_FDS $LISTEN_FDNAMES; readlink /proc/self/fd/4; cat /proc/net/tcp"]);
        hand_over(&mut command, &[("dns", &other), ("http", &socket)]).unwrap();
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("2 dns:http"));
        let inode = lines.next().unwrap().trim_start_matches("socket:[").trim_end_matches(']').to_owned();
        let row = lines.find(|line| line.contains(&inode)).expect("the inherited socket is a TCP socket");
        assert!(row.contains(&format!(":{port:04X} ")), "{row}");
        assert!(hand_over(&mut Command::new("true"), &[("a:b", &socket)]).is_err());
    }

    #[tokio::test]
    async fn without_a_hand_over_it_binds() {
        let listener = tcp("http", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = tcp("http", address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = unix("control", &path).unwrap();
        assert!(unix("control", &path).is_err(), "somebody answers there");
        drop(first);
        unix("control", &path).unwrap();
    }
}

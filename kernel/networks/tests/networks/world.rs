//! A world of a test: namespaces, servers and callers inside them, counts of everything.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use plenum_networks::namespace;

/// The longest that anything may take.
pub const LONG: Duration = Duration::from_secs(20);
/// For what must not happen.
pub const SHORT: Duration = Duration::from_millis(700);

/// Runs an ignored test of this binary in namespaces of its own.
pub fn apart(test: &str) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    for (tool, package) in
        [("nft", "nftables"), ("ip", "iproute2"), ("unshare", "util-linux"), ("ps", "procps")]
    {
        if Command::new(tool).arg("-V").output().is_err() {
            eprintln!("SKIPPED: needs {tool} (Debian: {package})");
            return;
        }
    }
    let own = std::env::current_exe().unwrap();
    // With ids of its own as well: whatever it started ends with it, also when it fails or hangs.
    let status = Command::new("timeout")
        .args(["-k", "5", "240", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["-n", "-m", "--propagation", "private"])
        .arg(own)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("PLENUM_TEST_APART", "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test}");
}

/// To be called first by what runs apart.
pub fn begin() {
    assert!(std::env::var_os("PLENUM_TEST_APART").is_some(), "only in namespaces of its own");
    ip("link set lo up");
    // Some machines switch IPv6 off for new namespaces; the strictest check of sources is what some others have.
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    for name in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "1").unwrap();
    }
}

pub fn text(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool is installed");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs ip, which must work.
pub fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().expect("the tool is installed");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs on a thread inside a namespace.
pub fn within<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(netns).expect("the namespace is there");
    let inside = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be joined");
        work()
    };
    std::thread::spawn(inside).join().expect("it did not panic")
}

/// Runs asynchronous work inside a namespace: one host of several.
pub fn host<T: Send + 'static, F: Future<Output = T>>(
    netns: &Path,
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    within(netns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work())
    })
}

/// Runs ip inside a namespace.
pub fn ip_in(netns: &Path, line: &str) {
    let line = line.to_owned();
    within(netns, move || ip(&line));
}

/// Answers each TCP caller with the caller's address, and keeps the connection until the caller ends it, answering each byte. Both families.
pub fn serve(netns: &Path, port: u16) {
    for any in ["0.0.0.0", "::"] {
        let any: IpAddr = any.parse().expect("an address");
        let listener = within(netns, move || {
            let domain = if any.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
            if any.is_ipv6() {
                socket.set_only_v6(true).expect("set");
            }
            socket.bind(&SocketAddr::new(any, port).into()).expect("a free port");
            socket.listen(64).expect("listening");
            TcpListener::from(socket)
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    let caller = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
                    let _ = stream.write_all(format!("{caller}\n").as_bytes());
                    let mut buffer = [0; 65_536];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
}

/// A connection to a server of [`serve`].
pub struct Call {
    stream: TcpStream,
    /// Who the server says is calling.
    pub caller: String,
}

impl Call {
    /// Whether bytes still come back.
    pub fn alive(&mut self) -> bool {
        let mut back = [0; 1];
        self.stream.write_all(b"x").is_ok() && self.stream.read_exact(&mut back).is_ok() && &back == b"x"
    }

    /// Sends this many bytes and hears them back.
    pub fn carry(&mut self, bytes: usize) {
        let sent = vec![7; bytes];
        let mut writer = self.stream.try_clone().expect("a second handle");
        let feeder = std::thread::spawn(move || writer.write_all(&sent));
        let mut back = vec![0; bytes];
        self.stream.read_exact(&mut back).expect("all comes back");
        feeder.join().expect("no panic").expect("all is sent");
        assert!(back.iter().all(|byte| *byte == 7));
    }
}

/// Calls; `None` when nobody answers in time.
pub fn call(netns: Option<&Path>, to: &str, port: u16, time: Duration) -> Option<Call> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    let work = move || {
        let end = Instant::now() + time;
        loop {
            let mut stream = match TcpStream::connect_timeout(&to, time) {
                Ok(stream) => stream,
                // A path that was just made may need a moment (neighbours); whoever does not answer never will.
                Err(_) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Err(_) => return None,
            };
            stream.set_read_timeout(Some(time)).expect("set");
            stream.set_write_timeout(Some(time)).expect("set");
            let mut caller = String::new();
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).is_ok() && &byte != b"\n" {
                caller.push(char::from(byte[0]));
            }
            return (!caller.is_empty()).then_some(Call { stream, caller });
        }
    };
    match netns {
        Some(netns) => within(netns, work),
        None => work(),
    }
}

/// Who a server says is calling, or nothing.
pub fn ask(netns: Option<&Path>, to: &str, port: u16) -> String {
    call(netns, to, port, LONG).map(|call| call.caller).unwrap_or_default()
}

/// Whether a call reaches nobody.
pub fn closed(netns: Option<&Path>, to: &str, port: u16) -> bool {
    call(netns, to, port, SHORT).is_none()
}

/// Sends back each datagram.
pub fn echo(netns: &Path, port: u16) {
    for any in ["0.0.0.0", "::"] {
        let any: IpAddr = any.parse().expect("an address");
        let socket = within(netns, move || {
            let domain = if any.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).expect("a socket");
            if any.is_ipv6() {
                socket.set_only_v6(true).expect("set");
            }
            socket.bind(&SocketAddr::new(any, port).into()).expect("a free port");
            UdpSocket::from(socket)
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

/// Whether a datagram comes back.
pub fn datagram(netns: Option<&Path>, to: &str, port: u16) -> bool {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    let work = move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(SHORT)).expect("set");
        socket.connect(to).expect("a route");
        let mut back = [0; 9];
        (0..5).any(|_| {
            socket.send(b"hi").is_ok() && socket.recv(&mut back).is_ok_and(|length| &back[..length] == b"hi")
        })
    };
    match netns {
        Some(netns) => within(netns, work),
        None => work(),
    }
}

/// Everything that can be left over.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    links: Vec<String>,
    rules: String,
    mounts: usize,
    files: Vec<PathBuf>,
    routes: String,
}

/// What there is, with the files of `folder`.
pub fn counts(folder: &Path) -> Counts {
    let links = text("ip", &["-o", "link"]);
    // What ip remarks on is no link.
    let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
    // Mounts elsewhere come and go with what else the machine does, also in a namespace of the test's own.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is there");
    let here = folder.display().to_string();
    let mounts = mounts.lines().filter(|line| line.contains(&here)).count();
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            files.push(entry.path());
        }
    }
    files.sort();
    let mut links: Vec<String> =
        links.lines().filter(|line| line.starts_with(char::is_numeric)).filter_map(name).collect();
    links.sort();
    let rules = text("nft", &["list", "ruleset"]);
    // A bridge without anybody behind it is down; when that is noticed is the kernel's matter.
    let routes = text("ip", &["route"]).replace(" linkdown", "");
    Counts { links, rules, mounts, files, routes }
}

/// A host on another link: its namespace and addresses `192.0.2.2` and `2001:db8::2`; this one's are `192.0.2.1` and `2001:db8::1`.
pub fn outside(folder: &Path) -> PathBuf {
    let path = folder.join("outside");
    namespace::make(&path).expect("a namespace");
    ip(&format!("link add out0 type veth peer name eth0 netns {}", path.display()));
    ip("addr add 192.0.2.1/24 dev out0");
    ip("addr add 2001:db8::1/64 dev out0 nodad");
    ip("link set out0 up");
    ip_in(&path, "addr add 192.0.2.2/24 dev eth0");
    ip_in(&path, "addr add 2001:db8::2/64 dev eth0 nodad");
    ip_in(&path, "link set lo up");
    ip_in(&path, "link set eth0 up");
    path
}

/// Removes it.
pub fn no_outside(path: &Path) {
    ip("link del out0");
    namespace::remove(path).expect("removed");
}

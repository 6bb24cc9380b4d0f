//! Real packets through real tables. A test starts its own program again inside a namespace; what runs there is below, by name.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plenum_balancer::keeper::{self, Keeper, Status};
use plenum_balancer::listing::{Found, read};
use plenum_balancer::{Tools, purge};
use plenum_base::service::Shutdown;
use plenum_discovery::feed::Protocol;
use plenum_discovery::replica::socket::Tables;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::namespace::{Namespace, possible};
use crate::plans::{line, place};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the part `name` of this program inside a namespace of its own.
fn inside(name: &str) {
    if possible() {
        inside_of(&Namespace::new(name), name);
    }
}

/// Runs the part `name` inside this namespace.
fn inside_of(space: &Namespace, name: &str) {
    let program = std::env::current_exe().unwrap();
    let test = format!("kernel::inside_{name}");
    let output = space
        .command(&[program.to_str().unwrap(), "--exact", &test, "--ignored", "--nocapture"])
        .env("PLENUM_TEST_NAMESPACE", &space.0)
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn guard() -> bool {
    std::env::var_os("PLENUM_TEST_NAMESPACE").is_some()
}

#[test]
fn virtual_addresses_carry_connections() {
    inside("connections");
}

#[test]
fn tables_are_compared_with_the_kernel() {
    inside("comparing");
}

#[test]
fn two_instances_side_by_side() {
    inside("side_by_side");
}

/// Three hosts: one with the balancer between one that serves and one that asks. Who serves knows no way to who asks.
#[test]
fn back_ends_on_other_hosts() {
    if !possible() {
        return;
    }
    let (middle, serves, asks) = (Namespace::new("hosts"), Namespace::new("serves"), Namespace::new("asks"));
    for (n, far) in [(0, &serves), (1, &asks)] {
        let (here, there) = (format!("near{n}"), format!("far{n}"));
        middle.run(&["ip", "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &far.0]);
        for (space, link, last) in [(&middle, &here, 1), (far, &there, 2)] {
            space.run(&["ip", "address", "add", &format!("10.77.{n}.{last}/24"), "dev", link]);
            space.run(&["ip", "link", "set", link, "up"]);
        }
    }
    asks.run(&["ip", "route", "add", "default", "via", "10.77.1.1"]);
    middle.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    let program = std::env::current_exe().unwrap();
    let mut backend = serves.command(&[program.to_str().unwrap(), "--exact", "kernel::backend", "--ignored"]);
    let backend = backend.env("PLENUM_TEST_BACKEND", "10.77.0.2:9000").stdout(Stdio::null()).spawn().unwrap();
    let _backend = Backend(backend);
    inside_of(&middle, "hosts");
    // The tables stay when the balancer ends: now from elsewhere.
    let mut visit =
        asks.command(&[program.to_str().unwrap(), "--exact", "kernel::visitor", "--ignored", "--nocapture"]);
    let output = visit.env("PLENUM_TEST_NAMESPACE", &asks.0).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("answered by 10.77.0.2:9000"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace"]
async fn inside_hosts() {
    if !guard() {
        return;
    }
    let mut kept = Kept::start("plenum_x", RANGE, "10.77.0.1");
    kept.tell(line(true, RANGE, &[("11.7.0.1", 80, &["10.77.0.2:9000"])]), 1).await;
    let began = Instant::now();
    let (stream, who) = loop {
        match open(VIP) {
            Ok(answered) => break answered,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(who, "10.77.0.2:9000");
    assert_eq!(stream.local_addr().unwrap().ip().to_string(), "10.77.0.1");
    kept.end().await;
}

#[test]
#[ignore = "a visitor that another test starts"]
fn visitor() {
    if guard() {
        println!("answered by {}", open(VIP).unwrap().1);
    }
}

/// A back end in a process of its own, which says its port to everybody and keeps the connection until the other side closes.
struct Backend(Child);

impl Backend {
    fn start(address: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program)
            .args(["--exact", "kernel::backend", "--ignored", "--nocapture"])
            .env("PLENUM_TEST_BACKEND", address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < PATIENCE, "{address} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "a back end that other tests start"]
fn backend() {
    let Ok(address) = std::env::var("PLENUM_TEST_BACKEND") else { return };
    let listener = TcpListener::bind(&address).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let address = address.clone();
        std::thread::spawn(move || {
            let mut byte = [0];
            let _ = stream.write_all(format!("{address}\n").as_bytes());
            while stream.read(&mut byte).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(&byte);
            }
        });
    }
}

/// Connects and reads who answers; keeps the connection.
fn open(vip: &str) -> std::io::Result<(TcpStream, String)> {
    let address: SocketAddr = vip.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut text, mut byte) = (String::new(), [0]);
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    Ok((stream, text))
}

fn spread(vip: &str, times: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        let (_, who) = open(vip).unwrap();
        *seen.entry(who).or_insert(0) += 1;
    }
    seen
}

struct Kept {
    lines: mpsc::Sender<Option<Tables>>,
    status: watch::Receiver<Status>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Kept {
    fn start(table: &str, range: &str, source: &str) -> Self {
        let keeper = Keeper::new(place(table, range), source.parse().unwrap(), Tools::default());
        let (status, shutdown) = (keeper.status(), Shutdown::new());
        let (lines, from) = mpsc::channel(8);
        let task = tokio::spawn(keeper.run(from, shutdown.clone()));
        Self { lines, status, shutdown, task }
    }

    /// Sends a line and waits until the kernel has it.
    async fn tell(&mut self, mut line: Tables, generation: u64) -> Status {
        line.generation = generation;
        let before = self.status.borrow().transactions;
        self.lines.send(Some(line)).await.unwrap();
        let done = |s: &Status| s.generation == generation && s.active && s.transactions > before;
        timeout(PATIENCE, self.status.wait_for(done)).await.expect("applied in time").unwrap().clone()
    }

    async fn end(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }
}

const RANGE: &str = "11.7.0.0/16";
const VIP: &str = "11.7.0.1:80";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace"]
async fn inside_connections() {
    if !guard() {
        return;
    }
    assert!(
        TcpStream::connect_timeout(&VIP.parse().unwrap(), Duration::from_secs(1)).is_err(),
        "no route yet"
    );
    let mut one = Backend::start("127.88.7.1:9001");
    let _two = Backend::start("127.88.7.1:9002");
    let (first, second) = ("127.88.7.1:9001", "127.88.7.1:9002");
    let mut kept = Kept::start("plenum_x", RANGE, "127.88.7.1");
    kept.tell(line(true, RANGE, &[("11.7.0.1", 80, &[first, second])]), 1).await;

    let seen = tokio::task::spawn_blocking(|| spread(VIP, 60)).await.unwrap();
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 10), "{seen:?}");
    let (stream, _) = open(VIP).unwrap();
    assert_eq!(
        stream.local_addr().unwrap().ip().to_string(),
        "127.88.7.1",
        "a source that everybody can answer"
    );
    let refused = open("11.7.0.1:81").unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "nobody serves it, and that is said at once"
    );

    // A back end leaves: what is open stays open, what is new goes elsewhere.
    let mut held = loop {
        let (stream, who) = open(VIP).unwrap();
        if who == first {
            break stream;
        }
    };
    kept.tell(line(false, RANGE, &[("11.7.0.1", 80, &[second])]), 2).await;
    let seen = tokio::task::spawn_blocking(|| spread(VIP, 40)).await.unwrap();
    assert_eq!(seen, BTreeMap::from([(second.to_owned(), 40)]));
    held.write_all(b"x").unwrap();
    let mut byte = [0];
    held.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x", "drained, not cut");

    // Its process dies: the open connection ends at once, and no new one fails.
    one.kill();
    held.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(held.read(&mut byte), Ok(0) | Err(_)) && held.as_raw_fd() > 0);
    assert_eq!(spread(VIP, 40).len(), 1);

    // Killed without notice: connections fail only until the tables know.
    let mut three = Backend::start("127.88.7.1:9003");
    kept.tell(line(false, RANGE, &[("11.7.0.1", 80, &[second, "127.88.7.1:9003"])]), 3).await;
    three.kill();
    kept.tell(line(false, RANGE, &[("11.7.0.1", 80, &[second])]), 4).await;
    assert_eq!(spread(VIP, 200).values().sum::<usize>(), 200);

    datagrams(&mut kept).await;
    flows_move(&mut kept).await;
    a_host_goes(&mut kept).await;

    // The balancer goes; packets do not notice.
    kept.end().await;
    assert_eq!(spread(VIP, 20).len(), 1);
    purge(&Tools::default(), "plenum_x", RANGE.parse().unwrap()).await.unwrap();
    purge(&Tools::default(), "plenum_x", RANGE.parse().unwrap()).await.unwrap();
    assert!(Tools::default().list("plenum_x").await.unwrap().is_none());
    assert!(open(VIP).is_err());
}

/// UDP takes the same way: answers come from the virtual address, and what nobody serves is refused.
async fn datagrams(kept: &mut Kept) {
    let backend = UdpSocket::bind("127.88.7.1:9053").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = backend.recv_from(&mut buffer) {
            let _ = backend.send_to(&buffer[..length], from);
        }
    });
    let mut table = line(false, RANGE, &[("11.7.0.1", 53, &["127.88.7.1:9053"])]);
    table.tables[0].protocol = Protocol::Udp;
    kept.tell(table.clone(), 5).await;
    for (port, served) in [(53, true), (54, false)] {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(("11.7.0.1", port)).unwrap();
        let mut buffer = [0; 64];
        // A refused datagram is told by the call itself or by the next one.
        match client.send(b"hello").and_then(|_| client.recv(&mut buffer)) {
            Ok(length) => assert!(served && &buffer[..length] == b"hello"),
            Err(error) => {
                assert!(!served && error.kind() != std::io::ErrorKind::WouldBlock, "{port}: {error}")
            }
        }
    }
    table.tables[0].backends.clear();
    kept.tell(table, 6).await;
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect("11.7.0.1:53").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let refused = client.send(b"hello").and_then(|_| client.recv(&mut [0; 64])).unwrap_err();
    assert_ne!(refused.kind(), std::io::ErrorKind::WouldBlock, "{refused}");
    assert_eq!(spread(VIP, 5).len(), 1, "TCP on the same address is another table");
}

/// A client that goes on sending from one port is not bound to a back end that has left.
async fn flows_move(kept: &mut Kept) {
    for port in [9055u16, 9056] {
        let backend = UdpSocket::bind(("127.88.7.1", port)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = backend.recv_from(&mut buffer) {
                let _ = backend.send_to(port.to_string().as_bytes(), from);
            }
        });
    }
    let table = |backend: &str| {
        let mut table = line(false, RANGE, &[("11.7.0.1", 55, &[backend])]);
        table.tables[0].protocol = Protocol::Udp;
        table
    };
    kept.tell(table("127.88.7.1:9055"), 7).await;
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect("11.7.0.1:55").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask = || {
        let mut buffer = [0; 64];
        let length = client.send(b"who").and_then(|_| client.recv(&mut buffer)).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(ask(), "9055");
    kept.tell(table("127.88.7.1:9056"), 8).await;
    let began = Instant::now();
    while ask() != "9056" {
        assert!(began.elapsed() < PATIENCE, "the flow stays with a back end that left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A host that is switched off says nothing: its open connections end all the same.
async fn a_host_goes(kept: &mut Kept) {
    let (gone, stays) = ("127.88.7.9:9100", "127.88.7.1:9101");
    let (_gone, _stays) = (Backend::start(gone), Backend::start(stays));
    kept.tell(line(false, RANGE, &[("11.7.0.1", 90, &[gone])]), 9).await;
    let (mut held, who) = open("11.7.0.1:90").unwrap();
    assert_eq!(who, gone);
    let off = "add table ip off
add chain ip off out { type filter hook output priority 0; policy accept; }
add rule ip off out ip daddr 127.88.7.9 drop
add rule ip off out ip saddr 127.88.7.9 drop
";
    Tools::default().apply(off).await.unwrap();
    kept.tell(line(false, RANGE, &[("11.7.0.1", 90, &[stays])]), 10).await;
    held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let began = Instant::now();
    let ended = loop {
        let mut byte = [0];
        match held.write_all(b"x").and_then(|()| held.read(&mut byte)) {
            Ok(0) => break "closed".to_owned(),
            Ok(_) => panic!("a host that is off answers"),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => break error.to_string(),
        }
        assert!(began.elapsed() < PATIENCE, "a connection to a host that is off hangs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(ended.contains("reset"), "{ended}");
    Tools::default().drop_table("off").await.unwrap();
}

async fn listed(table: &str) -> Found {
    read(&Tools::default().list(table).await.unwrap().unwrap(), &place(table, RANGE))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace"]
async fn inside_comparing() {
    if !guard() {
        return;
    }
    let tables: &[(&str, u16, &[&str])] =
        &[("11.7.0.1", 80, &["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"]), ("11.7.0.2", 53, &["10.0.0.4:4"])];
    let mut kept = Kept::start("plenum_x", RANGE, "127.88.7.1");
    kept.tell(line(true, RANGE, tables), 1).await;
    let Found::Ours(first) = listed("plenum_x").await else { panic!("our own table is read back") };
    assert_eq!((first.vips.len(), first.slots.len()), (2, 4));
    kept.end().await;

    // A second life over the same kernel changes only what differs, and finds what somebody else broke.
    let tools = Tools::default();
    tools.apply("delete element ip plenum_x slots_tcp { tcp . 11.7.0.1 . 80 . 1 }").await.unwrap();
    tools.apply("add element ip plenum_x slots_tcp { tcp . 11.7.9.9 . 9 . 0 : 10.0.0.9 . 9 }").await.unwrap();
    let mut kept = Kept::start("plenum_x", RANGE, "127.88.7.1");
    let status = kept.tell(line(true, RANGE, tables), 2).await;
    assert_eq!(status.transactions, 1);
    assert_eq!(listed("plenum_x").await, Found::Ours(first.clone()));
    kept.end().await;
    let kept = Kept::start("plenum_x", RANGE, "127.88.7.1");
    kept.lines.send(Some(line(true, RANGE, tables))).await.unwrap();
    timeout(PATIENCE, kept.status.clone().wait_for(|status| status.active)).await.unwrap().unwrap();
    assert_eq!(kept.status.borrow().transactions, 0, "nothing differed");
    kept.end().await;

    // A table of another shape is made anew; a lost one too.
    tools.apply("flush chain ip plenum_x leaving").await.unwrap();
    assert!(matches!(listed("plenum_x").await, Found::Foreign(_)));
    let mut kept = Kept::start("plenum_x", RANGE, "127.88.7.1");
    kept.tell(line(true, RANGE, tables), 3).await;
    assert_eq!(listed("plenum_x").await, Found::Ours(first.clone()));
    tools.drop_table("plenum_x").await.unwrap();
    // The change fails, because the table is gone; a look at the kernel puts everything back at once.
    kept.tell(line(false, RANGE, &[("11.7.0.2", 53, &["10.0.0.5:5"])]), 4).await;
    let Found::Ours(again) = listed("plenum_x").await else { panic!("it is back") };
    assert_eq!(again.vips, first.vips);
    assert_ne!(again.slots, first.slots);
    kept.end().await;
    large(&tools).await;
}

/// Many virtual addresses load in one transaction, and one change among them stays small.
async fn large(tools: &Tools) {
    let addresses: Vec<String> =
        (0..5000u32).map(|n| format!("11.7.{}.{}", 1 + n / 250, 1 + n % 250)).collect();
    let tables: Vec<(&str, u16, &[&str])> =
        addresses.iter().map(|a| (a.as_str(), 80, &["10.0.0.1:1", "10.0.0.2:2"][..])).collect();
    let mut kept = Kept::start("plenum_large", RANGE, "127.88.7.1");
    let began = Instant::now();
    kept.tell(line(true, RANGE, &tables), 1).await;
    let loaded = began.elapsed();
    let began = Instant::now();
    kept.tell(line(false, RANGE, &[("11.7.1.1", 80, &["10.0.0.1:1"])]), 2).await;
    eprintln!("5000 virtual addresses in {loaded:?}, one change in {:?}", began.elapsed());
    let Found::Ours(kernel) =
        read(&tools.list("plenum_large").await.unwrap().unwrap(), &place("plenum_large", RANGE))
    else {
        panic!("a large table is read back")
    };
    assert_eq!((kernel.vips.len(), kernel.slots.len()), (5000, 9999));
    kept.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace"]
async fn inside_side_by_side() {
    if !guard() {
        return;
    }
    let (_one, _two) = (Backend::start("127.88.1.1:9000"), Backend::start("127.88.2.1:9000"));
    let dir = tempfile::tempdir().unwrap();
    let mut kept = Vec::new();
    for n in [1, 2] {
        let range = format!("11.{n}.0.0/16");
        let keeper =
            Keeper::new(place(&format!("plenum_{n}"), &range), [127, 88, n, 1].into(), Tools::default());
        let (status, shutdown) = (keeper.status(), Shutdown::new());
        let (to, lines) = mpsc::channel(8);
        let socket = dir.path().join(format!("{n}.sock"));
        tokio::spawn(keeper::follow(socket.clone(), to, shutdown.clone()));
        tokio::spawn(keeper.run(lines, shutdown.clone()));
        let text = line(true, &range, &[(&format!("11.{n}.0.1"), 80, &[&format!("127.88.{n}.1:9000")])]);
        told(&socket, &text).await;
        timeout(PATIENCE, status.clone().wait_for(|s| s.active && s.vips == 1)).await.unwrap().unwrap();
        kept.push((status, shutdown, socket));
    }
    let both = || (spread("11.1.0.1:80", 5), spread("11.2.0.1:80", 5));
    let want = |n: u8| BTreeMap::from([(format!("127.88.{n}.1:9000"), 5)]);
    assert_eq!(both(), (want(1), want(2)));
    // Discovery goes and comes back with nothing to say yet: the tables stand, and are changed when it speaks.
    let (status, _, socket) = &mut kept[0];
    timeout(PATIENCE, status.wait_for(|s| !s.connected)).await.unwrap().unwrap();
    assert_eq!(both(), (want(1), want(2)));
    told(socket, &line(true, "11.1.0.0/16", &[])).await;
    timeout(PATIENCE, status.wait_for(|s| s.vips == 0 && s.active)).await.unwrap().unwrap();
    assert!(open("11.1.0.1:80").is_err());
    purge(&Tools::default(), "plenum_1", "11.1.0.0/16".parse().unwrap()).await.unwrap();
    assert_eq!(spread("11.2.0.1:80", 5), want(2), "the other instance is untouched");
    for (_, shutdown, _) in kept {
        shutdown.trigger();
    }
}

/// Plays discovery: tells one line to the first reader, then goes away.
async fn told(socket: &Path, line: &Tables) {
    let path: PathBuf = socket.to_owned();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let text = format!("{}\n", serde_json::to_string(line).unwrap());
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn without_the_tools_it_says_so_and_stays() {
    let tools = Tools { nft: "/nowhere/nft".into(), ip: "/nowhere/ip".into() };
    let keeper = Keeper::new(place("plenum_x", RANGE), [127, 0, 0, 1].into(), tools);
    let (mut status, shutdown) = (keeper.status(), Shutdown::new());
    let (to, lines) = mpsc::channel(1);
    let task = tokio::spawn(keeper.run(lines, shutdown.clone()));
    to.send(Some(line(true, RANGE, &[]))).await.unwrap();
    let told = timeout(PATIENCE, status.wait_for(|s| s.problem.is_some())).await.unwrap().unwrap().clone();
    assert!(!told.active && told.problem.unwrap().contains("install it"));
    shutdown.trigger();
    task.await.unwrap();
}

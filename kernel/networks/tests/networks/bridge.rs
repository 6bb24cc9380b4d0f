//! The bridge: who reaches whom, over both families, and what a restart repairs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plenum_networks::{Network, NetworkError, Networks, Port, Protocol, Settings, Wish};

use crate::world::{
    LONG, apart, ask, begin, call, closed, counts, datagram, echo, ip, no_outside, outside, serve, text,
    within,
};

const TCP: Port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
const UDP: Port = Port { host: 5353, container: 53, protocol: Protocol::Udp };

#[test]
fn reached_by_everybody() {
    apart("bridge::reach");
}

#[test]
fn restarts_repair_and_interrupt_nothing() {
    apart("bridge::restart");
}

#[test]
fn nothing_is_left() {
    apart("bridge::leave");
}

fn settings() -> Settings {
    Settings {
        instance: "t".to_owned(),
        network: "10.88.0.0/24".parse().ok(),
        network6: "fd88::/64".parse().ok(),
        dns: vec![[10, 88, 0, 1].into()],
        search: vec!["mesos".to_owned()],
        ..Settings::default()
    }
}

fn wish(ports: &[Port]) -> Wish {
    Wish { ports: ports.to_vec(), ..Wish::new(Network::Bridge) }
}

async fn open(folder: &Path) -> Networks {
    Networks::open(folder.join("run"), settings()).await.expect("opened")
}

#[tokio::test]
#[ignore = "run apart"]
async fn reach() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    let networks = open(dir.path()).await;
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let web = Wish { labels: labels.clone(), ..wish(&[TCP, UDP]) };
    let web = networks.attach("web", &web).await.unwrap();
    let other = networks.attach("other", &wish(&[])).await.unwrap();
    let told: Vec<String> = web.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["10.88.0.2/24", "fd88::2/64"]);
    assert_eq!(web.gateway, Some([10, 88, 0, 1].into()));
    assert_eq!((web.labels, web.search.as_slice(), web.dns.len()), (labels, &["mesos".to_owned()][..], 1));
    let refused = networks.attach("third", &wish(&[TCP])).await;
    assert!(matches!(refused, Err(NetworkError::Port { port: 8080, .. })), "{refused:?}");
    let unknown = networks.attach("third", &Wish::new(Network::Named("nowhere".into()))).await.unwrap_err();
    assert!(unknown.to_string().contains("mesos-bridge"), "{unknown}");

    serve(&web.netns, 80);
    echo(&web.netns, 53);
    let outside = outside(dir.path());
    let (web_ns, other_ns, far) = (Some(&*web.netns), Some(&*other.netns), Some(&*outside));
    for (who, to, port, caller) in [
        (other_ns, "10.88.0.2", 80, "10.88.0.3"),
        (other_ns, "fd88::2", 80, "fd88::3"),
        (None, "10.88.0.2", 80, "10.88.0.1"),
        // By the mapped port: from outside, with the caller's own address.
        (far, "192.0.2.1", 8080, "192.0.2.2"),
        (far, "2001:db8::1", 8080, "2001:db8::2"),
        // From the host.
        (None, "127.0.0.1", 8080, "10.88.0.1"),
        (None, "192.0.2.1", 8080, "192.0.2.1"),
        (None, "10.88.0.1", 8080, "10.88.0.1"),
        (None, "fd88::1", 8080, "fd88::1"),
        // From another container, and from itself.
        (other_ns, "10.88.0.1", 8080, "10.88.0.1"),
        (other_ns, "192.0.2.1", 8080, "10.88.0.1"),
        (other_ns, "fd88::1", 8080, "fd88::1"),
        (web_ns, "10.88.0.1", 8080, "10.88.0.1"),
        (web_ns, "fd88::1", 8080, "fd88::1"),
        (web_ns, "127.0.0.1", 80, "127.0.0.1"),
    ] {
        assert_eq!(ask(who, to, port), caller, "{who:?} to {to} {port}");
    }
    for (who, to) in [(None, "127.0.0.1"), (far, "192.0.2.1"), (far, "2001:db8::1"), (other_ns, "fd88::1")] {
        assert!(datagram(who, to, 5353), "{who:?} {to}");
    }
    // What leaves goes in the host's name.
    serve(&outside, 90);
    assert_eq!(ask(other_ns, "192.0.2.2", 90), "192.0.2.1");
    assert_eq!(ask(other_ns, "2001:db8::2", 90), "2001:db8::1");
    assert!(closed(far, "192.0.2.1", 80));
    // The IPv6 loopback address cannot be mapped: callers are refused at once, and take the next address.
    let refused = std::net::TcpStream::connect(("::1", 8080)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    loopback_is_closed(&other.netns);
    // Containers are no routers, neither for the host nor for each other.
    let believed = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").expect("IPv6");
    assert_eq!(within(&other.netns, believed).trim(), "0");
    let believed = std::fs::read_to_string("/proc/sys/net/ipv6/conf/plbt/accept_ra").expect("IPv6");
    assert_eq!(believed.trim(), "0");
    // An address that is asked for.
    let asked = |last| Wish { addresses: vec![[10, 88, 0, last].into()], ..wish(&[]) };
    let fixed = networks.attach("fixed", &asked(77)).await.unwrap();
    assert_eq!(fixed.addresses[0].to_string(), "10.88.0.77/24");
    for taken in [77, 2, 1, 0, 255] {
        assert!(networks.attach("fixed2", &asked(taken)).await.is_err(), "{taken}");
    }
    callers_of_datagrams_follow(&networks, &outside).await;
    // Gone is gone.
    networks.detach("web").await.unwrap();
    assert!(closed(None, "127.0.0.1", 8080) && closed(far, "192.0.2.1", 8080));
    no_outside(&outside);
}

/// A container with the machine's files has copies of its mounts; they do not keep another container's namespace.
async fn copies_go_as_well(networks: &Networks) {
    let one = networks.attach("copied", &wish(&[])).await.expect("attached");
    let mut other = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "slave", "sh", "-c", "echo ready; exec sleep 100"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the tool is installed");
    let mut ready = [0; 6];
    std::io::Read::read_exact(other.stdout.as_mut().expect("a pipe"), &mut ready).expect("it begins");
    let mounts = || std::fs::read_to_string(format!("/proc/{}/mountinfo", other.id())).expect("it runs");
    let path = one.netns.display().to_string();
    let before = mounts().contains(&path);
    networks.detach("copied").await.expect("detached");
    let after = mounts().contains(&path);
    other.kill().expect("it runs");
    other.wait().expect("it ended");
    assert!(before && !after);
}

/// Who goes on sending reaches whoever has the port now, also when there was nobody at first.
async fn callers_of_datagrams_follow(networks: &Networks, outside: &Path) {
    let port = Port { host: 6363, container: 63, protocol: Protocol::Udp };
    for to in ["192.0.2.1", "2001:db8::1"] {
        let to: std::net::IpAddr = to.parse().expect("an address");
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let caller = within(outside, move || std::net::UdpSocket::bind(any).expect("a socket"));
        caller.set_read_timeout(Some(crate::world::SHORT)).expect("set");
        let answered = || {
            (0..5).any(|_| {
                let mut back = [0; 9];
                caller.send_to(b"hi", (to, 6363)).is_ok() && caller.recv_from(&mut back).is_ok()
            })
        };
        assert!(!answered());
        for name in ["first", "second"] {
            let one = networks.attach(name, &wish(&[port])).await.expect("attached");
            echo(&one.netns, 63);
            assert!(answered(), "{to} {name}");
            networks.detach(name).await.expect("detached");
        }
    }
}

/// The host's loopback addresses cannot be reached by a container that tries; they can once the guard is gone, so the guard is what holds.
fn loopback_is_closed(netns: &Path) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.expect("a caller"), b"reached\n");
        }
    });
    within(netns, || {
        for name in ["all", "eth0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
            std::fs::write(path, "1").expect("set");
        }
        ip("addr flush dev lo");
        ip("route add 127.0.0.1 via 10.88.0.1 dev eth0");
    });
    assert!(closed(Some(netns), "127.0.0.1", port));
    text("nft", &["flush", "chain", "inet", "plenum_t_net", "guard"]);
    assert_eq!(ask(Some(netns), "127.0.0.1", port), "reached");
}

#[tokio::test]
#[ignore = "run apart"]
async fn restart() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    let outside = outside(dir.path());
    let networks = open(dir.path()).await;
    let web = networks.attach("web", &wish(&[TCP])).await.unwrap();
    let old = networks.attach("old", &wish(&[UDP])).await.unwrap();
    serve(&web.netns, 80);
    let mut calls: Vec<_> = ["192.0.2.1", "2001:db8::1"]
        .iter()
        .map(|to| call(Some(&outside), to, 8080, LONG).unwrap())
        .chain(call(None, "127.0.0.1", 8080, LONG))
        .collect();
    let before = counts(dir.path());
    let indexes = || {
        let links = text("ip", &["-o", "link"]);
        links.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let numbers = indexes();
    // Nothing is wrong, and nothing is changed: the same links, and the connections live.
    drop(networks);
    let networks = open(dir.path()).await;
    let both = BTreeSet::from(["web".to_owned(), "old".to_owned()]);
    networks.adopt(&both).await.unwrap();
    assert!(calls.iter_mut().all(|call| call.alive()));
    assert_eq!((counts(dir.path()), indexes()), (before, numbers.clone()));
    // Everything is wrong.
    drop(networks);
    let pair = text("ip", &["-o", "link", "show", "master", "plbt"]);
    let pair = pair.lines().next().unwrap().split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned();
    for line in [
        "addr del 10.88.0.1/24 dev plbt".to_owned(),
        "addr add 10.99.0.1/24 dev plbt".to_owned(),
        "addr del fd88::1/64 dev plbt".to_owned(),
        "link set plbt address 02:00:00:00:00:99".to_owned(),
        format!("link set {pair} nomaster"),
        format!("link set {pair} down"),
        "link add pvstray type veth peer name pvstray2".to_owned(),
        "link set pvstray master plbt".to_owned(),
    ] {
        ip(&line);
    }
    within(&web.netns, || {
        ip("addr flush dev eth0");
        ip("link set eth0 down");
    });
    for wrong in [
        "delete element inet plenum_t_net ports4_tcp { 8080 }",
        "delete element inet plenum_t_net ports6_tcp { 8080 }",
        "add element inet plenum_t_net ports6_tcp { 8080 : fd88::77 . 80 }",
        "add element inet plenum_t_net ports4_udp { 99 : 10.88.0.77 . 80 }",
        "flush chain inet plenum_t_net leaving",
        "add rule inet plenum_t_net arriving drop",
    ] {
        let said = text("nft", &[wrong]);
        assert_eq!(said, "", "{wrong}");
    }
    let networks = open(dir.path()).await;
    networks.adopt(&BTreeSet::from(["web".to_owned()])).await.unwrap();
    assert!(calls.iter_mut().all(|call| call.alive()), "connections outlive the repair");
    for (who, to) in [(None, "127.0.0.1"), (Some(&*outside), "192.0.2.1"), (Some(&*outside), "2001:db8::1")] {
        assert!(!ask(who, to, 8080).is_empty(), "{to}");
    }
    let rules = text("nft", &["list", "ruleset"]);
    assert!(
        !rules.contains("fd88::77") && !rules.contains("10.88.0.77") && !rules.contains("\tdrop\n"),
        "{rules}"
    );
    let links = text("ip", &["-o", "link"]);
    assert!(!links.contains("pvstray") && !old.netns.exists(), "{links}");
    assert!(!text("ip", &["addr"]).contains("10.99.0.1"));
    // An attach of one that is there keeps it as well.
    let again = networks.attach("web", &wish(&[TCP])).await.unwrap();
    assert_eq!(again, web);
    assert!(calls.iter_mut().all(|call| call.alive()));
    // A table that somebody else made in our name, and one that is gone.
    for wrong in [
        "add table inet plenum_t_net; add map inet plenum_t_net ports4_tcp { type ipv4_addr : inet_service; }",
        "",
    ] {
        text("nft", &["delete", "table", "inet", "plenum_t_net"]);
        text("nft", &[wrong]);
        networks.adopt(&BTreeSet::from(["web".to_owned()])).await.unwrap();
        assert_eq!(ask(Some(&outside), "192.0.2.1", 8080), "192.0.2.2");
    }
    // A table that goes while nobody looks is made again with the next change.
    text("nft", &["delete", "table", "inet", "plenum_t_net"]);
    networks.attach("old", &wish(&[UDP])).await.unwrap();
    assert_eq!(ask(Some(&outside), "192.0.2.1", 8080), "192.0.2.2");
    no_outside(&outside);
}

#[tokio::test]
#[ignore = "run apart"]
async fn leave() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    let clean = counts(dir.path());
    let networks = open(dir.path()).await;
    networks.adopt(&BTreeSet::new()).await.unwrap();
    let start = counts(dir.path());
    for round in 0..5u16 {
        let mut workers = tokio::task::JoinSet::new();
        for at in 0..40u16 {
            let networks = networks.clone();
            workers.spawn(async move {
                let (id, host) = (format!("c{at}"), 3000 + at);
                networks.attach(&id, &wish(&[Port { host, ..TCP }, Port { host, ..UDP }])).await.unwrap();
                if (round + at) % 3 == 0 {
                    networks.attach(&id, &wish(&[Port { host: 5000 + at, ..TCP }])).await.unwrap();
                }
                networks.detach(&id).await.unwrap();
                networks.detach(&id).await.unwrap();
            });
        }
        while let Some(done) = workers.join_next().await {
            done.unwrap();
        }
        assert_eq!(counts(dir.path()), start, "round {round}");
    }
    copies_go_as_well(&networks).await;
    networks.attach("a", &wish(&[TCP])).await.unwrap();
    // Another instance has names of its own.
    let other = Settings { instance: "u".to_owned(), network: None, ..Settings::default() };
    let second = Networks::open(dir.path().join("second"), other.clone()).await.unwrap();
    let b = second.attach("a", &wish(&[Port { host: 9090, ..TCP }])).await.unwrap();
    Networks::teardown(&dir.path().join("run"), settings()).await.unwrap();
    serve(&b.netns, 80);
    assert!(!ask(None, "127.0.0.1", 9090).is_empty(), "the other instance's is left alone");
    // Without an IPv6 range there is its own loopback address and nothing else.
    assert_eq!(ask(Some(&b.netns), "::1", 80), "::1");
    let six = within(&b.netns, || text("ip", &["-6", "-o", "addr"]));
    assert_eq!(six.lines().count(), 1, "{six}");
    Networks::teardown(&dir.path().join("second"), other).await.unwrap();
    Networks::teardown(&dir.path().join("run"), settings()).await.unwrap();
    assert_eq!(counts(dir.path()), clean);
}

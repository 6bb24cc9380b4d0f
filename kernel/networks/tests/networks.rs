//! Attach, map, adopt and detach in a network namespace and mount namespace of the test's own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use plenum_networks::{Network, Networks, Port, Protocol, Settings, Wish, namespace};

fn text(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool is installed");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs python inside a namespace and gives what it prints.
fn inside(netns: &Path, code: &str) -> String {
    text("nsenter", &[&format!("--net={}", netns.display()), "python3", "-c", code])
}

#[test]
fn in_a_namespace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let own = std::env::current_exe().unwrap();
    // With ids of its own as well: whatever it started ends with it, also when it fails or hangs.
    let status = Command::new("timeout")
        .args(["-k", "5", "240", "unshare", "--pid", "--fork", "--kill-child"])
        .args(["-n", "-m", "--propagation", "private"])
        .arg(own)
        .args(["--exact", "whole_life", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by in_a_namespace"]
async fn whole_life() {
    assert_eq!(text("ip", &["-o", "link"]).lines().count(), 1, "only in a namespace of its own");
    let dir = tempfile::tempdir().unwrap();
    text("ip", &["link", "set", "lo", "up"]);
    let open = || async { Networks::open(dir.path().to_owned(), Settings::default()).await.unwrap() };
    let networks = open().await;
    networks.adopt(&BTreeSet::new()).await.unwrap();
    let start = (text("ip", &["-o", "link"]).lines().count(), text("nft", &["list", "ruleset"]));

    let port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
    let wish = Wish { network: Network::Bridge, ports: vec![port] };
    let web = networks.attach("web", &wish).await.unwrap();
    let other = networks.attach("other", &Wish { ports: vec![], ..wish.clone() }).await.unwrap();
    assert!(networks.attach("third", &wish).await.is_err(), "the port is taken");
    let server = "import socket;s=socket.create_server(('',80));print('up',flush=True)\nwhile 1:\n c,a=s.accept();c.sendall(a[0].encode());c.close()";
    let mut child = Command::new("nsenter")
        .args([&format!("--net={}", web.netns.display()), "python3", "-c", server])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let ask = |to: &str, port: u16| {
        format!("import socket;print(socket.create_connection(('{to}',{port}),20).recv(99).decode())")
    };
    let answers = [
        inside(&other.netns, &ask(&web.addresses[0].address.to_string(), 80)),
        inside(&other.netns, &ask("172.31.254.1", 8080)),
        inside(&web.netns, &ask("172.31.254.1", 8080)),
        text("python3", &["-c", &ask("127.0.0.1", 8080)]),
        text("python3", &["-c", &ask("172.31.254.1", 8080)]),
    ];
    datagrams(&networks, wish.clone()).await;
    // From outside: a host on another link. And the host's own loopback stays closed to containers.
    let outside = dir.path().join("outside");
    namespace::make(&outside).unwrap();
    let path = outside.display().to_string();
    text("ip", &["link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", &path]);
    text("ip", &["addr", "add", "192.0.2.1/24", "dev", "out0"]);
    text("ip", &["link", "set", "out0", "up"]);
    for line in [["addr", "add", "192.0.2.2/24"], ["link", "set", "up"]] {
        let mut arguments = vec![format!("--net={path}"), "ip".to_owned()];
        arguments.extend(line.iter().map(|&word| word.to_owned()));
        arguments.extend(["dev".to_owned(), "eth0".to_owned()]);
        Command::new("nsenter").args(arguments).status().unwrap();
    }
    let far = inside(&outside, &ask("192.0.2.1", 8080));
    assert_eq!(far.trim(), "192.0.2.2", "the caller's address is kept");
    text("ip", &["link", "del", "out0"]);
    namespace::remove(&outside).unwrap();
    loopback_is_closed(&other.netns);
    // A restart finds the running container, repairs the table, and removes what does not run.
    drop(networks);
    text("nft", &["delete", "table", "ip", "plenum_ports"]);
    let networks = open().await;
    networks.adopt(&BTreeSet::from(["web".to_owned()])).await.unwrap();
    let again = text("python3", &["-c", &ask("127.0.0.1", 8080)]);
    child.kill().unwrap();
    child.wait().unwrap();
    for answer in answers.iter().chain([&again]) {
        assert!(answer.starts_with("172.31.254."), "{answers:?} {again}");
    }
    assert!(!namespace::is_there(&other.netns));
    networks.detach("web").await.unwrap();
    networks.detach("web").await.unwrap();
    // What a crash after each step of an attach leaves is completed by the next attach, and removed by adopt.
    for completed in [true, false] {
        for steps in 1..=3 {
            std::fs::write(dir.path().join("containers/cut"), "{\"ports\":[]}").unwrap();
            if steps > 1 {
                std::fs::write(dir.path().join("addresses/172.31.254.9"), "cut").unwrap();
            }
            if steps > 2 {
                namespace::make(&dir.path().join("netns/cut")).unwrap();
            }
            if completed {
                networks.attach("cut", &wish).await.unwrap();
            }
            networks.adopt(&BTreeSet::new()).await.unwrap();
            assert_eq!(text("nft", &["list", "ruleset"]), start.1);
            assert!(!dir.path().join("netns/cut").exists() && !dir.path().join("containers/cut").exists());
        }
    }
    for round in 0..200 {
        let id = format!("c{round}");
        networks.attach(&id, &wish).await.unwrap();
        networks.detach(&id).await.unwrap();
    }
    assert_eq!(start, (text("ip", &["-o", "link"]).lines().count(), text("nft", &["list", "ruleset"])));
    for part in ["containers", "addresses", "netns"] {
        assert_eq!(std::fs::read_dir(dir.path().join(part)).unwrap().count(), 0, "{part}");
    }
}

/// The host's loopback addresses cannot be reached by a container that tries; they can once the guard is gone, so the guard is what holds.
fn loopback_is_closed(netns: &Path) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let path = format!("--net={}", netns.display());
    let set = "for d in ('all','eth0'): open('/proc/sys/net/ipv4/conf/%s/route_localnet'%d,'w').write('1')";
    inside(netns, set);
    text("nsenter", &[&path, "ip", "addr", "flush", "dev", "lo"]);
    text("nsenter", &[&path, "ip", "route", "add", "127.0.0.1", "via", "172.31.254.1", "dev", "eth0"]);
    let code = |within: u32| {
        format!("import socket;socket.create_connection(('127.0.0.1',{port}),{within});print('reached')")
    };
    let guarded = inside(netns, &code(2));
    text("nft", &["flush", "chain", "ip", "plenum_ports", "guard"]);
    let open = inside(netns, &code(20));
    assert!(!guarded.contains("reached") && open.contains("reached"), "{guarded} {open}");
}

/// A UDP mapping, called from the host itself.
async fn datagrams(networks: &Networks, wish: Wish) {
    let mut line = [0; 3];
    let datagram = Port { host: 5353, container: 53, protocol: Protocol::Udp };
    let names = networks.attach("names", &Wish { ports: vec![datagram], ..wish }).await.expect("works");
    let echo = "import socket;s=socket.socket(type=socket.SOCK_DGRAM);s.bind(('',53));print('up',flush=True);d,a=s.recvfrom(9);s.sendto(d,a)";
    let mut server = Command::new("nsenter")
        .args([&format!("--net={}", names.netns.display()), "python3", "-c", echo])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("works");
    std::io::Read::read_exact(server.stdout.as_mut().expect("works"), &mut line).expect("works");
    let call = "import socket;s=socket.socket(type=socket.SOCK_DGRAM);s.settimeout(20);s.connect(('127.0.0.1',5353));s.send(b'hi');print(s.recv(9))";
    let heard = text("python3", &["-c", call]);
    server.kill().expect("works");
    server.wait().expect("works");
    assert_eq!(heard.trim(), "b'hi'");
}

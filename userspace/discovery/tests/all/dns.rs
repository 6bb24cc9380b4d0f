//! DNS over real sockets on loopback, asked by `dig`, and by packets that mean no good.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use plenum_base::service::Shutdown;
use plenum_discovery::dns::Server;
use plenum_discovery::dns::answer::{Outcome, Site, Transport, answer};
use plenum_discovery::dns::forward::Forwarder;
use plenum_discovery::feed::Facts;
use plenum_discovery::publisher::core::Core;
use plenum_discovery::replica::core::Replica;
use plenum_discovery::replica::{Shared, disk};
use tokio::net::{TcpListener, UdpSocket};

use crate::events::{added, snapshot, task, updated};

/// A replica with `tasks` tasks.
pub fn filled(tasks: u16) -> Replica {
    let mut core = Core::new(1, "11.0.0.0/16".parse().unwrap(), Facts::new(), Facts::new());
    core.event(&snapshot(&[0, 1, 2], &[], vec![]));
    for n in 0..tasks {
        let id = format!("t{n}");
        core.event(&added(task(&id, u32::from(n) % 3, 9000 + 2 * n, "TASK_RUNNING")));
        core.event(&updated(&id, "TASK_RUNNING", Some(true)));
    }
    let mut replica = Replica::default();
    replica.apply(core.whole()).unwrap();
    replica
}

fn site() -> Site {
    Site { ttl: 5, server: [127, 0, 0, 1].into() }
}

async fn server(shared: Shared, resolvers: Vec<SocketAddr>, shutdown: &Shutdown) -> SocketAddr {
    let (udp, tcp, at) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = udp.local_addr().unwrap();
        // The port may be taken for the other transport.
        if let Ok(tcp) = TcpListener::bind(at).await {
            break (udp, tcp, at);
        }
    };
    let server = Server::new(shared, site(), Forwarder::new(resolvers, &[[127, 0, 0, 2].into()]));
    tokio::spawn(server.clone().udp(udp, shutdown.clone()));
    tokio::spawn(server.tcp(tcp, shutdown.clone()));
    at
}

pub async fn dig(at: SocketAddr, question: &str) -> String {
    let question = question.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        Command::new("dig")
            .args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+tries=1", "+time=5"])
            .args(question.split(' '))
            .output()
    });
    String::from_utf8(asked.await.unwrap().expect("dig (Debian: bind9-dnsutils) is installed").stdout)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_is_answered() {
    let shutdown = Shutdown::new();
    let at = server(Shared::new(filled(3)), Vec::new(), &shutdown).await;
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for (question, want) in [
        ("+short web-shop.marathon.mesos A", vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("+short +tcp WEB-shop.Marathon.mesos A", vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("+short web-shop.marathon.mesos.thisdcos.directory A", vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("+short marathon.mesos", vec!["10.0.0.9"]),
        ("+short ns1.mesos", vec!["127.0.0.1"]),
        ("+short ready.spartan", vec!["127.0.0.1"]),
        ("+short localhost AAAA", vec!["::1"]),
        ("+short mesos NS", vec!["ns1.mesos."]),
    ] {
        assert_eq!(lines(dig(at, question).await), want, "{question}");
    }
    let vip = dig(at, "+short shopweb.marathon.l4lb.thisdcos.directory").await;
    assert!(vip.starts_with("11.0."), "{vip}");
    assert_eq!(vip, dig(at, "+short shopweb.marathon.l4lb.thisdcos.global").await);
    assert_eq!(vip, dig(at, "+short shopweb.marathon.dclb.thisdcos.directory").await);
    let soa = dig(at, "+short mesos SOA").await;
    assert!(soa.starts_with("ns1.mesos. root.ns1.mesos. "), "{soa}");
    let srv = dig(at, "_web._web-shop._tcp.marathon.mesos SRV").await;
    for want in ["ANSWER: 3", "ADDITIONAL: 4", " SRV\t0 0 9002 web-shop-", "flags: qr aa rd ra", "udp: 1232"]
    {
        assert!(srv.contains(want), "{want}: {srv}");
    }
    for (question, want) in [
        ("nobody.marathon.mesos", vec!["NXDOMAIN", "ANSWER: 0", "AUTHORITY: 1"]),
        ("_tcp.marathon.mesos", vec!["NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
        ("web-shop.marathon.mesos AAAA", vec!["NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
        ("nobody.l4lb.thisdcos.directory", vec!["NXDOMAIN"]),
        ("example.org", vec!["REFUSED"]),
        ("mesos AXFR", vec!["Transfer failed"]),
        ("mesos SOA +edns=1 +noednsneg", vec!["BADVERS"]),
        ("mesos CH TXT", vec!["REFUSED"]),
        ("mesos +opcode=4", vec!["NOTIMP"]),
    ] {
        let text = dig(at, question).await;
        assert!(want.iter().all(|want| text.contains(want)), "{question}: {text}");
    }
    shutdown.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_say_so_and_come_over_tcp() {
    let shutdown = Shutdown::new();
    let at = server(Shared::new(filled(200)), Vec::new(), &shutdown).await;
    let name = "_web._web-shop._tcp.marathon.mesos SRV";
    for plain in ["+noedns", "+bufsize=1232", "+bufsize=65535"] {
        let cut = dig(at, &format!("+ignore {plain} {name}")).await;
        assert!(cut.contains(" tc ") && cut.contains("ANSWER: 0"), "{plain}: {cut}");
    }
    let whole = dig(at, name).await;
    assert!(whole.contains("ANSWER: 200") && whole.contains("(TCP)"), "{whole}");
    shutdown.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_are_asked_elsewhere() {
    let shutdown = Shutdown::new();
    // The machine's resolver is played by a second server, which knows `.mesos`; the first is asked through a name that is not its own.
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let there = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            // A forged answer first: it must not be believed.
            let mut forged = answer.clone();
            forged[0] ^= 1;
            forged[3] |= 5;
            upstream.send_to(&forged, from).await.unwrap();
            answer[3] |= 3;
            upstream.send_to(&answer, from).await.unwrap();
        }
    });
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = server(Shared::new(filled(1)), vec![silent.local_addr().unwrap(), there], &shutdown).await;
    let text = dig(at, "example.org").await;
    assert!(text.contains("NXDOMAIN"), "{text}");
    // While one waits for a silent resolver, our own names are answered.
    let alone = server(Shared::new(filled(1)), vec![silent.local_addr().unwrap()], &shutdown).await;
    let waiting = tokio::spawn(async move { dig(alone, "example.org").await });
    assert_eq!(dig(alone, "+short web-shop.marathon.mesos").await, "10.0.0.1\n");
    let text = waiting.await.unwrap();
    assert!(text.contains("SERVFAIL"), "{text}");
    shutdown.trigger();
}

/// A small generator, so that a failure can be repeated.
fn noise(seed: &mut u64) -> u8 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 24) as u8
}

#[test]
fn hostile_packets() {
    let replica = filled(20);
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in ["_web", "_web-shop", "_tcp", "marathon", "mesos"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 33, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let ask = |packet: &[u8]| {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Outcome::Reply(reply) = answer(packet, &replica, &site(), transport) {
                assert!(reply.len() >= 12 && reply[..2] == packet[..2] && reply[2] & 0x80 != 0);
                assert!(transport == Transport::Tcp || reply.len() <= 1232);
                assert_eq!(
                    answer(&reply, &replica, &site(), transport),
                    Outcome::Drop,
                    "an answer gets no answer"
                );
            }
        }
    };
    let Outcome::Reply(good) = answer(&query, &replica, &site(), Transport::Tcp) else {
        panic!("the query is good")
    };
    assert_eq!((good[3] & 15, good[7]), (0, 20));
    for cut in 0..query.len() {
        ask(&query[..cut]);
    }
    let mut seed = 0x5eed_u64;
    for _ in 0..100_000 {
        let mut packet = query.clone();
        for _ in 0..1 + noise(&mut seed) % 6 {
            let at = usize::from(noise(&mut seed)) % packet.len();
            packet[at] = noise(&mut seed);
        }
        ask(&packet);
    }
    for _ in 0..20_000 {
        let length = usize::from(noise(&mut seed));
        let packet: Vec<u8> = (0..length).map(|_| noise(&mut seed)).collect();
        ask(&packet);
    }
    // A name that points at itself, two questions, a label that is too long, an OPT record twice.
    ask(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 12, 0, 1, 0, 1]);
    ask(&[0, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1]);
    let twice = [&query[..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
    let mut twice = twice;
    twice[11] = 2;
    let Outcome::Reply(reply) = answer(&twice, &replica, &site(), Transport::Udp) else { panic!("FORMERR") };
    assert_eq!(reply[3] & 15, 1);
}

#[tokio::test]
async fn the_copy_survives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.json");
    let (shared, shutdown) = (Shared::new(Replica::default()), Shutdown::new());
    let keeping = tokio::spawn(disk::keep(shared.clone(), path.clone(), shutdown.clone()));
    let whole = filled(4).copy();
    let delta = plenum_discovery::feed::Delta {
        epoch: 3,
        generation: 9,
        whole: Some(whole.facts.clone()),
        changes: vec![],
    };
    assert!(shared.apply(delta));
    tokio::time::timeout(Duration::from_secs(10), async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is written without being asked");
    shutdown.trigger();
    keeping.await.unwrap();
    let again = disk::load(&path);
    assert_eq!((again.step(), again.facts()), ((3, 9), &whole.facts));
    assert!(again.vips().eq(filled(4).vips()));
    for broken in [&b"{"[..], b"", b"[]", b"{\"format\":99,\"epoch\":1,\"generation\":1,\"facts\":{}}"] {
        std::fs::write(&path, broken).unwrap();
        assert!(disk::load(&path).facts().is_empty());
    }
}

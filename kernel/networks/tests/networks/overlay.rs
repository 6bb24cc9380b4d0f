//! The overlay: two hosts, joined by a link, each with its slice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use plenum_networks::{
    Attached, Network, Networks, Overlay, Peer, Port, Protocol, Settings, Wish, namespace,
};

use crate::world::{
    LONG, apart, ask, begin, call, closed, counts, datagram, echo, host, ip, ip_in, serve, text, within,
};

#[test]
fn containers_of_two_hosts_reach_each_other() {
    apart("overlay::two");
}

#[test]
fn over_ipv6_and_with_other_settings() {
    apart("overlay::changes");
}

/// A host: its namespace, its folder, its settings.
#[derive(Clone)]
struct Host {
    netns: PathBuf,
    folder: PathBuf,
    settings: Settings,
}

fn settings(slice: u32, node: &str) -> Settings {
    let overlay = Overlay {
        name: "dcos".to_owned(),
        slice,
        node: node.parse().unwrap(),
        range6: "fd09::/48".parse().ok(),
        ..Overlay::default()
    };
    Settings { instance: "t".to_owned(), overlay: Some(overlay), ..Settings::default() }
}

/// Two hosts with `192.0.2.1` and `.2`, `2001:db8::1` and `::2` on one link with an MTU of 9000.
fn hosts(folder: &Path, nodes: [&str; 2]) -> [Host; 2] {
    let made = [0u32, 1].map(|at| {
        let netns = folder.join(format!("host{at}"));
        namespace::make(&netns).unwrap();
        let node = nodes[usize::try_from(at).unwrap()];
        Host { netns, folder: folder.join(format!("run{at}")), settings: settings(at, node) }
    });
    ip(&format!(
        "link add up0 netns {} mtu 9000 type veth peer name up0 netns {} mtu 9000",
        made[0].netns.display(),
        made[1].netns.display()
    ));
    for (at, one) in made.iter().enumerate() {
        let last = at + 1;
        for line in [
            "link set lo up".to_owned(),
            format!("addr add 192.0.2.{last}/24 dev up0"),
            format!("addr add 2001:db8::{last}/64 dev up0 nodad"),
            "link set up0 up".to_owned(),
        ] {
            ip_in(&one.netns, &line);
        }
    }
    made
}

impl Host {
    fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Networks) -> F + Send + 'static,
    ) -> T {
        let own = self.clone();
        host(&self.netns, move || async move {
            work(Networks::open(own.folder, own.settings).await.expect("opened")).await
        })
    }

    fn attach(&self, container: &'static str, ports: Vec<Port>) -> Attached {
        self.run(move |networks| async move {
            let wish = Wish { ports, ..Wish::new(Network::Named("dcos".to_owned())) };
            networks.attach(container, &wish).await.expect("attached")
        })
    }

    fn peer(&self) -> Peer {
        let overlay = self.settings.overlay.clone().unwrap();
        overlay.peer(overlay.slice, overlay.node).unwrap()
    }

    fn know(&self, peers: Vec<Peer>) {
        self.run(move |networks| async move { networks.set_peers(peers).await.expect("set") });
    }

    fn text(&self, tool: &'static str, line: &'static str) -> String {
        within(&self.netns, move || text(tool, &line.split(' ').collect::<Vec<_>>()))
    }
}

#[test]
#[ignore = "run apart"]
fn two() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = hosts(dir.path(), ["192.0.2.1", "192.0.2.2"]);
    let clean = within(&one.netns, {
        let folder = one.folder.clone();
        move || counts(&folder)
    });
    one.know(vec![two.peer()]);
    two.know(vec![one.peer()]);
    let tcp = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
    let udp = Port { host: 5353, container: 53, protocol: Protocol::Udp };
    let web = one.attach("web", vec![tcp, udp]);
    let near = one.attach("near", vec![]);
    let far = two.attach("far", vec![]);
    let told: Vec<String> = web.addresses.iter().chain(&far.addresses).map(ToString::to_string).collect();
    assert_eq!(told, ["9.0.0.2/24", "fd09::2/64", "9.0.1.2/24", "fd09:0:0:1::2/64"]);
    assert_eq!((web.name.as_str(), web.gateway), ("dcos", Some([9, 0, 0, 1].into())));
    serve(&web.netns, 80);
    serve(&two.netns, 90);
    echo(&web.netns, 53);
    let (near_ns, far_ns) = (Some(&*near.netns), Some(&*far.netns));
    let (one_ns, two_ns) = (Some(&*one.netns), Some(&*two.netns));
    for (who, to, port, caller) in [
        // With their own addresses, whichever host they are on.
        (far_ns, "9.0.0.2", 80, "9.0.1.2"),
        (far_ns, "fd09::2", 80, "fd09:0:0:1::2"),
        (near_ns, "9.0.0.2", 80, "9.0.0.3"),
        // The other host itself.
        (two_ns, "9.0.0.2", 80, "9.0.1.0"),
        (two_ns, "fd09::2", 80, "fd09::1:0:1:0:0"),
        // Mapped ports: from outside, from containers of both hosts, from the host.
        (two_ns, "192.0.2.1", 8080, "192.0.2.2"),
        (two_ns, "2001:db8::1", 8080, "2001:db8::2"),
        (far_ns, "192.0.2.1", 8080, "192.0.2.2"),
        (near_ns, "192.0.2.1", 8080, "9.0.0.1"),
        (Some(&*web.netns), "9.0.0.1", 8080, "9.0.0.1"),
        (one_ns, "127.0.0.1", 8080, "9.0.0.1"),
        // What leaves the range goes in the host's name.
        (near_ns, "192.0.2.2", 90, "192.0.2.1"),
        (near_ns, "2001:db8::2", 90, "2001:db8::1"),
    ] {
        assert_eq!(ask(who, to, port), caller, "{who:?} to {to} {port}");
    }
    assert!(datagram(far_ns, "9.0.0.2", 53) && datagram(two_ns, "192.0.2.1", 5353));
    // A container of the bridge reaches the overlay, too, in its host's name.
    let bridged = two.run(|networks| async move {
        networks.attach("b", &Wish::new(Network::Bridge)).await.expect("attached")
    });
    assert_eq!(ask(Some(&bridged.netns), "9.0.0.2", 80), "9.0.1.0");
    // The MTU leaves room for the tunnel, and full packets arrive.
    for netns in [&web.netns, &far.netns] {
        assert!(within(netns, || text("ip", &["link", "show", "eth0"])).contains("mtu 8950"));
    }
    let mut old = call(far_ns, "9.0.0.2", 80, LONG).unwrap();
    old.carry(2_000_000);
    // A restart of both changes nothing, not even before the peers are named again.
    let before = [&one, &two].map(|host| {
        (
            host.text("ip", "route"),
            host.text("bridge", "fdb show dev plvt"),
            host.text("ip", "neigh show nud permanent"),
        )
    });
    for host in [&one, &two] {
        host.run(|networks| async move {
            let all = ["web", "near", "far", "b"].map(str::to_owned);
            networks.adopt(&BTreeSet::from(all)).await.expect("adopted");
        });
    }
    assert!(old.alive());
    // What somebody broke is repaired by naming the peers.
    for line in ["route del 9.0.1.0/24", "neigh del 9.0.1.0 dev plvt", "link set plvt mtu 1200"] {
        ip_in(&one.netns, line);
    }
    assert!(closed(near_ns, "9.0.1.2", 80));
    one.know(vec![two.peer()]);
    two.know(vec![one.peer()]);
    assert!(old.alive());
    let after = [&one, &two].map(|host| {
        (
            host.text("ip", "route"),
            host.text("bridge", "fdb show dev plvt"),
            host.text("ip", "neigh show nud permanent"),
        )
    });
    assert_eq!(before, after);
    // A node that is gone has no route; one that has moved is found again.
    one.know(vec![]);
    assert!(closed(near_ns, "9.0.1.2", 80) && !one.text("ip", "route").contains("9.0.1.0"));
    one.know(vec![Peer { node: [192, 0, 2, 77].into(), ..two.peer() }]);
    assert!(closed(far_ns, "9.0.0.2", 80));
    one.know(vec![two.peer()]);
    assert_eq!(ask(far_ns, "9.0.0.2", 80), "9.0.1.2");
    // Nothing is left.
    drop(old);
    for one in [&one, &two] {
        let (folder, settings) = (one.folder.clone(), one.settings.clone());
        host(
            &one.netns,
            move || async move { Networks::teardown(&folder, settings).await.expect("removed") },
        );
    }
    let folder = one.folder.clone();
    assert_eq!(within(&one.netns, move || counts(&folder)), clean);
}

#[test]
#[ignore = "run apart"]
fn changes() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    let [mut one, two] = hosts(dir.path(), ["2001:db8::1", "2001:db8::2"]);
    one.know(vec![two.peer()]);
    two.know(vec![one.peer()]);
    let (web, far) = (one.attach("web", vec![]), two.attach("far", vec![]));
    serve(&web.netns, 80);
    for (to, caller) in [("9.0.0.2", "9.0.1.2"), ("fd09::2", "fd09:0:0:1::2")] {
        assert_eq!(ask(Some(&far.netns), to, 80), caller);
    }
    assert!(within(&web.netns, || text("ip", &["link", "show", "eth0"])).contains("mtu 8930"));
    // Another number of the network: the tunnel is made anew, peers and containers stay.
    let number = |host: &mut Host, vni| host.settings.overlay.as_mut().unwrap().vni = vni;
    number(&mut one, 77);
    one.run(|_| async {});
    assert!(one.text("ip", "-d link show plvt").contains("id 77 "));
    assert!(closed(Some(&far.netns), "9.0.0.2", 80));
    number(&mut one, 1024);
    one.run(|_| async {});
    assert_eq!(ask(Some(&far.netns), "9.0.0.2", 80), "9.0.1.2");
    // No overlay any more: its links go, its containers can be removed, and peers are refused.
    one.settings.overlay = None;
    let refused = one.run(|networks| async move {
        networks.adopt(&BTreeSet::new()).await.expect("adopted");
        let peer = Overlay::default().peer(1, [192, 0, 2, 2].into()).expect("a peer");
        assert!(networks.set_peers(vec![]).await.is_ok());
        networks.set_peers(vec![peer]).await.is_err()
    });
    assert!(refused && !web.netns.exists());
    let links = one.text("ip", "-o link");
    assert!(!links.contains("plvt") && !links.contains("plot") && !links.contains("pv"), "{links}");
}

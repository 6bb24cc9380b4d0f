//! Networks of CNI plugins; the plugin is a shell script that says what it was called with, and behaves as its configuration tells it to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plenum_networks::{Attached, Cni, Network, NetworkError, Networks, Port, Protocol, Settings, Wish};

use crate::world::{apart, ask, begin, counts, ip, serve, text, within};

#[test]
fn plugins_attach_check_and_detach() {
    apart("cni::good");
}

#[test]
fn plugins_fail_hang_and_lie() {
    apart("cni::bad");
}

/// Writes down each call; `ADD` makes an interface with an address. `MODE` in the configuration asks for faults.
const PLUGIN: &str = r#"#!/bin/sh
input=$(cat)
here=$(dirname "$0")
echo "$CNI_COMMAND $(basename "$0") $CNI_CONTAINERID $CNI_IFNAME" >> "$here/calls"
printf '%s\n' "$input" > "$here/$CNI_COMMAND.$(basename "$0").json"
env > "$here/environment"
mode=$(printf '%s' "$input" | sed -n 's/.*"mode" *: *"\([a-z]*\)".*/\1/p')
address=10.66.0.5/24
case "$CNI_COMMAND$mode" in
ADDfail) echo '{"cniVersion":"1.0.0","code":11,"msg":"no room","details":"the rack is full"}'; exit 1;;
ADDdie) echo 'something on the error output' >&2; kill -9 $$;;
ADDhang) sleep 300 & wait;;
ADDgarbage) echo 'fine!'; exit 0;;
ADDbare) echo '"fine"'; exit 0;;
ADDlie) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.66.0.99/24"}]}'; exit 0;;
ADDflood) head -c 3000000 /dev/zero; exit 0;;
ADDwrong) echo '{"cniVersion":"1.0.0","ips":[{"address":"yes"}]}'; exit 0;;
CHECKgone) exit 1;;
DELstuck) [ -e "$here/released" ] || { echo '{"code":5,"msg":"not now"}'; exit 1; };;
esac
case "$CNI_COMMAND" in
ADD)
  if [ "$(basename "$0")" = wire ]; then
    ip link add "cni$CNI_CONTAINERID" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
    nsenter --net="$CNI_NETNS" ip addr add $address dev "$CNI_IFNAME"
    nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up
    ip addr add 10.66.0.1/24 dev "cni$CNI_CONTAINERID"
    ip link set "cni$CNI_CONTAINERID" up
  fi
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"'$address'","gateway":"10.66.0.1","interface":0}],
    "dns":{"nameservers":["10.66.0.53"],"search":["cni.example"]}}';;
DEL) [ "$(basename "$0")" != wire ] || ip link del "cni$CNI_CONTAINERID" 2>/dev/null; exit 0;;
esac
"#;

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().to_owned();
        for folder in ["bin", "config"] {
            fs::create_dir(root.join(folder)).expect("made");
        }
        for name in ["wire", "after"] {
            let path = root.join("bin").join(name);
            fs::write(&path, PLUGIN).expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
        }
        Self { _dir: dir, root }
    }

    /// A network of two plugins, in the second of which `mode` holds.
    fn network(&self, name: &str, mode: &str) {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"wire"}},
            {{"type":"after","mode":"{mode}","capabilities":{{"portMappings":true}}}}]}}"#
        );
        fs::write(self.root.join(format!("config/{name}.conflist")), text).expect("written");
    }

    async fn open(&self) -> Networks {
        let cni = Cni {
            config: Some(self.root.join("config")),
            plugins: vec![self.root.join("none"), self.root.join("bin")],
            deadline: 2,
        };
        let settings =
            Settings { instance: "t".to_owned(), dns: vec![[1, 1, 1, 1].into()], cni, ..Settings::default() };
        Networks::open(self.root.join("run"), settings).await.expect("opened")
    }

    fn calls(&self) -> Vec<String> {
        let path = self.root.join("bin/calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn input(&self, call: &str) -> serde_json::Value {
        let text = fs::read(self.root.join(format!("bin/{call}.json"))).expect("it was called");
        serde_json::from_slice(&text).expect("JSON")
    }
}

fn wish(name: &str) -> Wish {
    let port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    Wish { ports: vec![port], labels, ..Wish::new(Network::Named(name.to_owned())) }
}

fn expected(netns: &Path) -> Attached {
    Attached {
        name: "good".to_owned(),
        netns: netns.to_owned(),
        addresses: vec!["10.66.0.5/24".parse().expect("a network")],
        gateway: Some([10, 66, 0, 1].into()),
        dns: vec![[10, 66, 0, 53].into()],
        search: vec!["cni.example".to_owned()],
        ports: wish("").ports,
        labels: wish("").labels,
    }
}

#[tokio::test]
#[ignore = "run apart"]
async fn good() {
    begin();
    let place = Place::new();
    place.network("good", "");
    let networks = place.open().await;
    networks.adopt(&BTreeSet::new()).await.unwrap();
    let start = counts(&place.root.join("run"));
    let first = networks.attach("a", &wish("good")).await.unwrap();
    assert_eq!(first, expected(&first.netns));
    assert_eq!(place.calls(), ["ADD wire a eth0", "ADD after a eth0"]);
    let input = place.input("ADD.after");
    assert_eq!(input["prevResult"]["ips"][0]["address"], "10.66.0.5/24");
    assert_eq!(input["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    assert_eq!(input["args"]["org.apache.mesos"]["network_info"]["labels"]["labels"][0]["value"], "v");
    assert!(place.input("ADD.wire").get("runtimeConfig").is_none());
    let environment = fs::read_to_string(place.root.join("bin/environment")).unwrap();
    assert!(environment.contains("CNI_PATH=") && !environment.contains("PLENUM_TEST"), "{environment}");
    serve(&first.netns, 80);
    assert_eq!(ask(None, "10.66.0.5", 80), "10.66.0.1");
    assert_eq!(ask(Some(&first.netns), "127.0.0.1", 80), "127.0.0.1");
    // A second one cannot have its port; a plain one can be attached besides.
    assert!(matches!(networks.attach("b", &wish("good")).await, Err(NetworkError::Port { .. })));
    // After a restart it is checked, and stays; the file of the network is not needed any more.
    drop(networks);
    fs::remove_file(place.root.join("config/good.conflist")).unwrap();
    let networks = place.open().await;
    networks.adopt(&BTreeSet::from(["a".to_owned()])).await.unwrap();
    place.network("good", "gone");
    assert_eq!(networks.attach("a", &wish("good")).await.unwrap(), first);
    assert_eq!(place.calls(), ["CHECK wire a eth0", "CHECK after a eth0"]);
    networks.detach("a").await.unwrap();
    networks.detach("a").await.unwrap();
    assert_eq!(place.calls(), ["DEL after a eth0", "DEL wire a eth0"]);
    assert_eq!(place.input("DEL.wire")["prevResult"]["ips"][0]["address"], "10.66.0.5/24");
    assert_eq!(counts(&place.root.join("run")), start);
    // One that is broken is attached anew.
    networks.attach("a", &wish("good")).await.unwrap();
    place.calls();
    assert_eq!(networks.attach("a", &wish("good")).await.unwrap(), first);
    let calls =
        place.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(calls, ["CHECK", "CHECK", "DEL", "DEL", "ADD", "ADD"]);
    // What runs no more is detached at the next start.
    drop(networks);
    place.open().await.adopt(&BTreeSet::new()).await.unwrap();
    assert_eq!(place.calls(), ["DEL after a eth0", "DEL wire a eth0"]);
    assert_eq!(counts(&place.root.join("run")), start);
}

#[tokio::test]
#[ignore = "run apart"]
async fn bad() {
    begin();
    let place = Place::new();
    let networks = place.open().await;
    networks.adopt(&BTreeSet::new()).await.unwrap();
    let start = counts(&place.root.join("run"));
    for (mode, words) in [
        ("fail", "no room: the rack is full"),
        ("die", "something on the error output"),
        ("hang", "did not end within 2 s"),
        ("garbage", "no JSON"),
        ("bare", "no JSON object"),
        ("lie", "10.66.0.99/24"),
        ("flood", "more than 1 MiB"),
        ("wrong", "\"yes\" is no network"),
    ] {
        place.network(mode, mode);
        let begun = Instant::now();
        let said = networks.attach("a", &wish(mode)).await.unwrap_err().to_string();
        assert!(said.contains(words) && said.contains(mode), "{mode}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{mode}");
        let calls = place.calls();
        assert_eq!(&calls[2..], ["DEL after a eth0", "DEL wire a eth0"], "{mode}");
        assert_eq!(counts(&place.root.join("run")), start, "{mode}");
    }
    // What hung was killed with what it had started.
    assert!(!text("ps", &["-eo", "args"]).contains("sleep 300"));
    // A plugin that cannot remove now is asked again.
    place.network("stuck", "stuck");
    networks.attach("a", &wish("stuck")).await.unwrap();
    let said = networks.detach("a").await.unwrap_err().to_string();
    assert!(said.contains("not now"), "{said}");
    drop(networks);
    let networks = place.open().await;
    assert!(networks.adopt(&BTreeSet::new()).await.is_err());
    fs::write(place.root.join("bin/released"), "").unwrap();
    networks.detach("a").await.unwrap();
    assert_eq!(counts(&place.root.join("run")), start);
    // A process that ended between the record and the result, with an interface made.
    place.calls();
    place.network("good", "");
    let record = r#"{"network":{"cni":"good"},"cni":{"list":{"cniVersion":"1.0.0","name":"good","plugins":[{"type":"wire"},{"type":"after"}]},"result":null}}"#;
    fs::write(place.root.join("run/containers/a"), record).unwrap();
    ip("link add cnia type veth peer name other");
    place.open().await.adopt(&BTreeSet::new()).await.unwrap();
    assert_eq!(place.calls(), ["DEL after a eth0", "DEL wire a eth0"]);
    assert_eq!(counts(&place.root.join("run")), start);
    // What cannot be.
    let plain = r#"{"cniVersion":"1.0.0","name":"plain","type":"wire"}"#;
    fs::write(place.root.join("config/plain.conf"), plain).unwrap();
    let said = networks.attach("a", &wish("plain")).await.unwrap_err().to_string();
    assert!(said.contains("maps ports"), "{said}");
    fs::write(place.root.join("config/lost.conf"), r#"{"cniVersion":"1.0.0","name":"lost","type":"lost"}"#)
        .unwrap();
    let lost = Wish::new(Network::Cni("lost".to_owned()));
    let said = networks.attach("a", &lost).await.unwrap_err().to_string();
    assert!(said.contains("none of the folders"), "{said}");
    let _ = networks.detach("a").await;
    let plain = networks.attach("p", &Wish::new(Network::Cni("plain".to_owned()))).await.unwrap();
    assert!(within(&plain.netns, || text("ip", &["addr", "show", "eth0"])).contains("10.66.0.5"));
}

//! Crashes between any two steps of an attach and of a detach.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plenum_networks::{Network, Networks, Port, Protocol, Settings, Wish, namespace};

use crate::world::{apart, begin, counts, ip, text};

#[test]
fn between_steps() {
    apart("crash::steps");
}

#[test]
fn at_any_moment() {
    apart("crash::moments");
}

fn wish() -> Wish {
    let port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
    Wish { ports: vec![port], ..Wish::new(Network::Bridge) }
}

async fn open(folder: &Path) -> Networks {
    let settings = Settings { instance: "t".to_owned(), ..Settings::default() };
    Networks::open(folder.to_owned(), settings).await.expect("opened")
}

/// Does the first `steps` steps of an attach by hand.
fn cut(folder: &Path, steps: usize) {
    let netns = folder.join("netns/cut");
    let record = "{\"network\":\"bridge\",\"number\":9,\"ports\":[{\"host\":8080,\"container\":80,\"protocol\":\"tcp\"}]}";
    let all: [&dyn Fn(); 5] = [
        &|| std::fs::write(folder.join("containers/.cut"), "{\"netw").unwrap(),
        &|| std::fs::write(folder.join("containers/cut"), record).unwrap(),
        &|| std::fs::write(&netns, "").unwrap(),
        &|| namespace::make(&netns).unwrap(),
        &|| {
            let peer = format!("type veth peer name eth0 netns {}", netns.display());
            ip(&format!("link add pvhand up master plbt {peer}"));
        },
    ];
    all.iter().take(steps).for_each(|step| step());
}

#[tokio::test]
#[ignore = "run apart"]
async fn steps() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.adopt(&BTreeSet::new()).await.unwrap();
    let start = counts(dir.path());
    let running = BTreeSet::from(["cut".to_owned()]);
    for steps in 1..=5 {
        // Removed by adopt.
        cut(dir.path(), steps);
        open(dir.path()).await.adopt(&BTreeSet::new()).await.unwrap();
        assert_eq!(counts(dir.path()), start, "{steps}");
        // Completed by the next attach, whether adopt comes first or not.
        for adopted in [true, false] {
            if steps < 5 {
                cut(dir.path(), steps);
            }
            let networks = open(dir.path()).await;
            if adopted {
                networks.adopt(&running).await.unwrap();
            }
            networks.attach("cut", &wish()).await.unwrap();
            assert!(text("nft", &["list", "ruleset"]).contains("8080 : "));
            networks.detach("cut").await.unwrap();
            assert_eq!(counts(dir.path()), start, "{steps} {adopted}");
        }
    }
}

#[tokio::test]
#[ignore = "run apart"]
async fn moments() {
    begin();
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.adopt(&BTreeSet::new()).await.unwrap();
    let start = counts(dir.path());
    for round in 0..40u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::victim", "--ignored", "--nocapture"])
            .env("PLENUM_TEST_FOLDER", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It says when it begins; it is killed a little later each time.
        let mut said = Vec::new();
        let mut stdout = victim.stdout.take().unwrap();
        while !said.ends_with(b"begun") {
            let mut byte = [0; 1];
            std::io::Read::read_exact(&mut stdout, &mut byte).unwrap();
            said.extend(byte);
        }
        std::thread::sleep(Duration::from_micros(round * 913));
        victim.kill().unwrap();
        victim.wait().unwrap();
        open(dir.path()).await.adopt(&BTreeSet::new()).await.unwrap();
        assert_eq!(counts(dir.path()), start, "round {round}");
    }
}

#[tokio::test]
#[ignore = "killed by another"]
async fn victim() {
    let Some(folder) = std::env::var_os("PLENUM_TEST_FOLDER") else { return };
    let networks = open(Path::new(&folder)).await;
    print!("begun");
    std::io::Write::flush(&mut std::io::stdout()).unwrap();
    for at in 0..10_000 {
        let id = format!("c{}", at % 3);
        networks
            .attach(
                &id,
                &Wish { ports: wish().ports.into_iter().filter(|_| at % 3 == 0).collect(), ..wish() },
            )
            .await
            .unwrap();
        if at % 3 == 2 {
            for at in 0..3 {
                networks.detach(&format!("c{at}")).await.unwrap();
            }
        }
    }
}

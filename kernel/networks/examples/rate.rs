//! Prints how fast containers are attached and detached. Run it as root in namespaces of its own:
//! `unshare -n -m --propagation private <this> [containers] [at once] [ports of each]`.

use std::time::Instant;

use plenum_networks::{Network, Networks, Port, Protocol, Settings, Wish};

#[tokio::main]
async fn main() {
    let number = |at: usize, default: usize| {
        std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (count, at_once, ports) = (number(1, 200), number(2, 8), number(3, 1));
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { network: "10.77.0.0/16".parse().ok(), ..Settings::default() };
    let networks = Networks::open(folder.path().to_owned(), settings).await.expect("networks");
    networks.adopt(&std::collections::BTreeSet::new()).await.expect("adopted");
    let networks = std::sync::Arc::new(networks);
    let mut begun = Instant::now();
    for attach in [true, false] {
        let mut workers = Vec::new();
        for worker in 0..at_once {
            let networks = networks.clone();
            workers.push(tokio::spawn(async move {
                for at in (worker..count).step_by(at_once) {
                    let id = format!("c{at}");
                    if attach {
                        let port = |n: usize| Port {
                            host: u16::try_from(2000 + at * ports + n).expect("few"),
                            container: 80,
                            protocol: Protocol::Tcp,
                        };
                        let wish =
                            Wish { ports: (0..ports).map(port).collect(), ..Wish::new(Network::Bridge) };
                        networks.attach(&id, &wish).await.expect("attached");
                    } else {
                        networks.detach(&id).await.expect("detached");
                    }
                }
            }));
        }
        for worker in workers {
            worker.await.expect("no panic");
        }
        let took = begun.elapsed();
        let rate = f64::from(u32::try_from(count).expect("few")) / took.as_secs_f64();
        println!(
            "{} {count} ({at_once} at once, {ports} ports each): {took:.2?}, {rate:.0}/s",
            if attach { "attach" } else { "detach" }
        );
        begun = Instant::now();
    }
}

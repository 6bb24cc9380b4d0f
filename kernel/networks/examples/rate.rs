//! Prints how fast containers are attached and detached. Run it as root in namespaces of its own:
//! `unshare -n -m --propagation private <this> [containers] [at once] [ports of each]`.

use std::collections::BTreeSet;
use std::time::Instant;

use plenum_networks::{Network, Networks, Port, Protocol, Settings, Wish};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A number of the command line.
fn number(at: usize, default: u16) -> u16 {
    std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Attaches or detaches the `at`th container.
async fn change(networks: &Networks, attach: bool, at: u16, ports: u16) -> Result<(), Failed> {
    let id = format!("c{at}");
    if !attach {
        return Ok(networks.detach(&id).await?);
    }
    let port = |n: u16| Port { host: 2000 + at * ports + n, container: 80, protocol: Protocol::Tcp };
    let wish = Wish { ports: (0..ports).map(port).collect(), ..Wish::new(Network::Bridge) };
    networks.attach(&id, &wish).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let (count, at_once, ports) = (number(1, 200), number(2, 8).max(1), number(3, 1));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("run");
    let settings = Settings { network: "10.77.0.0/16".parse().ok(), ..Settings::default() };
    let networks = Networks::open(path.clone(), settings.clone()).await?;
    networks.adopt(&BTreeSet::new()).await?;
    for attach in [true, false] {
        let begun = Instant::now();
        let mut workers = Vec::new();
        for worker in 0..at_once {
            let networks = networks.clone();
            workers.push(tokio::spawn(async move {
                for at in (worker..count).step_by(usize::from(at_once)) {
                    change(&networks, attach, at, ports).await?;
                }
                Ok::<(), Failed>(())
            }));
        }
        for worker in workers {
            worker.await??;
        }
        let took = begun.elapsed();
        let verb = if attach { "attach" } else { "detach" };
        let rate = f64::from(count) / took.as_secs_f64();
        println!("{verb} {count} ({at_once} at once, {ports} ports each): {took:.2?}, {rate:.0}/s");
        if attach {
            let begun = Instant::now();
            let again = Networks::open(path.clone(), settings.clone()).await?;
            again.adopt(&(0..count).map(|at| format!("c{at}")).collect()).await?;
            println!("a restart with {count}: {:.2?}", begun.elapsed());
        }
    }
    Ok(Networks::teardown(&path, settings).await?)
}

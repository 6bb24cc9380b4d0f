//! A publisher on a master's stream over HTTP: a change is in DNS and with the balancer at once; a broken stream takes nothing away.

use std::time::{Duration, Instant};

use plenum_base::cluster::Masters;
use plenum_base::leading::Leading;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_discovery::feed::Facts;
use plenum_discovery::publisher::Upstream;
use plenum_discovery::publisher::{self, core::Core};
use plenum_discovery::replica::core::Replica;
use plenum_discovery::replica::socket::{self, Tables};
use plenum_discovery::replica::{self, Shared};
use plenum_sdk::operator::Event;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::events::{added, snapshot, task, updated};

const PATIENCE: Duration = Duration::from_secs(20);

async fn subscriber(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut request = Vec::new();
    while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
        assert!(stream.read_buf(&mut request).await.unwrap() > 0, "the request ended early");
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn tell(stream: &mut TcpStream, event: &Event) {
    let body = serde_json::to_string(event).unwrap();
    let record = format!("{}\n{body}", body.len());
    stream.write_all(format!("{:x}\r\n{record}\r\n", record.len()).as_bytes()).await.unwrap();
}

async fn next(lines: &mut tokio::io::Lines<BufReader<UnixStream>>) -> Tables {
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_master_to_the_balancer() {
    plenum_base::service::install_crypto();
    let shutdown = Shutdown::new();
    let master = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", master.local_addr().unwrap());
    let client = plenum_sdk::Client::plain().unwrap();
    let leading = Leading::fixed(Role::Master, &[url]);
    let upstream = Upstream { client, leading, masters: Masters::fixed(&[]) };
    let range = "11.0.0.0/16".parse().unwrap();
    let shared = Shared::new(Replica::default());
    let (to, from) = mpsc::channel(8);
    let (connected, _) = watch::channel(false);
    let core = Core::new(5, range, Facts::new(), Facts::new());
    tokio::spawn(publisher::run(upstream, core, to, connected, shutdown.clone()));
    tokio::spawn(replica::follow(shared.clone(), from, shutdown.clone()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(socket::serve(listener, shared.clone(), range, shutdown.clone()));

    let mut stream = subscriber(&master).await;
    tell(&mut stream, &snapshot(&[0], &[], vec![])).await;
    let mut lines = BufReader::new(UnixStream::connect(&path).await.unwrap()).lines();
    let first = next(&mut lines).await;
    assert!(first.whole && first.tables.is_empty());
    tell(&mut stream, &added(task("one", 0, 9000, "TASK_RUNNING"))).await;
    let began = Instant::now();
    tell(&mut stream, &updated("one", "TASK_RUNNING", Some(true))).await;
    let change = next(&mut lines).await;
    let took = began.elapsed();
    assert_eq!(change.tables[0].backends, ["10.0.0.1:9000".parse().unwrap()]);
    assert!(!change.whole && took < Duration::from_secs(2), "{took:?}");
    assert!(shared.read().find("web-shop.marathon.mesos").exists());

    // The master dies; what is known stands, and the next master is heard.
    drop(stream);
    let mut stream = subscriber(&master).await;
    assert!(shared.read().find("web-shop.marathon.mesos").exists());
    tell(&mut stream, &snapshot(&[], &[0], vec![])).await;
    tell(&mut stream, &updated("one", "TASK_FAILED", None)).await;
    let change = next(&mut lines).await;
    assert_eq!((change.tables.len(), change.gone.len()), (0, 1), "a known end needs no description");
    assert!(!shared.read().find("web-shop.marathon.mesos").exists());
    shutdown.trigger();
}

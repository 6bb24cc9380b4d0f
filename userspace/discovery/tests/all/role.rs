//! The whole role: it answers from the copy on disk before it has a certificate or a master, and serves the API once it has one.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::places::{Bases, Role};
use plenum_base::service::Shutdown;
use plenum_discovery::replica::disk;
use plenum_discovery::replica::socket::Tables;
use plenum_discovery::{Config, run};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::dns::{dig, filled};

const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> SocketAddr {
    // A port that is free for both transports.
    loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        if std::net::UdpSocket::bind(at).is_ok() {
            return at;
        }
    }
}

async fn get(at: SocketAddr, path: &str) -> Option<Value> {
    let client = plenum_sdk::Client::plain().unwrap();
    let reply = client.get(&format!("http://{at}{path}")).send().await.ok()?;
    assert_eq!(reply.status, 200, "{path}");
    Some(reply.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_and_then_in_company() {
    plenum_base::service::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let bases = Bases { state: dir.path().join("s"), run: dir.path().join("r"), root: false };
    let places = bases.places("alone".parse().unwrap(), 0);
    places.create().unwrap();
    let mut config = Config::at(&places);
    config.component.listen = free();
    config.component.open = true;
    config.dns = free();
    config.masters = vec!["https://127.0.0.1:1".to_owned()];
    config.resolv_conf = dir.path().join("no-resolv.conf");
    std::fs::create_dir_all(&config.component.data).unwrap();
    disk::save(&config.copy(), &filled(2).copy()).unwrap();
    let (http, dns, socket, copy) =
        (config.component.listen, config.dns, config.socket.clone(), config.copy());
    let shutdown = Shutdown::new();
    let role = tokio::spawn(run(config, shutdown.clone()));

    // No certificate, no master: names and tables are there all the same.
    let asked = timeout(PATIENCE, async {
        loop {
            let answer = dig(dns, "+short web-shop.marathon.mesos").await;
            if answer.starts_with("10.") {
                return answer.lines().count();
            }
        }
    });
    assert_eq!(asked.await.expect("answered without company"), 2);
    let mut lines = BufReader::new(UnixStream::connect(&socket).await.unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let tables: Tables = serde_json::from_str(&line).unwrap();
    assert_eq!((tables.whole, tables.tables[0].backends.len()), (true, 2));

    let authority = Authority::create("alone", SystemTime::now()).unwrap();
    let name = PeerName::new("alone", "discovery", "one").unwrap();
    let sans = [San::Ip([127, 0, 0, 1].into())];
    let (chain, key) = authority.issue_fresh(&name, &sans, SystemTime::now(), LIFETIME).unwrap();
    let files = places.identity(Role::Discovery);
    std::fs::create_dir_all(files.cert.parent().unwrap()).unwrap();
    std::fs::write(&files.ca, authority.certificate_pem()).unwrap();
    std::fs::write(&files.key, key).unwrap();
    std::fs::write(&files.cert, chain).unwrap();
    let version = timeout(PATIENCE, async {
        loop {
            if let Some(version) = get(http, "/v1/version").await {
                return version;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(version.await.expect("served once there is a certificate")["Service"], "Mesos-DNS");
    api(http).await;
    shutdown.trigger();
    timeout(PATIENCE, role).await.unwrap().unwrap().unwrap();
    assert_eq!(disk::load(&copy).vips().count(), 1);
}

async fn api(http: SocketAddr) {
    let hosts = get(http, "/v1/hosts/Web-Shop.marathon.mesos.").await.unwrap();
    assert_eq!(hosts[0], serde_json::json!({"host": "web-shop.marathon.mesos.", "ip": "10.0.0.1"}));
    assert_eq!(hosts.as_array().unwrap().len(), 2);
    let none = get(http, "/v1/hosts/nobody.mesos").await.unwrap();
    assert_eq!(none, serde_json::json!([{"host": "", "ip": ""}]));
    let services = get(http, "/v1/services/_web._web-shop._tcp.marathon.mesos").await.unwrap();
    let (host, ip) = (services[0]["host"].as_str().unwrap(), services[0]["ip"].as_str().unwrap());
    assert!(host.starts_with("web-shop-") && host.ends_with(".marathon.mesos.") && ip.starts_with("10."));
    assert!(services[0]["port"].is_string());
    let none = get(http, "/v1/services/_x._tcp.mesos").await.unwrap();
    assert_eq!(none[0]["service"], "");
    let all = get(http, "/v1/enumerate").await.unwrap();
    assert_eq!(all["frameworks"][0]["name"], "marathon");
    assert_eq!(all["frameworks"][0]["tasks"].as_array().unwrap().len(), 2);
    let vips = get(http, "/v1/vips").await.unwrap();
    assert_eq!(vips[0]["vip"], "shopweb.marathon.l4lb.thisdcos.directory:80");
    assert_eq!(vips[0]["backend"].as_array().unwrap().len(), 2);
    assert_eq!(get(http, "/net/v1/vips").await.unwrap(), vips);
    assert_eq!(get(http, "/v1/config").await.unwrap()["domain"], "mesos");
    let status = get(http, "/status").await.unwrap();
    assert_eq!((&status["connected"], &status["tasks"]), (&Value::Bool(false), &Value::from(2)));
}

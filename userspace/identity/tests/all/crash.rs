//! Killed with SIGKILL at any moment: what was acknowledged is there, what was made is whole.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::client::{Client, Credentials};
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_base::tls::Identity;
use plenum_identity::{Config, First, bootstrap, bootstrap_fleet, carry_over, run};
use plenum_store::StoreSettings;
use serde_json::{Value, json};

use crate::etcd::Server;
use crate::fixture::{config, free_port, join_as};

const STATE: &str = "PLENUM_TEST_STATE";
const LISTEN: &str = "PLENUM_TEST_LISTEN";
/// A fleet's master in JSON: its name, address and etcd.
const FLEET: &str = "PLENUM_TEST_FLEET";

/// The process that is killed: this test program again. Without its variables it has nothing to do.
#[tokio::test]
#[ignore = "started by the other tests of this module"]
async fn child() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let mut config = config(Path::new(&state));
    if let Ok(fleet) = std::env::var(FLEET) {
        config = fleet_config(Path::new(&state), &fleet);
        if std::env::var_os(LISTEN).is_none() {
            bootstrap_fleet(&config, &First::default()).await.unwrap();
            carry_over(&config).await.unwrap();
            return;
        }
    }
    match std::env::var(LISTEN) {
        Ok(listen) => {
            config.listen = Some(listen.parse().unwrap());
            run(config, Shutdown::new()).await.unwrap();
        }
        Err(_) => {
            bootstrap(&config).await.unwrap();
        }
    }
}

/// A child that dies with this value, whatever happens to the test.
struct Victim(Child);

impl Victim {
    fn start(state: &Path, listen: Option<&str>) -> Self {
        Self::start_in(state, listen, None)
    }

    fn start_in(state: &Path, listen: Option<&str>, fleet: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["crash::child", "--exact", "--ignored", "--quiet"]).env(STATE, state);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(listen) = listen {
            command.env(LISTEN, listen);
        }
        if let Some(fleet) = fleet {
            command.env(FLEET, fleet);
        }
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test]
async fn a_bootstrap_that_is_killed_is_finished_by_the_next() {
    let mut seen: Option<(PathBuf, String)> = None;
    for millis in [0, 5, 15, 30, 60, 100, 150, 250, 400] {
        let folder = tempfile::tempdir().unwrap();
        let mut victim = Victim::start(folder.path(), None);
        // Where in its work it is at that time differs from machine to machine; every moment must be fine.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        victim.kill();
        let config = config(folder.path());
        let places = config.places();
        let ca = std::fs::read_to_string(places.ca()).ok();
        let done = bootstrap(&config).await.unwrap_or_else(|e| panic!("after {millis} ms: {e}"));
        if let Some(ca) = ca {
            assert_eq!(std::fs::read_to_string(places.ca()).unwrap(), ca, "the CA stays what it was");
        }
        for role in Role::ALL {
            Identity::load(&places.identity(role)).unwrap();
        }
        assert!(Authenticator::open(&places.policy(), &places.ca(), false).policy_number() > 0);
        let differs =
            seen.replace((places.state, done.cluster_id.clone())).is_none_or(|(_, id)| id != done.cluster_id);
        assert!(differs, "each cluster has an id of its own");
    }
}

async fn ready(client: &Client, url: &str) {
    for _ in 0..1000 {
        if client.get(&format!("{url}/internal/v1/cluster")).send().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("identity does not answer");
}

#[tokio::test]
async fn acknowledged_accounts_survive_and_reach_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let config: Config = config(folder.path());
    let admin = bootstrap(&config).await.unwrap().admin.unwrap();
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let url = format!("http://{listen}");
    let mut acknowledged: Vec<String> = Vec::new();
    let mut last = 0;
    for round in 0..4 {
        let mut victim = Victim::start(folder.path(), Some(&listen));
        let client = Client::plain().unwrap();
        ready(&client, &url).await;
        let login = json!({"uid": admin.uid, "password": admin.password});
        let reply = client.post(&format!("{url}/acs/api/v1/auth/login")).json(&login).send().await.unwrap();
        let token: Value = reply.success().await.unwrap().json().await.unwrap();
        let client = client.with_credentials(Credentials::Token(token["token"].as_str().unwrap().to_owned()));
        let list: Value =
            client.get(&format!("{url}/acs/api/v1/users")).send().await.unwrap().json().await.unwrap();
        for uid in &acknowledged {
            assert!(
                list["array"].as_array().unwrap().iter().any(|user| user["uid"] == **uid),
                "{uid} is lost"
            );
        }
        let places = config.places();
        let here = Authenticator::open(&places.policy(), &places.ca(), false);
        assert!(here.policy_number() >= last, "numbers never go back");
        last = here.policy_number();
        for uid in &acknowledged {
            let principal = plenum_base::auth::Principal::new(uid, plenum_base::auth::Kind::User);
            assert!(here.allows(&principal, "x", "read"), "{uid} is not in the policy");
        }
        // Killed while requests are under way.
        let kill = async {
            tokio::time::sleep(Duration::from_millis(150 + 40 * round)).await;
            victim.kill();
        };
        let work = async {
            for n in 0.. {
                let uid = format!("u{round}-{n}");
                let put = client
                    .put(&format!("{url}/acs/api/v1/users/{uid}"))
                    .json(&json!({"password": "pass-word"}));
                match put.send().await {
                    Ok(reply) if reply.status == 201 => acknowledged.push(uid),
                    _ => return,
                }
            }
        };
        tokio::join!(kill, work);
    }
    assert!(!acknowledged.is_empty(), "the test did something");
}

/// A master's settings from what is given to a child.
fn fleet_config(state: &Path, fleet: &str) -> Config {
    let fleet: Value = serde_json::from_str(fleet).unwrap();
    let text = |key: &str| fleet[key].as_str().unwrap().to_owned();
    let store = StoreSettings { etcd: true, endpoints: vec![text("etcd")], ..StoreSettings::default() };
    Config {
        name: Some(text("name")),
        address: Some(text("address").parse().unwrap()),
        store,
        ..config(state)
    }
}

fn fleet_master(name: &str, host: u8, etcd: &Server) -> String {
    json!({"name": name, "address": format!("127.0.0.{host}"), "etcd": etcd.endpoint()}).to_string()
}

#[tokio::test]
async fn a_first_master_that_is_killed_anywhere_is_finished_by_the_next_run() {
    for millis in [0, 10, 40, 80, 120, 160, 200, 260, 320, 400, 500, 650] {
        let etcd = Server::start().await;
        let folder = tempfile::tempdir().unwrap();
        let fleet = fleet_master("m1", 11, &etcd);
        let mut victim = Victim::start_in(folder.path(), None, Some(&fleet));
        tokio::time::sleep(Duration::from_millis(millis)).await;
        victim.kill();
        let config = fleet_config(folder.path(), &fleet);
        let places = config.places();
        let ca = std::fs::read_to_string(places.ca()).ok();
        let told = |e: plenum_identity::BootstrapError| format!("after {millis} ms: {e}");
        let done = bootstrap_fleet(&config, &First::default()).await.map_err(told).unwrap();
        carry_over(&config).await.map_err(told).unwrap();
        if let Some(ca) = ca {
            assert_eq!(std::fs::read_to_string(places.ca()).unwrap(), ca, "the CA stays what it was");
        }
        for role in Role::EVERY {
            Identity::load(&places.identity(role)).unwrap();
        }
        let shutdown = Shutdown::new();
        let listen = free_port();
        let task = tokio::spawn(run(Config { listen: Some(listen), ..config }, shutdown.clone()));
        let client = Client::plain().unwrap();
        ready(&client, &format!("http://{listen}")).await;
        let told = client.get(&format!("http://{listen}/internal/v1/cluster")).send().await.unwrap();
        assert_eq!(told.json::<Value>().await.unwrap()["cluster_id"], done.cluster_id);
        shutdown.trigger();
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn two_masters_killed_in_turn_lose_no_acknowledged_account() {
    let etcd = Server::start().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fleets = [fleet_master("m1", 11, &etcd), fleet_master("m2", 12, &etcd)];
    let listen = [free_port().to_string(), free_port().to_string()];
    let urls = listen.each_ref().map(|listen| format!("http://{listen}"));
    let first = fleet_config(folders[0].path(), &fleets[0]);
    let admin = bootstrap_fleet(&first, &First::default()).await.unwrap().admin.unwrap();
    carry_over(&first).await.unwrap();
    let client = Client::plain().unwrap();
    let start = |n: usize| Victim::start_in(folders[n].path(), Some(&listen[n]), Some(&fleets[n]));
    let mut running = vec![start(0)];
    ready(&client, &urls[0]).await;
    let login = json!({"uid": admin.uid, "password": admin.password});
    let token = client.post(&format!("{}/acs/api/v1/auth/login", urls[0])).json(&login).send().await.unwrap();
    let token = token.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    let client = client.with_credentials(Credentials::Token(token));
    let made = client.post(&format!("{}/internal/v1/tokens", urls[0])).json(&json!({"kind": "master"}));
    let made: Value = made.send().await.unwrap().success().await.unwrap().json().await.unwrap();
    let second = fleet_config(folders[1].path(), &fleets[1]);
    let (tls, address) = (format!("https://{}", listen[0]), second.address.unwrap());
    join_as(&tls, made["token"].as_str().unwrap(), "m2", address, &Role::EVERY, &second.places())
        .await
        .unwrap();
    running.push(start(1));
    ready(&client, &urls[1]).await;

    let mut acknowledged: Vec<String> = Vec::new();
    let mut numbers = [0, 0];
    for round in 0..4_usize {
        let victim = round % 2;
        let write = async |n: usize| {
            let mut done = Vec::new();
            for count in 0..60 {
                let uid = format!("u{round}-{n}-{count}");
                let put = client.put(&format!("{}/acs/api/v1/users/{uid}", urls[n]));
                match put.json(&json!({"password": "pass-word"})).send().await {
                    Ok(reply) if reply.status == 201 => done.push(uid),
                    _ => break,
                }
            }
            done
        };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            running[victim].kill();
        };
        let (left, right, ()) = tokio::join!(write(0), write(1), kill);
        assert!(!left.is_empty() || !right.is_empty(), "the test did something");
        let survivor = if victim == 0 { &right } else { &left };
        assert_eq!(survivor.len(), 60, "the other one goes on");
        acknowledged.extend(left.into_iter().chain(right));
        running[victim] = start(victim);
        ready(&client, &urls[victim]).await;
        for (n, places) in [first.places(), second.places()].iter().enumerate() {
            let here = Authenticator::open(&places.policy(), &places.ca(), false);
            assert!(here.policy_number() >= numbers[n], "numbers never go back");
            numbers[n] = here.policy_number();
            for uid in &acknowledged {
                let principal = plenum_base::auth::Principal::new(uid, plenum_base::auth::Kind::User);
                assert!(here.allows(&principal, "x", "read"), "{uid} is not in the policy of m{}", n + 1);
            }
        }
    }
}

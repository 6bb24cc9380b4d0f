//! Killed with SIGKILL at any moment: what was acknowledged is there, what was made is whole.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::client::{Client, Credentials};
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_base::tls::Identity;
use plenum_identity::{Config, bootstrap, run};
use serde_json::{Value, json};

use crate::fixture::config;

const STATE: &str = "PLENUM_TEST_STATE";
const LISTEN: &str = "PLENUM_TEST_LISTEN";

/// The process that is killed: this test program again. Without its variables it has nothing to do.
#[tokio::test]
#[ignore = "started by the other tests of this module"]
async fn child() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let mut config = config(Path::new(&state));
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
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["crash::child", "--exact", "--ignored", "--quiet"]).env(STATE, state);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(listen) = listen {
            command.env(LISTEN, listen);
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

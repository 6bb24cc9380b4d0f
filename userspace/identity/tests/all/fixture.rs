//! An identity with its files in a temporary folder, running on a loopback port.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use plenum_base::client::{Client, Credentials};
use plenum_base::places::{Bases, Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::Identity;
use plenum_base::tls::join::{JoinError, Joined, NodeRequest, install, join_node, prepare};
use plenum_identity::{Admin, Config, RunError, bootstrap, run};
use serde_json::{Value, json};

pub struct Site {
    folder: tempfile::TempDir,
    pub config: Config,
    pub admin: Admin,
    pub address: SocketAddr,
    running: Option<(Shutdown, tokio::task::JoinHandle<Result<(), RunError>>)>,
    pub client: Client,
    pub token: String,
}

pub fn config(folder: &std::path::Path) -> Config {
    Config {
        instance: "test".parse().unwrap(),
        state: Some(folder.join("state")),
        run: Some(folder.join("run")),
        weak_hashes: true,
        ..Config::default()
    }
}

/// The places of another host, below `folder`.
pub fn host(folder: &std::path::Path) -> Places {
    let bases = Bases { state: folder.to_path_buf(), run: folder.to_path_buf(), root: false };
    bases.places("test".parse().unwrap(), 0)
}

/// Joins with certificates for `roles` and puts what it got into the places below `folder`.
pub async fn join_as(
    url: &str,
    token: &str,
    name: &str,
    address: std::net::IpAddr,
    roles: &[Role],
    places: &Places,
) -> Result<Joined, JoinError> {
    let requests = prepare(places, roles)?;
    let csrs = requests.iter().map(|(role, request)| (*role, request.csr.clone())).collect();
    let request = NodeRequest { name: name.to_owned(), address, names: vec![], csrs };
    let joined = join_node(&[url.to_owned()], token, &request).await?;
    install(places, &joined, &requests)?;
    Ok(joined)
}

/// Joins as an agent at an address.
pub async fn join_at(
    url: &str,
    token: &str,
    name: &str,
    address: std::net::IpAddr,
    folder: &std::path::Path,
) -> Result<Identity, JoinError> {
    let places = host(folder);
    join_as(url, token, name, address, &[Role::Agent], &places).await?;
    Ok(Identity::load(&places.identity(Role::Agent)).unwrap())
}

/// Joins as an agent.
pub async fn join(
    url: &str,
    token: &str,
    name: &str,
    folder: &std::path::Path,
) -> Result<Identity, JoinError> {
    join_at(url, token, name, [127, 0, 0, 1].into(), folder).await
}

pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Site {
    /// Bootstrapped, running, the administrator logged in.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adapt: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        adapt(&mut config);
        let admin = bootstrap(&config).await.unwrap().admin.expect("the first start makes an administrator");
        let address = free_port();
        let client = Client::plain().unwrap();
        let mut site = Self { folder, config, admin, address, running: None, client, token: String::new() };
        site.resume().await;
        let login = json!({"uid": site.admin.uid, "password": site.admin.password});
        let (status, reply) = site.send(Method::POST, "/acs/api/v1/auth/login", None, Some(login)).await;
        assert_eq!(status, 200, "{reply}");
        site.token = reply["token"].as_str().unwrap().to_owned();
        site
    }

    pub fn places(&self) -> Places {
        self.config.places()
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Starts the role and waits until it answers.
    pub async fn resume(&mut self) {
        let shutdown = Shutdown::new();
        let config = Config { listen: Some(self.address), ..self.config.clone() };
        let task = tokio::spawn(run(config, shutdown.clone()));
        self.running = Some((shutdown, task));
        for _ in 0..500 {
            if let Some((_, task)) = &self.running
                && task.is_finished()
            {
                let (_, task) = self.running.take().unwrap();
                panic!("identity ended: {:?}", task.await);
            }
            if self.client.get(&format!("{}/internal/v1/cluster", self.url("http"))).send().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("identity does not answer");
    }

    /// Ends the role in an orderly way.
    pub async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().unwrap();
        shutdown.trigger();
        task.await.unwrap().unwrap();
    }

    /// A call without TLS.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut call = self.client.call(method, &format!("{}{path}", self.url("http")));
        if let Some(token) = token {
            call = call.credentials(&Credentials::Token(token.to_owned()));
        }
        if let Some(body) = body {
            call = call.json(&body);
        }
        let reply = call.send().await.unwrap();
        let status = reply.status;
        let bytes = reply.bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A call of the administrator.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.send(method, &format!("/acs/api/v1{path}"), Some(&self.token), body).await
    }

    pub async fn login(&self, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, "/acs/api/v1/auth/login", None, Some(body)).await
    }

    pub fn audit(&self) -> Vec<Value> {
        let path = self.places().data(Role::Identity).join(plenum_identity::AUDIT_FILE);
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file under the state folder, whole.
    pub fn everything_on_disk(&self) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    found.push((path, bytes));
                }
            }
        }
        found
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = &self.running {
            shutdown.trigger();
        }
    }
}

//! A scripted gateway with TLS and a CA of its own, and the verbs run against it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use clap::{CommandFactory, FromArgMatches, Parser};
use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::places::Bases;
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_base::tls::{ClientAuth, Identity};
use plenum_cli::Verb;
use plenum_cli::context::{Context, Contexts};
use plenum_cli::screen::Screen;
use serde_json::{Value, json};

/// The token that the gateway knows.
pub const TOKEN: &str = "good.token.here";

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type Answer = (u16, String);

#[derive(Default)]
struct Script {
    answers: BTreeMap<String, VecDeque<Answer>>,
    seen: Vec<Seen>,
    ca: String,
}

/// A gateway that ends with the test.
pub struct Gateway {
    pub address: SocketAddr,
    pub ca: String,
    script: Arc<Mutex<Script>>,
    shutdown: Shutdown,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

async fn serve(State(script): State<Arc<Mutex<Script>>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    let headers: BTreeMap<String, String> =
        head.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect();
    let line = format!("{} {}", head.method, head.uri.path_and_query().unwrap());
    let path = format!("{} {}", head.method, head.uri.path());
    let mut script = script.lock().unwrap();
    let open = ["/acs/api/v1/auth/login", "/ca/dcos-ca.crt"].contains(&head.uri.path());
    let known = headers.get("authorization").is_some_and(|given| *given == format!("token={TOKEN}"));
    script.seen.push(Seen { line: line.clone(), headers, body });
    let (status, body) = if !open && !known {
        (401, "<html>go to /login</html>".to_owned())
    } else if head.uri.path() == "/ca/dcos-ca.crt" {
        (200, script.ca.clone())
    } else {
        let key = if script.answers.contains_key(&line) { line } else { path };
        match script.answers.get_mut(&key) {
            // The last answer stays.
            Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
            Some(queue) => queue.front().cloned().unwrap(),
            None => (404, json!({"message": format!("nothing at {key}")}).to_string()),
        }
    };
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap()
}

impl Gateway {
    pub async fn start() -> Self {
        let now = SystemTime::now();
        let authority = Authority::create("test", now).unwrap();
        let name = PeerName::new("test", "gateway", "g").unwrap();
        let sans = [San::Ip("127.0.0.1".parse().unwrap())];
        let (cert, key) = authority.issue_fresh(&name, &sans, now, LIFETIME).unwrap();
        let ca = authority.certificate_pem().to_owned();
        let identity = Identity::from_pem(&ca, &cert, &key).unwrap();
        let script = Arc::new(Mutex::new(Script { ca: ca.clone(), ..Script::default() }));
        let router = Router::new().fallback(serve).with_state(Arc::clone(&script));
        let server = Server::new(router).tls(&identity, ClientAuth::None).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let switch = shutdown.clone();
        tokio::spawn(async move { server.serve(listener, switch).await });
        Self { address, ca, script, shutdown }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Adds an answer to `METHOD /path` or `METHOD /path?query`.
    pub fn answer(&self, to: &str, status: u16, body: &Value) {
        self.raw(to, status, &body.to_string());
    }

    pub fn raw(&self, to: &str, status: u16, body: &str) {
        let mut script = self.script.lock().unwrap();
        script.answers.entry(to.to_owned()).or_default().push_back((status, body.to_owned()));
    }

    /// Serves another CA certificate than its own.
    pub fn lie_about_ca(&self, pem: &str) {
        self.script.lock().unwrap().ca = pem.to_owned();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.script.lock().unwrap().seen.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    /// Returns once `count` requests have come to `METHOD /path`.
    pub async fn until(&self, to: &str, count: usize) {
        let look = async {
            while self.lines().iter().filter(|line| line.starts_with(to)).count() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.expect("the requests come");
    }
}

#[derive(Parser)]
#[command(name = "plenum")]
struct Typed {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What a verb did.
#[derive(Debug)]
pub struct Outcome {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Outcome {
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A user with a folder of contexts.
pub struct World {
    pub gateway: Gateway,
    pub contexts: Contexts,
    pub dir: tempfile::TempDir,
}

impl World {
    /// Nothing is known of the gateway yet.
    pub async fn strange() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bases = Bases { state: dir.path().join("s"), run: dir.path().join("r"), root: true };
        let contexts = Contexts::new(dir.path().join("contexts"), bases);
        Self { gateway: Gateway::start().await, contexts, dir }
    }

    /// Logged in.
    pub async fn start() -> Self {
        let world = Self::strange().await;
        world.remember(Some(TOKEN));
        world
    }

    pub fn remember(&self, token: Option<&str>) {
        let context = Context {
            url: self.gateway.url(),
            ca: self.gateway.ca.clone(),
            token: token.map(str::to_owned),
            user: Some("admin".into()),
        };
        self.contexts.save(&"default".parse().unwrap(), &context).unwrap();
    }

    pub async fn run(&self, words: &[&str]) -> Outcome {
        self.typed(words, "", false).await
    }

    /// With something on the standard input; `person` where it is a terminal.
    pub async fn typed(&self, words: &[&str], input: &str, person: bool) -> Outcome {
        let (out, err) = (Sink::default(), Sink::default());
        let input = std::io::Cursor::new(input.to_owned().into_bytes());
        let mut screen = Screen::new(Box::new(out.clone()), Box::new(err.clone()), Box::new(input));
        screen.asks = person;
        screen.live = person;
        let typed = without_environment(Typed::command())
            .try_get_matches_from(["plenum"].iter().chain(words))
            .and_then(|matches| Typed::from_arg_matches(&matches));
        let typed = match typed {
            Ok(typed) => typed,
            Err(error) => {
                let code = u8::try_from(error.exit_code()).unwrap();
                return Outcome { code, out: error.to_string(), err: String::new() };
            }
        };
        let done = plenum_cli::execute(&typed.verb, Typed::command, &self.contexts, &mut screen).await;
        let (code, told) = match done {
            Ok(()) => (0, String::new()),
            Err(error) => (error.exit_code(), error.to_string()),
        };
        Outcome { code, out: out.text(), err: err.text() + &told }
    }
}

/// Whoever runs the tests may have a cluster of their own in the environment.
fn without_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.env(clap::builder::Resettable::Reset))
        .mut_subcommands(without_environment)
}

#[test]
fn the_command_is_well_formed_and_every_verb_has_examples() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} says what it does");
        let leaf = command.get_subcommands().next().is_none();
        assert!(!leaf || command.get_after_help().is_some(), "{path} has examples");
        for inner in command.get_subcommands() {
            check(inner, &path);
        }
    }
    Typed::command().debug_assert();
    for verb in Typed::command().get_subcommands() {
        check(verb, "plenum");
    }
}

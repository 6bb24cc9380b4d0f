//! `plenum import marathon`: apps, pods and groups of a running Marathon, or of a file of its answers, become this cluster's. Nothing is
//! changed there.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use http::header::ACCEPT;
use plenum_base::client::{Client, ClientError, Credentials};
use serde_json::{Value, json};

use super::apply::{What, carry_out};
use super::documents::{Document, members, read};
use super::read_file;
use super::wait::Waiting;
use crate::Global;
use crate::api::Session;
use crate::api::services::bare;
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::text::clean;

/// How long the other side may take for an answer.
const CALL: Duration = Duration::from_secs(60);

/// Where systems keep the authorities that they trust.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

const EXAMPLES: &str = "Examples:
  plenum import marathon http://marathon.example:8080 --dry-run       shows what would come over, and what differs
  plenum import marathon https://dcos.example/service/marathon --token-file token --group /shop
  plenum import marathon apps.json                                    the answer of GET /v2/apps or /v2/groups, kept in a file";

/// From where.
#[derive(Subcommand, Debug)]
pub enum ImportVerb {
    /// Take over the apps, pods and groups of a Marathon
    #[command(after_help = EXAMPLES)]
    Marathon(Marathon),
}

/// Which Marathon, and what of it.
#[derive(Args, Debug)]
pub struct Marathon {
    /// Its address, or a file with its answers; - for the standard input
    from: String,
    /// Only what lies in this group
    #[arg(long, value_name = "ID", default_value = "/")]
    group: String,
    /// A file with the token of DC/OS that it wants
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// A file with NAME:PASSWORD, where it wants that
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    login_file: Option<String>,
    /// A file with the authority's certificate of its address (PEM), where the system does not know it
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// Bring apps over without instances, to be scaled up one by one
    #[arg(long)]
    stopped: bool,
    /// Show what would come over, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &ImportVerb,
    screen: &mut Screen,
) -> Result<()> {
    let ImportVerb::Marathon(asked) = verb;
    let mut documents =
        if asked.from.contains("://") { fetch(asked).await? } else { from_file(asked, screen)? };
    let group = format!("/{}", asked.group.trim_matches('/'));
    let inside =
        |id: &str| group == "/" || id == group || id.strip_prefix(&group).is_some_and(|r| r.starts_with('/'));
    documents.retain(|one| inside(&one.id()));
    documents.sort_by_key(Document::id);
    if documents.is_empty() {
        return Err(CliError::Usage(format!("nothing is there in {}", clean(&group))));
    }
    let remarks: Vec<(String, String)> = documents.iter().flat_map(remarks).collect();
    for (id, text) in &remarks {
        screen.note(&format!("{}: {}", clean(id), clean(text)))?;
    }
    if asked.stopped {
        documents.iter_mut().for_each(stop);
    }
    let what = What { dry_run: asked.dry_run, yes: asked.yes, force: false };
    // Group by group, as what depends on each other mostly lies together; the cluster orders each by its dependencies.
    let mut groups: Vec<Vec<Document>> = Vec::new();
    for document in documents {
        let same = |one: &Vec<Document>| {
            one.first().is_some_and(|first| parent(&first.id()) == parent(&document.id()))
        };
        match groups.last_mut().filter(|last| same(last)) {
            Some(last) => last.push(document),
            None => groups.push(vec![document]),
        }
    }
    for documents in groups {
        carry_out(session, global.output, documents, &what, &asked.waiting, screen).await?;
    }
    Ok(())
}

fn parent(id: &str) -> &str {
    id.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Everything that the other side has.
async fn fetch(asked: &Marathon) -> Result<Vec<Document>> {
    let base = asked.from.trim_end_matches('/').trim_end_matches("/v2/apps").trim_end_matches("/v2");
    let file = |path: &str| {
        std::fs::read_to_string(path)
            .map_err(|error| CliError::Usage(format!("{path} cannot be read: {error}")))
    };
    let local = |error: &dyn std::fmt::Display| CliError::Local(format!("{base} cannot be asked: {error}"));
    let authorities = match &asked.ca {
        Some(path) => Some(file(path)?),
        None if base.starts_with("https") => {
            SYSTEM.iter().find_map(|path| std::fs::read_to_string(path).ok())
        }
        None => None,
    };
    let client = match authorities {
        Some(authorities) => Client::with_ca(&authorities),
        None => Client::plain(),
    };
    let client = client.map_err(|error| local(&error))?;
    let client = if let Some(path) = &asked.token_file {
        client.with_credentials(Credentials::Token(file(path)?.trim().to_owned()))
    } else if let Some(path) = &asked.login_file {
        let text = file(path)?;
        let (name, password) = text
            .trim()
            .split_once(':')
            .ok_or_else(|| CliError::Usage(format!("{path} is to hold NAME:PASSWORD")))?;
        client
            .with_credentials(Credentials::Basic { principal: name.to_owned(), secret: password.to_owned() })
    } else {
        client
    };
    let get = async |path: &str| -> Result<Option<Value>> {
        let call = client.call(Method::GET, &format!("{base}{path}")).header(ACCEPT, "application/json");
        let reply = call.deadline(CALL).send().await.map_err(|error| untrusted(base, error))?;
        let status = reply.status;
        match status.as_u16() {
            200 => {}
            // Marathons of before have no pods.
            404 => return Ok(None),
            401 | 403 => {
                let text = format!("{base} wants a login: give --token-file or --login-file");
                return Err(CliError::NotLoggedIn(text));
            }
            _ => {
                let body = reply.bytes_up_to(1 << 16).await.unwrap_or_default();
                return Err(CliError::refusal(status, &body));
            }
        }
        let bytes = reply.bytes().await?;
        let understood = serde_json::from_slice(&bytes);
        let answer =
            |error: serde_json::Error| CliError::Answer { url: base.to_owned(), reason: error.to_string() };
        understood.map(Some).map_err(answer)
    };
    let apps = get("/v2/apps").await?;
    let Some(Value::Array(apps)) = apps.map(|mut apps| apps["apps"].take()) else {
        return Err(CliError::Usage(format!("{base} is no Marathon: it has no /v2/apps")));
    };
    let pods = match get("/v2/pods").await? {
        Some(Value::Array(pods)) => pods,
        _ => Vec::new(),
    };
    apps.into_iter().chain(pods).map(|one| Document::new(base, modern(one))).collect()
}

/// A certificate that is not trusted is what most clusters have: the error says what to give.
fn untrusted(base: &str, error: ClientError) -> CliError {
    match &error {
        ClientError::Transport { reason, .. } if reason.contains("certificate") => CliError::Usage(format!(
            "the certificate of {base} is not trusted ({reason}): give the file of the CA that made it with --ca"
        )),
        _ => error.into(),
    }
}

/// Apps, pods and groups of a file; groups in parts.
fn from_file(asked: &Marathon, screen: &mut Screen) -> Result<Vec<Document>> {
    let text = read_file(&asked.from, screen)?;
    let mut all = Vec::new();
    for document in read(&asked.from, &text)? {
        match document {
            Document::Group(_, group) => {
                let mut inner = Vec::new();
                members(&group, "", 0, &mut |id, value| {
                    let mut value = value.clone();
                    value["id"] = id.into();
                    inner.push(value);
                });
                for value in inner {
                    all.push(Document::new(&asked.from, modern(value))?);
                }
            }
            Document::App(_, value) | Document::Pod(_, value) => {
                all.push(Document::new(&asked.from, modern(value))?);
            }
        }
    }
    Ok(all)
}

/// Without what only the other side says, and without empty remains of older versions.
fn modern(value: Value) -> Value {
    let mut value = bare(value);
    if let Value::Object(map) = &mut value {
        for gone in ["uris", "storeUrls", "ipAddress"] {
            if map.get(gone).is_some_and(|one| one.is_null() || one.as_array().is_some_and(Vec::is_empty)) {
                map.remove(gone);
            }
        }
    }
    value
}

/// What will be otherwise here.
fn remarks(document: &Document) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let (id, value) = match document {
        Document::App(id, value) | Document::Pod(id, value) | Document::Group(id, value) => (id, value),
    };
    let mut say = |text: String| all.push((id.clone(), text));
    let volumes = [value.get("volumes"), value.pointer("/container/volumes")];
    for volume in volumes.into_iter().flatten().filter_map(Value::as_array).flatten() {
        if volume.get("persistent").is_some_and(|one| !one.is_null()) {
            say("its persistent volumes do not come over: their data stays on the other cluster's nodes"
                .to_owned());
        }
        if let Some(path) = volume.get("hostPath").or_else(|| volume.get("host")).and_then(Value::as_str)
            && path.starts_with('/')
        {
            say(format!(
                "it uses the path {path} of its nodes: the agents here must allow it (`agent.host_paths`)"
            ));
        }
    }
    if value.get("secrets").and_then(Value::as_object).is_some_and(|secrets| !secrets.is_empty()) {
        say("its secrets are references: they must exist here under the same names".to_owned());
    }
    let instances = value.get("instances").and_then(Value::as_u64).unwrap_or(0);
    let fixed = value.get("requirePorts").and_then(Value::as_bool).unwrap_or(false);
    if fixed && instances > 0 {
        say("it asks for certain ports of its node: they must be among those that agents here give out"
            .to_owned());
    }
    for rule in value.get("constraints").and_then(Value::as_array).into_iter().flatten() {
        let words: Vec<&str> = rule.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let [field, operator, wanted] = words.as_slice()
            && ["CLUSTER", "LIKE", "IS"].contains(operator)
        {
            say(format!("it is placed by {field} {operator} {wanted}: a node here must have that"));
        }
    }
    if let Some(role) =
        value.get("role").and_then(Value::as_str).filter(|role| *role != "*" && !role.is_empty())
    {
        say(format!("it uses the role {role}: a quota or reservation of it does not come over"));
    }
    all
}

fn stop(document: &mut Document) {
    match document {
        Document::App(_, value) => value["instances"] = json!(0),
        Document::Pod(_, value) => value["scaling"] = json!({"kind": "fixed", "instances": 0}),
        Document::Group(..) => {}
    }
}

//! The gateway of the cluster from here: logging in, waiting until every agent is there, draining one.

use std::time::Duration;

use plenum_base::client::{Client, Credentials};
use plenum_cli::api::Session;
use plenum_cli::context::{Context, Contexts};
use plenum_plan::cluster::Cluster;
use serde_json::{Value, json};

use crate::error::{InstallError, Result};
use crate::secrets::Secret;

const CALL: Duration = Duration::from_secs(15);

/// The address of a master's gateway.
#[must_use]
pub fn url(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => format!("https://{address}"),
        std::net::IpAddr::V6(address) => format!("https://[{address}]"),
    }
}

/// Logs in at the first master that answers, and remembers it for the command line here. Gives the address.
///
/// # Errors
/// What the last one said.
pub async fn log_in(cluster: &Cluster, ca: &str, password: &Secret, contexts: &Contexts) -> Result<String> {
    let (name, user) = (cluster.name.as_str(), &cluster.admin.user);
    let mut last = InstallError::Refused("the file names no master".to_owned());
    for master in cluster.masters() {
        let url = url(master.address);
        match Session::login(name, &url, ca, user, password.expose()).await {
            Ok((_, token)) => {
                let context = Context {
                    url: url.clone(),
                    ca: ca.to_owned(),
                    token: Some(token),
                    user: Some(user.clone()),
                };
                contexts.save(&cluster.name, &context)?;
                return Ok(url);
            }
            Err(error) => last = InstallError::Host(error.to_string()),
        }
    }
    Err(last)
}

/// A call to the resource manager with the login that is remembered, at the first master that answers.
///
/// # Errors
/// [`InstallError::Refused`] without a login, or what the last master said.
pub async fn operator(cluster: &Cluster, contexts: &Contexts, body: &Value) -> Result<Value> {
    call(cluster, contexts, "/mesos/api/v1", body).await
}

async fn call(cluster: &Cluster, contexts: &Contexts, path: &str, body: &Value) -> Result<Value> {
    let context = contexts.load(&cluster.name)?.filter(|context| context.token.is_some());
    let Some(context) = context else {
        return Err(InstallError::Refused(format!(
            "nobody is logged in: run `plenum login --instance {}` first",
            cluster.name
        )));
    };
    let failed = |error: &dyn std::fmt::Display| InstallError::Host(error.to_string());
    let client = Client::with_ca(&context.ca).map_err(|error| failed(&error))?;
    let client = client.with_credentials(Credentials::Token(context.token.clone().unwrap_or_default()));
    let mut last = InstallError::Refused("the file names no master".to_owned());
    for master in cluster.masters() {
        let call = client.post(&format!("{}{path}", url(master.address))).deadline(CALL).json(body);
        let answer = async { call.send().await?.success().await?.bytes().await }.await;
        match answer {
            Ok(bytes) if bytes.is_empty() => return Ok(Value::Null),
            Ok(bytes) => return serde_json::from_slice(&bytes).map_err(|error| failed(&error)),
            Err(error) => last = failed(&error),
        }
    }
    Err(last)
}

/// Agents as the leading master has them.
///
/// # Errors
/// As for [`operator`].
pub async fn agents(cluster: &Cluster, contexts: &Contexts) -> Result<Vec<Value>> {
    let answer = operator(cluster, contexts, &json!({"type": "GET_AGENTS"})).await?;
    let agents = answer.pointer("/get_agents/agents").and_then(Value::as_array);
    Ok(agents.cloned().unwrap_or_default())
}

/// Whether an agent of the answer is the host's.
pub(crate) fn is_of(agent: &Value, name: &str, address: std::net::IpAddr) -> bool {
    let pid = agent.get("pid").and_then(Value::as_str).unwrap_or_default();
    let hostname = agent.pointer("/agent_info/hostname").and_then(Value::as_str).unwrap_or_default();
    let node = agent.get("node_name").and_then(Value::as_str);
    node == Some(name)
        || hostname == name
        || hostname == address.to_string()
        || pid.contains(&format!("@{address}:"))
}

/// Drains the agent of a host and marks it as gone: its tasks are moved, and it may not come back under its id.
///
/// # Errors
/// [`InstallError::Deadline`] with what is in the way.
pub async fn drain(
    cluster: &Cluster,
    contexts: &Contexts,
    host: (&str, std::net::IpAddr),
    deadline: Duration,
    say: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let (name, address) = host;
    let find = async || -> Result<Option<Value>> {
        Ok(agents(cluster, contexts).await?.into_iter().find(|agent| is_of(agent, name, address)))
    };
    let Some(agent) = find().await? else { return Ok(()) };
    let id = agent.pointer("/agent_info/id/value").and_then(Value::as_str).unwrap_or_default().to_owned();
    let grace = i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX);
    let drain =
        json!({"agent_id": {"value": id}, "max_grace_period": {"nanoseconds": grace}, "mark_gone": true});
    operator(cluster, contexts, &json!({"type": "DRAIN_AGENT", "drain_agent": drain})).await?;
    let end = tokio::time::Instant::now() + deadline;
    loop {
        let Some(agent) = find().await? else { return Ok(()) };
        let state = agent.pointer("/drain_info/state").and_then(Value::as_str).unwrap_or("DRAINING");
        if state == "DRAINED"
            || agent.get("active") == Some(&Value::Bool(false)) && agent.get("drain_info").is_none()
        {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            return Err(InstallError::Deadline(format!(
                "{name} is not drained after {} s; see `plenum task list` for what still runs there. Try again with a longer --deadline, or with \
                 --no-drain",
                deadline.as_secs()
            )));
        }
        say("draining: its tasks are moved");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A join token, made with the login that is remembered.
///
/// # Errors
/// As for [`operator`].
pub async fn mint(
    cluster: &Cluster,
    contexts: &Contexts,
    kind: plenum_plan::spec::Kind,
    ttl: u64,
    uses: u32,
) -> Result<String> {
    let body = json!({"kind": kind, "ttl_seconds": ttl, "uses": uses, "description": "user data"});
    let answer = call(cluster, contexts, "/plenum/v1/tokens", &body).await?;
    let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
    token.ok_or_else(|| InstallError::Host("the cluster gave no token".to_owned()))
}

/// Marks the agent of a host as gone, if there is one.
///
/// # Errors
/// As for [`operator`].
pub async fn mark_gone(cluster: &Cluster, contexts: &Contexts, host: (&str, std::net::IpAddr)) -> Result<()> {
    for agent in agents(cluster, contexts).await?.iter().filter(|agent| is_of(agent, host.0, host.1)) {
        let Some(id) = agent.pointer("/agent_info/id/value") else { continue };
        let body = json!({"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": {"value": id}}});
        operator(cluster, contexts, &body).await?;
    }
    Ok(())
}

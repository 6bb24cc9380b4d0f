//! `plenum node add|remove|replace`: the file is changed, keeping its comments, and what is left to do is done as by `apply`.

use std::path::Path;
use std::time::Duration;

use plenum_cli::context::Contexts;
use plenum_cli::install::{Add, Common, Newcomer, NodeInstall, Remove};
use plenum_cli::screen::{Output, Screen};
use plenum_plan::cluster::{Cluster, Host};
use plenum_plan::nearest::nearest;
use plenum_plan::plan as make_plan;
use plenum_plan::spec::Kind;
use serde_json::{Map, Value, json};

use super::{Apply, agreed, apply};
use crate::edit::{Edit, edit};
use crate::error::{InstallError, Result};
use crate::gateway;
use crate::work::{Work, load};

/// Shorter beginnings of ids mean nothing, as for the other verbs of nodes.
const PREFIX: usize = 4;

pub(crate) async fn node(verb: &NodeInstall, output: Output, screen: &mut Screen) -> Result<()> {
    match verb {
        NodeInstall::Add(add) => {
            let entry = entry(add.address, add.roles.iter().map(|role| role.as_str()).collect(), &add.host)?;
            come(add, &entry, output, screen).await
        }
        NodeInstall::Remove(remove) => {
            go(remove, screen).await?;
            then_apply(&remove.common, output, screen).await
        }
        NodeInstall::Replace(replace) => {
            let (cluster, _) = load(&replace.common.config, screen)?;
            let host = meant(&cluster, &replace.old, &replace.common.config).await?;
            if host.address == replace.new {
                return Err(InstallError::Usage(
                    "the new host has the old one's address: `plenum node remove` the old one, then `plenum node add` it".to_owned(),
                ));
            }
            let roles: Vec<&str> = host.kinds().iter().map(|kind| kind.as_str()).collect();
            let entry = entry(replace.new, roles.clone(), &replace.host)?;
            let question =
                format!("Put {} in the place of {} ({})?", replace.new, host.name, roles.join(", "));
            agreed(replace.common.yes, &question, screen)?;
            let common = Common { yes: true, ..replace.common.clone() };
            // A master that lives leaves only when the new one is there; a dead one only stands in the way of the majority.
            let remove = Remove {
                name: host.name.clone(),
                dead: replace.dead,
                no_drain: replace.no_drain,
                deadline: replace.deadline,
                common: common.clone(),
            };
            let add = Add {
                address: replace.new,
                roles: Vec::new(),
                host: replace.host.clone(),
                common: common.clone(),
            };
            if replace.dead {
                go(&remove, screen).await?;
                come(&add, &entry, output, screen).await
            } else {
                come(&add, &entry, output, screen).await?;
                go(&remove, screen).await?;
                then_apply(&common, output, screen).await
            }
        }
    }
}

/// The host that a word means: its name or address in the file, or its agent's id or the beginning of that, as the cluster knows it.
async fn meant<'a>(cluster: &'a Cluster, word: &str, file: &Path) -> Result<&'a Host> {
    if let Some(host) = cluster.host(word) {
        return Ok(host);
    }
    // Whoever is not logged in has names and addresses.
    let agents = match word.len() >= PREFIX {
        true => gateway::agents(cluster, &Contexts::of_this_user()).await.unwrap_or_default(),
        false => Vec::new(),
    };
    by_id(cluster, word, &agents)?.ok_or_else(|| unknown(cluster, word, file))
}

/// The host whose agent has an id that is `word` or begins with it.
fn by_id<'a>(cluster: &'a Cluster, word: &str, agents: &[Value]) -> Result<Option<&'a Host>> {
    let id = |agent: &&Value| {
        agent.pointer("/agent_info/id/value").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let host =
        |agent: &Value| cluster.hosts.iter().find(|host| gateway::is_of(agent, &host.name, host.address));
    if let Some(exact) = agents.iter().find(|agent| id(agent) == word) {
        return Ok(host(exact));
    }
    let begun: Vec<&Value> = agents.iter().filter(|agent| id(agent).starts_with(word)).collect();
    match begun.as_slice() {
        [] => Ok(None),
        [one] => Ok(host(one)),
        several => {
            let ids: Vec<String> = several.iter().map(id).collect();
            Err(InstallError::Usage(format!(
                "several agents have ids that begin with {word}: {}",
                ids.join(", ")
            )))
        }
    }
}

fn unknown(cluster: &Cluster, word: &str, file: &Path) -> InstallError {
    let names: Vec<String> =
        cluster.hosts.iter().flat_map(|host| [host.name.clone(), host.address.to_string()]).collect();
    let near = nearest(word, names.iter().map(String::as_str));
    let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    InstallError::Usage(format!("{} has no host {word}{near}", file.display()))
}

/// An entry of the list of hosts, in flow form.
fn entry(address: std::net::IpAddr, roles: Vec<&str>, host: &Newcomer) -> Result<String> {
    let mut map = Map::new();
    if let Some(name) = &host.name {
        map.insert("name".to_owned(), json!(name));
    }
    map.insert("address".to_owned(), json!(address));
    map.insert("roles".to_owned(), json!(roles));
    for (key, value) in [("region", &host.region), ("zone", &host.zone)] {
        if let Some(value) = value {
            map.insert(key.to_owned(), json!(value));
        }
    }
    let mut attributes = Map::new();
    for text in &host.attributes {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| InstallError::Usage(format!("--attribute {text}: write NAME:VALUE")))?;
        attributes.insert(name.to_owned(), json!(value));
    }
    if !attributes.is_empty() {
        map.insert("attributes".to_owned(), Value::Object(attributes));
    }
    let mut ssh = Map::new();
    for (key, value) in [("host", &host.ssh_host), ("user", &host.ssh_user)] {
        if let Some(value) = value {
            ssh.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(port) = host.ssh_port {
        ssh.insert("port".to_owned(), json!(port));
    }
    if let Some(key) = &host.ssh_key {
        ssh.insert("key".to_owned(), json!([key]));
    }
    if !ssh.is_empty() {
        map.insert("ssh".to_owned(), Value::Object(ssh));
    }
    Ok(flow(&Value::Object(map)))
}

/// YAML's flow form, as people write it: JSON with blanks, and bare keys and words where these mean the same.
fn flow(value: &Value) -> String {
    let bare = |text: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(fine);
        // Words that YAML takes for something else.
        let other = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
        if word && !other.contains(&text.to_ascii_lowercase().as_str()) {
            text.to_owned()
        } else {
            json!(text).to_string()
        }
    };
    match value {
        Value::Object(map) => {
            let parts: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", bare(key), flow(value))).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => bare(text),
        other => other.to_string(),
    }
}

/// Changes the file, or says what to change in it.
fn change(file: &Path, text: &str, change: &Edit) -> Result<()> {
    let by_hand = match change {
        Edit::Add(entry) => {
            format!("add this to hosts in {}: {entry}\nThen run `plenum install apply`", file.display())
        }
        Edit::Remove(name) => format!("take {name} out of hosts in {}", file.display()),
    };
    let edited = edit(text, change).ok_or_else(|| {
        InstallError::Usage(format!("the file cannot be changed here without risk; {by_hand}"))
    })?;
    // A link stays one, and the folder is named: it is synced too.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    // Another name first: a full disk must not take the file.
    let mode = std::fs::metadata(file)
        .map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()))
        .unwrap_or(0o644);
    plenum_base::files::replace(file, edited.as_bytes(), mode & 0o777)
        .map_err(|error| InstallError::Local(format!("{}: {error}; {by_hand}", file.display())))
}

async fn come(add: &Add, entry: &str, output: Output, screen: &mut Screen) -> Result<()> {
    let file = &add.common.config;
    let (cluster, text) = load(file, screen)?;
    if cluster.hosts.iter().any(|host| host.address == add.address) {
        screen.note(&format!("{} is in {} already", add.address, file.display()))?;
        return then_apply(&add.common, output, screen).await;
    }
    change(file, &text, &Edit::Add(entry.to_owned()))?;
    screen.note(&format!("added to {}: {entry}", file.display()))?;
    let done = then_apply(&add.common, output, screen).await;
    // Where nothing was begun there is nothing to go on with.
    let unbegun = |error: &InstallError| {
        use InstallError::{Config, Preflight, Refused, Usage};
        matches!(error, Config(_) | Preflight(_) | Refused(_) | Usage(_))
    };
    if done.as_ref().is_err_and(unbegun) {
        change(
            file,
            &std::fs::read_to_string(file).unwrap_or_default(),
            &Edit::Remove(add.address.to_string()),
        )?;
        screen.note(&format!("{} was taken out of {} again", add.address, file.display()))?;
    }
    done
}

async fn then_apply(common: &Common, output: Output, screen: &mut Screen) -> Result<()> {
    let arguments = Apply { config: common.config.clone(), output, yes: common.yes, fix: common.fix };
    apply(&arguments, screen).await
}

/// Takes a host out: drained, out of the map, everything off it, out of the file.
async fn go(remove: &Remove, screen: &mut Screen) -> Result<()> {
    let file = &remove.common.config;
    let (cluster, text) = load(file, screen)?;
    let host = meant(&cluster, &remove.name, file).await?.clone();
    let others = cluster.masters().filter(|master| master.name != host.name).count();
    if host.is(Kind::Master) && others == 0 {
        return Err(InstallError::Refused(format!(
            "{} is the only master: to take the cluster away use `plenum uninstall`",
            host.name
        )));
    }
    let question = format!(
        "Take {} out of the cluster{}?",
        host.name,
        if remove.dead { "" } else { ", and everything off it" }
    );
    agreed(remove.common.yes, &question, screen)?;
    let work = Work::begin(cluster, file, screen)?;
    let wanted: Vec<_> =
        work.remotes.iter().filter(|remote| !(remove.dead && remote.name == host.name)).cloned().collect();
    let ready = work.ready(&wanted).await;
    let away: Vec<String> =
        ready.iter().filter_map(|(name, done)| Some(format!("{name}: {}", done.as_ref().err()?))).collect();
    if let Some((_, Err(error))) = ready.iter().find(|(name, _)| *name == host.name) {
        return Err(InstallError::Connect(format!(
            "{}: {error}. If the machine is gone for good: --dead",
            host.name
        )));
    }
    if host.is(Kind::Master) {
        majority(&work, &host.name, &ready)?;
    }
    let reached: Vec<_> = wanted.iter().filter(|remote| remote.program().is_ok()).cloned().collect();
    let locks = work.lock(&reached).await?;
    let outcome = take(&work, remove, &host).await;
    locks.release().await;
    work.tidy().await;
    work.progress.clear();
    outcome?;
    change(file, &text, &Edit::Remove(host.name.clone()))?;
    screen.note(&format!("{} is out of the cluster and of {}", host.name, file.display()))?;
    for why in away {
        screen.note(&format!("not reached: {why}"))?;
    }
    Ok(())
}

/// Refuses where the masters that answer are too few for etcd to agree on the removal.
fn majority(work: &Work, going: &str, ready: &[(String, Result<()>)]) -> Result<()> {
    let all = work.cluster.masters().count();
    let up = work
        .cluster
        .masters()
        .filter(|master| ready.iter().any(|(name, done)| *name == master.name && done.is_ok()))
        .count();
    let stay = work
        .cluster
        .masters()
        .filter(|master| {
            master.name != going && ready.iter().any(|(name, done)| *name == master.name && done.is_ok())
        })
        .count();
    let needed_now = all / 2 + 1;
    let needed_then = (all - 1) / 2 + 1;
    if up < needed_now || stay < needed_then {
        return Err(InstallError::Refused(format!(
            "only {up} of {all} masters answer; without {going} {stay} would, and {needed_then} are needed. Bring another one back first; if a majority \
             is gone for good, see `plenum store recover`"
        )));
    }
    Ok(())
}

async fn take(work: &Work, remove: &Remove, host: &plenum_plan::cluster::Host) -> Result<()> {
    let say = |text: &str| work.progress.host(&host.name, text);
    let runs_tasks = host.is(Kind::Agent) || host.is(Kind::Public);
    if runs_tasks && !remove.dead && !remove.no_drain {
        say("draining");
        let deadline = Duration::from_secs(remove.deadline.clamp(1, 86_400));
        gateway::drain(&work.cluster, &work.contexts, (&host.name, host.address), deadline, &say).await?;
    }
    // Facts are not needed to ask masters; an empty plan says that all of them are in.
    let plan = make_plan(&work.cluster, &[], &work.given).unwrap_or_default();
    if host.is(Kind::Master) {
        say("leaving the masters");
        work.take_out(&plan, &host.name, &host.name, true, false).await?;
    }
    if !remove.dead {
        let remote = work.remote(&host.name)?.clone();
        for (name, done) in work.remove(&[remote], true).await {
            done.map_err(|error| InstallError::Host(format!("{name}: {error}; run the same command again")))?;
        }
    }
    say("its certificates end");
    work.take_out(&plan, &host.name, &host.name, false, true).await?;
    // Drained it was marked before, but may have come back under a new id until it was stopped.
    if runs_tasks {
        gone(work, host).await;
    }
    Ok(())
}

/// Tells the resource manager that an agent does not come back, so that its tasks are replaced at once. It notices by itself later.
async fn gone(work: &Work, host: &plenum_plan::cluster::Host) {
    if let Err(error) = gateway::mark_gone(&work.cluster, &work.contexts, (&host.name, host.address)).await {
        work.progress.say(&format!("{}: its agent could not be marked as gone: {error}", host.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_people_write_and_means_the_same() {
        let host = Newcomer {
            name: Some("h4".to_owned()),
            attributes: vec!["disk:on".to_owned(), "rack:r 1".to_owned()],
            ssh_user: Some("ops".to_owned()),
            ..Newcomer::default()
        };
        let text = entry("10.0.0.4".parse().unwrap(), vec!["master", "agent"], &host).unwrap();
        assert_eq!(
            text,
            r#"{address: "10.0.0.4", attributes: {disk: "on", rack: "r 1"}, name: h4, roles: [master, agent], ssh: {user: ops}}"#
        );
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read["attributes"], json!({"disk": "on", "rack": "r 1"}));
    }
    #[test]
    fn hosts_are_meant_by_the_ids_of_their_agents_too() {
        let file = "name: lab\nhosts:\n- {name: h1, address: 10.0.0.1, roles: [master, agent]}\n- {name: h2, address: 10.0.0.2, roles: [agent]}\n";
        let cluster = plenum_plan::schema::read(file).cluster.unwrap();
        let agent = |id: &str, name: &str, address: &str| json!({"agent_info": {"id": {"value": id}, "hostname": address}, "node_name": name});
        let agents = [
            agent("ab12-S1", "h1", "10.0.0.1"),
            agent("ab12-S10", "h2", "10.0.0.2"),
            agent("cd34-S0", "x", "10.0.0.9"),
        ];
        let host =
            |word: &str| by_id(&cluster, word, &agents).map(|host| host.map(|host| host.name.as_str()));
        assert_eq!(host("ab12-S1").unwrap(), Some("h1"));
        assert_eq!(host("ab12-S10").unwrap(), Some("h2"));
        assert_eq!(host("cd34").unwrap(), None, "its host is not in the file");
        assert_eq!(host("ef56").unwrap(), None);
        assert!(host("ab12").unwrap_err().to_string().contains("ab12-S1, ab12-S10"));
        let error = unknown(&cluster, "h3", Path::new("cluster.yaml")).to_string();
        assert!(error.contains("cluster.yaml has no host h3; did you mean h1?"), "{error}");
    }
}

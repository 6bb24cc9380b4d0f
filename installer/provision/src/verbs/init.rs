//! `plenum install init`: a commented configuration, by few questions or from flags.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use plenum_cli::screen::Screen;
use plenum_plan::init::{Answers, file};
use plenum_plan::schema;
use plenum_plan::spec::Kind;

use crate::error::{InstallError, Result};

/// Arguments of `plenum install init`.
#[derive(Args, Debug, Clone)]
pub struct Init {
    /// The file to write; - for the standard output
    #[arg(long, default_value = "cluster.yaml", value_name = "FILE")]
    pub file: String,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// A configuration of DC/OS to take over
    #[arg(long, value_name = "FILE", conflicts_with_all = ["master", "agent", "public"])]
    pub from: Option<PathBuf>,
    /// The cluster's name
    #[arg(long)]
    pub name: Option<String>,
    /// Addresses of masters
    #[arg(long, value_delimiter = ',')]
    pub master: Vec<IpAddr>,
    /// Addresses of agents; a master's makes it an agent, too
    #[arg(long, value_delimiter = ',')]
    pub agent: Vec<IpAddr>,
    /// Addresses of public nodes
    #[arg(long, value_delimiter = ',')]
    pub public: Vec<IpAddr>,
    /// User of SSH
    #[arg(long, value_name = "USER")]
    pub ssh_user: Option<String>,
    /// Key file of SSH
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<String>,
}

pub(crate) fn init(init: &Init, screen: &mut Screen) -> Result<()> {
    let answers = match &init.from {
        Some(path) => taken_over(init, path, screen)?,
        None => answers(init, screen)?,
    };
    let text = file(&answers);
    let read = schema::read(&text);
    for problem in &read.problems {
        screen.note(&format!("{problem}"))?;
    }
    if init.file == "-" {
        return Ok(screen.print(&text)?);
    }
    let path = PathBuf::from(&init.file);
    if path.exists() && !init.force {
        return Err(InstallError::Usage(format!(
            "{} is there already; --force writes over it",
            path.display()
        )));
    }
    std::fs::write(&path, text)
        .map_err(|error| InstallError::Local(format!("{}: {error}", path.display())))?;
    let next = if read.failed() { "correct it, then" } else { "look through it, then" };
    Ok(screen.print(&format!(
        "wrote {}; {next}: plenum install preflight --config {}\n",
        path.display(),
        path.display()
    ))?)
}

fn hosts(masters: &[IpAddr], agents: &[IpAddr], public: &[IpAddr]) -> Vec<(IpAddr, Vec<Kind>)> {
    let mut hosts: Vec<(IpAddr, Vec<Kind>)> = Vec::new();
    for (list, kind) in [(masters, Kind::Master), (agents, Kind::Agent), (public, Kind::Public)] {
        for address in list {
            match hosts.iter_mut().find(|(known, _)| known == address) {
                Some((_, kinds)) if !kinds.contains(&kind) => kinds.push(kind),
                Some(_) => {}
                None => hosts.push((*address, vec![kind])),
            }
        }
    }
    hosts
}

fn answers(init: &Init, screen: &mut Screen) -> Result<Answers> {
    let mut answers = Answers {
        name: init.name.clone(),
        hosts: hosts(&init.master, &init.agent, &init.public),
        user: init.ssh_user.clone(),
        key: init.ssh_key.clone(),
        set: Vec::new(),
    };
    if !answers.hosts.is_empty() {
        return Ok(answers);
    }
    if !screen.asks {
        return Err(InstallError::Usage("name hosts with --master, --agent and --public".to_owned()));
    }
    let name = screen.ask("The cluster's name [default]: ")?;
    answers.name = Some(name.trim().to_owned()).filter(|name| !name.is_empty()).or(answers.name);
    let mut lists = Vec::new();
    for question in [
        "Addresses of the masters, one or three (10.0.0.1 10.0.0.2 10.0.0.3): ",
        "Addresses of the agents; a master's makes it an agent, too: ",
        "Addresses of public nodes, if any: ",
    ] {
        lists.push(addresses(question, screen)?);
    }
    if let [masters, agents, public] = lists.as_slice() {
        answers.hosts = hosts(masters, agents, public);
    }
    let user = screen.ask("User of SSH [root]: ")?;
    answers.user = Some(user.trim().to_owned()).filter(|user| !user.is_empty()).or(answers.user);
    let key = screen.ask("Key file of SSH [the agent's, or the usual ones]: ")?;
    answers.key = Some(key.trim().to_owned()).filter(|key| !key.is_empty()).or(answers.key);
    Ok(answers)
}

fn addresses(question: &str, screen: &mut Screen) -> Result<Vec<IpAddr>> {
    for _ in 0..5 {
        let answer = screen.ask(question)?;
        let words = answer.split([' ', ',']).filter(|word| !word.is_empty());
        let read: std::result::Result<Vec<IpAddr>, _> = words.map(str::parse).collect();
        match read {
            Ok(read) => return Ok(read),
            Err(error) => screen.note(&format!("that is no list of addresses: {error}"))?,
        }
    }
    Err(InstallError::Usage("no list of addresses was given".to_owned()))
}

/// What a configuration of DC/OS says, as answers.
fn taken_over(init: &Init, path: &std::path::Path, screen: &mut Screen) -> Result<Answers> {
    let (cluster, _) = crate::work::load(path, screen)?;
    let list = |words: &[String]| serde_json::Value::from(words).to_string();
    let mut set = vec![
        ("ssh.port".to_owned(), cluster.ssh.port.to_string()),
        ("networks.resolvers".to_owned(), list(&cluster.networks.resolvers)),
        ("admin.user".to_owned(), cluster.admin.user.clone()),
    ];
    if !cluster.weights.is_empty() {
        let weights = serde_json::to_string(&cluster.weights).unwrap_or_default();
        set.push(("weights".to_owned(), weights));
    }
    Ok(Answers {
        name: init.name.clone().or_else(|| Some(cluster.name.to_string())),
        hosts: cluster.hosts.iter().map(|host| (host.address, host.kinds())).collect(),
        user: init.ssh_user.clone().or(Some(cluster.ssh.user)),
        key: init.ssh_key.clone().or_else(|| cluster.ssh.key.first().cloned()),
        set,
    })
}

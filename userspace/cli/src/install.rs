//! The words of the verbs about nodes that the installer carries out: they need SSH, which is not this crate's. Whoever has both hands them on.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::Verb;
use crate::screen::Output;
use crate::verbs::node::NodeVerb;

const ADD: &str = "Examples:\n  plenum node add 10.0.0.7 --role agent\n  plenum node add 10.0.0.8 --role master --name m3 --ssh-user ops --ssh-key ~/.ssh/ops\n\n\
     Writes the host into cluster.yaml, with everything else as it was, and makes it part of the cluster.";
const REMOVE: &str = "Examples:\n  plenum node remove a3\n  plenum node remove m2 --dead      the machine is gone\n\n\
     An agent is drained first. A master is taken out of the cluster's map and of etcd, unless too few would be left.";
const REPLACE: &str =
    "Examples:\n  plenum node replace m2 10.0.0.9\n  plenum node replace m2 10.0.0.9 --dead";

/// What is done with a node over SSH.
#[derive(Subcommand, Debug)]
pub enum NodeInstall {
    /// Make a host part of the cluster, over SSH
    #[command(after_help = ADD)]
    Add(Add),
    /// Take a host out of the cluster and everything off it, over SSH
    #[command(after_help = REMOVE)]
    Remove(Remove),
    /// Put another host in the place of one, over SSH
    #[command(after_help = REPLACE)]
    Replace(Replace),
}

/// What all of them take.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The file that says what the cluster is
    #[arg(long, env = "PLENUM_CLUSTER_FILE", default_value = "cluster.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Repair what is safe to repair
    #[arg(long)]
    pub fix: bool,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostRole {
    /// It runs the control roles
    Master,
    /// It runs tasks
    Agent,
    /// It runs tasks that face the outside
    Public,
}

impl HostRole {
    /// The word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Public => "public",
        }
    }
}

/// A host that comes.
#[derive(Args, Debug, Clone, Default)]
pub struct Newcomer {
    /// Its name in the cluster; without one, its address with dashes
    #[arg(long)]
    pub name: Option<String>,
    /// Address or name for SSH, where it is another one
    #[arg(long, value_name = "HOST")]
    pub ssh_host: Option<String>,
    /// User of SSH, where the file's is not right
    #[arg(long, value_name = "USER")]
    pub ssh_user: Option<String>,
    /// Port of SSH
    #[arg(long, value_name = "PORT")]
    pub ssh_port: Option<u16>,
    /// Key file
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<String>,
    /// Its region
    #[arg(long, requires = "zone")]
    pub region: Option<String>,
    /// Its zone
    #[arg(long, requires = "region")]
    pub zone: Option<String>,
    /// An attribute of its agent; may be repeated
    #[arg(long = "attribute", value_name = "NAME:VALUE")]
    pub attributes: Vec<String>,
}

/// `plenum node add`.
#[derive(Args, Debug, Clone)]
pub struct Add {
    /// The address at which the other hosts reach it
    pub address: IpAddr,
    /// What it is for; may be repeated
    #[arg(long = "role", value_enum, required = true, value_delimiter = ',')]
    pub roles: Vec<HostRole>,
    /// More about it.
    #[command(flatten)]
    pub host: Newcomer,
    /// What all take.
    #[command(flatten)]
    pub common: Common,
}

/// `plenum node remove`.
#[derive(Args, Debug, Clone)]
pub struct Remove {
    /// Its name or address, or its agent's id
    pub name: String,
    /// The machine is gone: nothing is tried on it
    #[arg(long)]
    pub dead: bool,
    /// Do not move its tasks first: they are lost
    #[arg(long)]
    pub no_drain: bool,
    /// Seconds until its tasks must have gone
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub deadline: u64,
    /// What all take.
    #[command(flatten)]
    pub common: Common,
}

/// `plenum node replace`.
#[derive(Args, Debug, Clone)]
pub struct Replace {
    /// The name or address, or the agent's id, of the one that goes
    pub old: String,
    /// The address of the one that comes
    pub new: IpAddr,
    /// More about it.
    #[command(flatten)]
    pub host: Newcomer,
    /// The old machine is gone: nothing is tried on it
    #[arg(long)]
    pub dead: bool,
    /// Do not move its tasks first: they are lost
    #[arg(long)]
    pub no_drain: bool,
    /// Seconds until its tasks must have gone
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub deadline: u64,
    /// What all take.
    #[command(flatten)]
    pub common: Common,
}

impl Verb {
    /// The verb that is the installer's, if it is one, and how results are printed.
    #[must_use]
    pub fn installs(&self) -> Option<(&NodeInstall, Output)> {
        match self {
            Self::Node { global, verb: NodeVerb::Install(verb) } => Some((verb.as_ref(), global.output)),
            _ => None,
        }
    }
}

//! `plenum join`: a host that has a token and a master's address makes itself what the masters say. No SSH, no installer: for groups of
//! machines that grow by themselves, and for images.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use plenum_base::places::Role;
use plenum_base::tls::join::{Joined, NodeKind};
use plenum_host::enter;
use plenum_host::events::HostError;
use plenum_plan::spec::{Apply, Entry, Event, FORMAT, HostSpec, Kind, Secrets, Shared};

use super::{Roles, json_line, reported};

/// How this host joins.
#[derive(clap::Args, Debug)]
pub struct Join {
    /// Addresses of masters; one that answers is enough.
    #[arg(required = true, value_name = "ADDRESS")]
    masters: Vec<String>,
    /// The file with the join token, or - for standard input.
    #[arg(long, value_name = "FILE", alias = "token", env = "PLENUM_JOIN_TOKEN_FILE")]
    token_file: PathBuf,
    /// The host's name in the cluster; by default its host name.
    #[arg(long)]
    name: Option<String>,
    /// The address at which other hosts reach this one; by default the one from which it reaches the master.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Its region.
    #[arg(long, requires = "zone")]
    region: Option<String>,
    /// Its zone in the region.
    #[arg(long, requires = "region")]
    zone: Option<String>,
    /// An attribute of its agent, name:value. May be repeated.
    #[arg(long = "attribute", value_name = "NAME:VALUE")]
    attributes: Vec<String>,
    /// Resources to offer, as cpus:4;mem:2048; by default what the machine has.
    #[arg(long)]
    resources: Option<String>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

/// Joins.
pub fn run(join: &Join) -> ExitCode {
    let write: fn(&Event) = if join.json { json_line } else { plain_line };
    reported(write, |report| {
        let wrong = |error: anyhow::Error| HostError::Join(format!("{error:#}"));
        let token = token(join).map_err(wrong)?;
        let masters = masters(join).map_err(wrong)?;
        let address = own_address(join, &masters).map_err(wrong)?;
        let name = name(join).map_err(wrong)?;
        report.step("asking what the token is for");
        let urls: Vec<String> = masters.iter().map(|ip| base(*ip)).collect();
        let joined = enter::ask(&urls, &token, &enter::nothing_asked(&name, address))?;
        let spec = spec(join, name, address, &joined, &masters).map_err(wrong)?;
        let at = spec.masters.clone();
        let entry = Entry::Join { at, token };
        let apply = Apply { spec, entry, etcd: None, secrets: Secrets::default() };
        plenum_host::apply::apply(&apply, &Roles, report)
    })
}

fn base(ip: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(ip, Role::Identity.port()))
}

fn token(join: &Join) -> Result<String> {
    let mut text = String::new();
    if join.token_file.as_os_str() == "-" {
        std::io::stdin().lock().take(4096).read_to_string(&mut text).context("standard input")?;
    } else if join.token_file.to_string_lossy().starts_with("plenum1.") {
        // Not repeated here: errors are kept in logs.
        bail!(
            "the token is read from a file or from standard input (-). On the command line everybody on this machine can see it: revoke this one with \
             `plenum node token revoke`, and make another"
        );
    } else {
        let path = join.token_file.display();
        let file = std::fs::File::open(&join.token_file).with_context(|| {
            format!(
                "the token is read from a file or from standard input (-), not from the command line; {path}"
            )
        })?;
        file.take(4096).read_to_string(&mut text).with_context(|| path.to_string())?;
    }
    let token = text.trim().to_owned();
    if token.is_empty() {
        bail!("there is no token in it; make one with `plenum node token create`");
    }
    Ok(token)
}

/// The masters' addresses. Names are looked up with our own resolver: a static program has no other.
fn masters(join: &Join) -> Result<Vec<IpAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = Vec::new();
    for master in &join.masters {
        match master.parse() {
            Ok(ip) => found.push(ip),
            Err(_) => {
                let addresses = runtime
                    .block_on(plenum_base::resolve::lookup(master))
                    .with_context(|| format!("the address of the master {master}"))?;
                found.extend(addresses);
            }
        }
    }
    Ok(found)
}

/// The address from which a packet to the first master would leave. Nothing is sent.
fn own_address(join: &Join, masters: &[IpAddr]) -> Result<IpAddr> {
    if let Some(address) = join.address {
        return Ok(address);
    }
    let master = masters.first().context("the address of a master is needed")?;
    let any: SocketAddr = if master.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect((*master, 9)).with_context(|| format!("there is no way to {master}"))?;
    let own = socket.local_addr()?.ip();
    if own.is_loopback() {
        bail!("the address of this host cannot be told from that of the master; say it with --address");
    }
    Ok(own)
}

fn name(join: &Join) -> Result<String> {
    let name = match &join.name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned(),
    };
    if name.is_empty() || name == "localhost" {
        bail!("this machine's host name is \"{name}\": say what the host shall be called with --name");
    }
    Ok(name)
}

/// What the host is to be, from what identity says and what the command line adds.
fn spec(join: &Join, name: String, address: IpAddr, joined: &Joined, asked: &[IpAddr]) -> Result<HostSpec> {
    let kind = match joined.kind {
        NodeKind::Master => Kind::Master,
        NodeKind::Agent => Kind::Agent,
        NodeKind::Public => Kind::Public,
    };
    let shared: Shared = serde_json::from_value(joined.settings.clone())
        .context("the cluster's shared settings; is it of another release?")?;
    let mut attributes = BTreeMap::new();
    for text in &join.attributes {
        let (name, value) =
            text.split_once(':').with_context(|| format!("--attribute {text}: write it as name:value"))?;
        attributes.insert(name.to_owned(), value.to_owned());
    }
    let mut masters = joined.cluster.addresses();
    if masters.is_empty() {
        masters = asked.to_vec();
    }
    Ok(HostSpec {
        format: FORMAT,
        instance: joined.instance.parse()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name,
        address,
        kinds: vec![kind],
        masters,
        region: join.region.clone(),
        zone: join.zone.clone(),
        attributes,
        resources: join.resources.clone(),
        settings: BTreeMap::new(),
        shared,
    })
}

/// A line for people.
fn plain_line(event: &Event) {
    match event {
        Event::Step { what } => println!("{what}"),
        Event::Changed { kind, name } => println!("  {kind} {name}"),
        Event::Note { text } => println!("  {text}"),
        Event::Done { changed: 0, .. } => println!("nothing had to be changed"),
        Event::Done { .. } => println!("the host is in the cluster"),
        Event::Failed { message, .. } => eprintln!("plenum join: {message}"),
    }
}

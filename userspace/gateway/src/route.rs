//! The routing decision: a method and a path become a page served here, a redirect, a relay to one known target, or a refusal. Pure; who
//! may do it is said beside it and checked by the shell.

use http::Method;

use crate::path::{Path, PathError};
use crate::table::{Instance, Table, key};

/// Names under `/service/` grow to at most this many segments.
const LONGEST_NAME: usize = 10;

/// Who may have what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Anyone, also without credentials.
    Anyone,
    /// Any account.
    Account,
    /// Accounts that hold this permission (every account, where permissions are not enforced).
    Permission(String),
}

/// What is served from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The page at `/`.
    Home,
    /// The form for logging in.
    Login,
    /// The form's script.
    Script,
    /// The pages' style.
    Style,
    /// The cluster CA's certificate.
    Ca,
    /// The release that clients choose their plug-ins by.
    Version,
    /// The node's address and the cluster's id.
    Metadata,
    /// What is installed; also how clients ask which way to log in.
    BuildInfo,
    /// How the components are.
    Health,
    /// The same in DC/OS' form: every unit ...
    HealthUnits,
    /// ... and every node.
    HealthNodes,
    /// How the whole cluster is.
    Status,
}

/// Whom a request is relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Accounts and logins.
    Identity,
    /// The leading master.
    Master,
    /// The service scheduler.
    Services,
    /// Packages.
    Catalog,
    /// Names and virtual addresses.
    Discovery,
    /// The agent with this id.
    Agent(String),
    /// An installed service.
    Service {
        /// Its name's key.
        key: String,
        /// Whether it speaks TLS.
        secure: bool,
        /// Its running instances.
        instances: Vec<Instance>,
    },
    /// A framework's web address: scheme and authority.
    Framework(String),
}

/// A relay. Paths are as they were sent, except for the prefix that is exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// To whom.
    pub target: Target,
    /// The path asked of the target.
    pub path: String,
    /// What the prefix is called here, without a slash at its end ...
    pub public: String,
    /// ... and what it is called there: redirects are translated back by these two.
    pub private: String,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Serve it here.
    Page(Page),
    /// 301 to this path; the query is kept.
    Moved(String),
    /// Pass it on.
    Relay(Relay),
    /// 400.
    Bad(PathError),
    /// 405: only GET and HEAD.
    ReadOnly,
    /// 405 for CONNECT and TRACE, which no proxy of this kind takes.
    NoSuchMethod,
    /// 404.
    Nothing,
    /// 404: no service or framework has this name.
    NoService(String),
}

/// A decision and who may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Who.
    pub access: Access,
    /// What.
    pub decision: Decision,
}

fn anyone(decision: Decision) -> Routed {
    Routed { access: Access::Anyone, decision }
}

fn account(decision: Decision) -> Routed {
    Routed { access: Access::Account, decision }
}

fn permission(resource: impl Into<String>, decision: Decision) -> Routed {
    Routed { access: Access::Permission(resource.into()), decision }
}

/// Decides. `raw` is the path without its query.
#[must_use]
pub fn route(method: &Method, raw: &str, table: &Table) -> Routed {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return anyone(Decision::NoSuchMethod);
    }
    let path = match Path::read(raw) {
        Ok(path) => path,
        Err(error) => return anyone(Decision::Bad(error)),
    };
    let routed = decide(&path, table);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match routed.decision {
        Decision::Page(_) if !reads => Routed { decision: Decision::ReadOnly, ..routed },
        _ => routed,
    }
}

fn decide(path: &Path<'_>, table: &Table) -> Routed {
    match path.segment(0) {
        "" => anyone(Decision::Page(Page::Home)),
        "acs" | "dcos-metadata" | "ca" | "login" | "assets" | "metadata" | "pkgpanda" => about(path),
        "mesos" if path.len() == 1 && path.rest(1).is_empty() => {
            permission("dcos:adminrouter:ops:mesos", Decision::Moved("/mesos/".to_owned()))
        }
        "mesos" => permission("dcos:adminrouter:ops:mesos", relay(Target::Master, path, 1, "")),
        "agent" | "slave" => agent(path),
        "marathon" => permission("dcos:adminrouter:service:marathon", relay(Target::Services, path, 1, "")),
        "service" => service(path, table),
        "package" => permission("dcos:adminrouter:package", relay(Target::Catalog, path, 1, "/package")),
        "cosmos" if path.segment(1) == "service" => {
            permission("dcos:adminrouter:package", relay(Target::Catalog, path, 2, "/service"))
        }
        "capabilities" if path.len() == 1 => account(relay(Target::Catalog, path, 1, "/capabilities")),
        "mesos_dns" => permission("dcos:adminrouter:ops:mesos-dns", relay(Target::Discovery, path, 1, "")),
        "net" => permission("dcos:adminrouter:ops:networking", relay(Target::Discovery, path, 1, "")),
        "system" if path.segments(1, 4).eq(["health", "v1"]) => {
            permission("dcos:adminrouter:ops:system-health", Decision::Page(Page::Health))
        }
        "system" if path.segments(1, 5).eq(["health", "v1", "units"]) => {
            permission("dcos:adminrouter:ops:system-health", Decision::Page(Page::HealthUnits))
        }
        "system" if path.segments(1, 5).eq(["health", "v1", "nodes"]) => {
            permission("dcos:adminrouter:ops:system-health", Decision::Page(Page::HealthNodes))
        }
        "system" if path.segments(1, 3).eq(["v1", "agent"]) => agent_system(path),
        "plenum" => own(path),
        // What comes later hides behind a login already, so that nobody learns what is there.
        _ => account(Decision::Nothing),
    }
}

/// The cluster's own administration, below `/plenum/v1/`.
fn own(path: &Path<'_>) -> Routed {
    let parts: Vec<&str> = path.segments(1, path.len()).collect();
    match parts.as_slice() {
        ["v1", "status"] => account(Decision::Page(Page::Status)),
        ["v1", "tokens" | "settings" | "masters" | "members", ..] => {
            permission("dcos:superuser", relay(Target::Identity, path, 2, "/internal/v1"))
        }
        _ => account(Decision::Nothing),
    }
}

/// What clients read about the cluster, and logging in.
fn about(path: &Path<'_>) -> Routed {
    let parts: Vec<&str> = path.segments(0, path.len()).collect();
    match parts.as_slice() {
        ["acs", "api", "v1", "auth", ..] => anyone(relay(Target::Identity, path, 1, "/acs")),
        ["acs", "api", "v1", ..] => {
            permission("dcos:adminrouter:acs", relay(Target::Identity, path, 1, "/acs"))
        }
        ["dcos-metadata", "ui-config.json"] => {
            anyone(relay(Target::Identity, path, 2, "/acs/api/v1/uiconfig"))
        }
        ["dcos-metadata", "dcos-version.json"] => anyone(Decision::Page(Page::Version)),
        ["ca", "dcos-ca.crt"] => anyone(Decision::Page(Page::Ca)),
        ["login"] => anyone(Decision::Page(Page::Login)),
        ["assets", "gateway.js"] => anyone(Decision::Page(Page::Script)),
        ["assets", "gateway.css"] => anyone(Decision::Page(Page::Style)),
        ["assets", ..] => anyone(Decision::Nothing),
        ["metadata"] => account(Decision::Page(Page::Metadata)),
        ["pkgpanda", "active.buildinfo.full.json"] => account(Decision::Page(Page::BuildInfo)),
        _ => account(Decision::Nothing),
    }
}

/// A relay in which the first `n` segments are called `private` by the target.
fn relay(target: Target, path: &Path<'_>, n: usize, private: &str) -> Decision {
    let rest = path.rest(n);
    let mut asked = format!("{private}{rest}");
    if asked.is_empty() {
        asked.push('/');
    }
    Decision::Relay(Relay {
        target,
        path: asked,
        public: path.up_to(n).to_owned(),
        private: private.to_owned(),
    })
}

fn agent(path: &Path<'_>) -> Routed {
    let id = path.segment(1);
    let decision =
        if is_agent_id(id) { relay(Target::Agent(id.to_owned()), path, 2, "") } else { Decision::Nothing };
    permission("dcos:adminrouter:ops:slave", decision)
}

fn is_agent_id(id: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !id.is_empty() && id.len() <= 256 && id.bytes().all(valid)
}

/// `/system/v1/agent/<id>/...`: what DC/OS serves beside each agent.
fn agent_system(path: &Path<'_>) -> Routed {
    let id = path.segment(3);
    match path.segment(4) {
        "metrics" if is_agent_id(id) => permission(
            "dcos:adminrouter:ops:system-metrics",
            relay(Target::Agent(id.to_owned()), path, 4, "/system/v1"),
        ),
        _ => account(Decision::Nothing),
    }
}

/// `/service/<name>/...`: the name grows segment by segment until an installed service or a framework has it.
fn service(path: &Path<'_>, table: &Table) -> Routed {
    let first = path.segment(1);
    if first.is_empty() {
        return account(Decision::NoService(String::new()));
    }
    let resource = format!("dcos:adminrouter:service:{first}");
    if path.len() == 2 && path.rest(2).is_empty() {
        return permission(resource, Decision::Moved(format!("{}/", path.up_to(2))));
    }
    if first == "marathon" {
        return permission(resource, relay(Target::Services, path, 2, ""));
    }
    for length in 1..=LONGEST_NAME.min(path.len() - 1) {
        let name: Vec<&str> = path.segments(1, 1 + length).collect();
        // Reserved for a scheduler of ours: no app can put itself there.
        if matches!(name.as_slice(), ["metronome"]) {
            break;
        }
        let found = named(&key(name.iter().copied()), path, 1 + length, table);
        if let Some(decision) = found {
            return permission(format!("dcos:adminrouter:service:{}", name.join("/")), decision);
        }
    }
    waiting(path, table).unwrap_or_else(|| permission(resource, Decision::NoService(first.to_owned())))
}

/// What has the name `key`, whose segments end at the `n`-th.
fn named(key: &str, path: &Path<'_>, n: usize, table: &Table) -> Option<Decision> {
    if let Some(service) = table.service(key).filter(|service| !service.instances.is_empty()) {
        return Some(to_service(key, service, path, n));
    }
    let framework = table.framework(key)?;
    let (origin, base) = framework.web.as_ref()?;
    Some(relay(Target::Framework(origin.clone()), path, n, base))
}

fn to_service(key: &str, service: &crate::table::Service, path: &Path<'_>, n: usize) -> Decision {
    let target =
        Target::Service { key: key.to_owned(), secure: service.secure, instances: service.instances.clone() };
    let private = if service.keep_prefix { path.up_to(n) } else { "" };
    relay(target, path, n, private)
}

/// An installed service none of whose instances runs just now, where nothing else has the name.
fn waiting(path: &Path<'_>, table: &Table) -> Option<Routed> {
    (1..=LONGEST_NAME.min(path.len().saturating_sub(1))).find_map(|length| {
        let name: Vec<&str> = path.segments(1, 1 + length).collect();
        let key = key(name.iter().copied());
        let service = table.service(&key).filter(|_| name != ["metronome"])?;
        let resource = format!("dcos:adminrouter:service:{}", name.join("/"));
        Some(permission(resource, to_service(&key, service, path, 1 + length)))
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;

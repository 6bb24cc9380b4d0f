//! What was found of the cluster, and in sentences what is wrong with it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use plenum_base::pki::LIFETIME;
use serde::Serialize;
use serde_json::{Value, json};

/// A certificate with less left than this part of its life should have been renewed.
const RENEWED_BY_NOW: u32 = 4;
const DAY: f64 = 86_400.0;

/// How the cluster is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// Whether there are masters that stand in for each other.
    pub fleet: bool,
    /// What is wrong and what to do, in sentences.
    pub problems: Vec<String>,
    /// What works and could be better, in sentences.
    pub warnings: Vec<String>,
    /// Who leads `master`, `services` and `discovery`; who has none is not named.
    pub leaders: BTreeMap<String, Led>,
    /// Every master.
    pub masters: Vec<MasterStatus>,
    /// Agents by state; none while no master can be asked.
    pub agents: Option<Agents>,
}

/// A leader.
#[derive(Debug, Clone, Serialize)]
pub struct Led {
    /// The master's name.
    pub name: String,
    /// The role's base URL there.
    pub url: String,
    /// The term.
    pub term: u64,
}

/// A master.
#[derive(Debug, Clone, Serialize)]
pub struct MasterStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether it is being taken out.
    pub leaving: bool,
    /// Whether it is the one that answers.
    pub here: bool,
    /// Its roles by name.
    pub roles: BTreeMap<String, RoleStatus>,
    /// What etcd's caretaker there says; none where the cluster has no etcd of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Value>,
}

/// A role on a master.
#[derive(Debug, Clone, Serialize)]
pub struct RoleStatus {
    /// Whether it answers.
    pub up: bool,
    /// For how many days its certificate is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_days: Option<f64>,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    left: Option<Duration>,
}

impl RoleStatus {
    /// It answers, with a certificate that is good for `left`.
    pub fn up(left: Duration) -> Self {
        let days = (left.as_secs_f64() / DAY * 100.0).round() / 100.0;
        Self { up: true, certificate_days: Some(days), error: None, left: Some(left) }
    }

    /// It does not answer.
    pub fn down(error: String) -> Self {
        Self { up: false, certificate_days: None, error: Some(error), left: None }
    }
}

/// Agents by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Agents {
    /// Connected.
    pub active: u64,
    /// Known, but not connected or taken out of use.
    pub inactive: u64,
    /// Away for so long that what ran there is replaced.
    pub unreachable: u64,
}

/// Puts the parts together and says what is wrong.
pub fn of(
    fleet: bool,
    masters: Vec<MasterStatus>,
    leaders: BTreeMap<String, Led>,
    agents: Option<Agents>,
) -> Status {
    let mut problems = Vec::new();
    for master in &masters {
        of_master(master, &mut problems);
    }
    if fleet {
        of_fleet(&masters, &leaders, &mut problems);
    }
    match agents {
        None => problems.push(
            "no master says which agents there are; what runs goes on, and nothing new is started".to_owned(),
        ),
        Some(agents) if agents.unreachable > 0 => {
            let (count, verb) = (agents.unreachable, if agents.unreachable == 1 { "is" } else { "are" });
            problems.push(format!("{count} of the agents {verb} unreachable; what ran there is started elsewhere. `plenum node list` names them"));
        }
        Some(_) => {}
    }
    let mut warnings = Vec::new();
    for etcd in masters.iter().filter_map(|master| master.etcd.as_ref()) {
        tell(etcd, "warnings", &mut warnings);
    }
    Status { healthy: problems.is_empty(), fleet, problems, warnings, leaders, masters, agents }
}

fn of_master(master: &MasterStatus, problems: &mut Vec<String>) {
    let who = if master.name == master.address {
        master.name.clone()
    } else {
        format!("{} ({})", master.name, master.address)
    };
    let down: Vec<&str> =
        master.roles.iter().filter(|(_, role)| !role.up).map(|(name, _)| name.as_str()).collect();
    if !down.is_empty() && down.len() == master.roles.len() {
        problems.push(format!("the master {who} does not answer; see whether the host is on and reachable"));
        return;
    }
    for name in down {
        let why = master.roles.get(name).and_then(|role| role.error.as_deref()).unwrap_or("no answer");
        problems.push(format!("{name} on {who} does not answer ({why}); see its log there"));
    }
    for (name, role) in &master.roles {
        if role.left.is_some_and(|left| left < LIFETIME / RENEWED_BY_NOW) {
            let hours = role.left.unwrap_or_default().as_secs() / 3600;
            problems.push(format!("the certificate of {name} on {who} ends in {hours} h and should have been renewed; see whether identity can be reached from there"));
        }
    }
    if let Some(etcd) = &master.etcd {
        // An etcd that is down was named above; its caretaker speaks of the rest.
        let up = master.roles.get("etcd").is_some_and(|role| role.up);
        if let Some(error) = etcd.get("error").and_then(Value::as_str).filter(|_| up) {
            problems.push(format!("etcd's caretaker on {who} does not answer ({error}); see its log there"));
        }
        tell(etcd, "problems", problems);
    }
}

/// What a caretaker of etcd tells under `name`. Every one tells of the whole cluster: once is enough.
fn tell(etcd: &Value, name: &str, to: &mut Vec<String>) {
    let told = etcd.get(name).and_then(Value::as_array);
    for text in told.into_iter().flatten().filter_map(Value::as_str).map(|text| format!("etcd: {text}")) {
        if !to.contains(&text) {
            to.push(text);
        }
    }
}

fn of_fleet(masters: &[MasterStatus], leaders: &BTreeMap<String, Led>, problems: &mut Vec<String>) {
    let up = masters.iter().filter(|master| master.roles.get("etcd").is_some_and(|role| role.up)).count();
    let majority = masters.len() / 2 + 1;
    let own = masters.iter().any(|master| master.etcd.is_some());
    if !own {
        // The operator's etcd, or a file: who leads tells whether it works.
    } else if up < majority {
        problems.push(format!(
            "{up} of {} stores answer and {majority} are needed: nothing can be changed until another master is back. What runs goes on",
            masters.len()
        ));
    } else if up == majority && up < masters.len() {
        problems.push(format!(
            "{up} of {} stores answer, which is just enough: bring the others back, or replace them with `plenum node replace`",
            masters.len()
        ));
    }
    for role in ["master", "services", "discovery"] {
        if !leaders.contains_key(role) {
            problems.push(format!("nobody leads as {role} at the moment"));
        }
    }
}

fn health(role: &RoleStatus) -> u8 {
    u8::from(!role.up)
}

/// `/system/health/v1/units` as DC/OS has it: each unit with the worst that any master says of it.
pub fn units(status: &Status) -> Value {
    let mut units: BTreeMap<&str, u8> = BTreeMap::new();
    for (name, role) in status.masters.iter().flat_map(|master| &master.roles) {
        let worst = units.entry(name).or_default();
        *worst = (*worst).max(health(role));
    }
    let unit = |(name, health): (&str, u8)| json!({"id": format!("plenum-{name}.service"), "name": name, "health": health, "description": format!("the component {name}")});
    json!({ "units": units.into_iter().map(unit).collect::<Vec<_>>() })
}

/// `/system/health/v1/nodes`: the masters.
pub fn nodes(status: &Status) -> Value {
    let node = |master: &MasterStatus| {
        let health = master.roles.values().map(health).max().unwrap_or(1);
        json!({"host_ip": master.address, "health": health, "role": "master"})
    };
    json!({ "nodes": status.masters.iter().map(node).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(name: &str, up: &[(&str, Option<u64>)], etcd: Value) -> MasterStatus {
        let role = |left: &Option<u64>| match left {
            Some(hours) => RoleStatus::up(Duration::from_secs(hours * 3600)),
            None => RoleStatus::down("refused".into()),
        };
        MasterStatus {
            name: name.into(),
            address: format!("10.0.0.{}", name.len()),
            leaving: false,
            here: false,
            roles: up.iter().map(|(name, left)| ((*name).to_owned(), role(left))).collect(),
            etcd: Some(etcd),
        }
    }

    fn leaders() -> BTreeMap<String, Led> {
        let led = |role: &str| (role.to_owned(), Led { name: "a".into(), url: "u".into(), term: 1 });
        ["master", "services", "discovery"].map(led).into()
    }

    const WELL: Option<Agents> = Some(Agents { active: 2, inactive: 0, unreachable: 0 });

    #[test]
    fn a_healthy_fleet_has_no_problems() {
        let one =
            |name: &str| master(name, &[("etcd", Some(20)), ("identity", Some(20))], json!({"problems": []}));
        let status = of(true, vec![one("a"), one("bb"), one("ccc")], leaders(), WELL);
        assert!(status.healthy && status.problems.is_empty(), "{:?}", status.problems);
        let slow =
            vec![master("a", &[("etcd", Some(20))], json!({"problems": [], "warnings": ["a slow disk"]}))];
        let slow = of(false, slow, BTreeMap::new(), WELL);
        assert!(slow.healthy && slow.warnings == ["etcd: a slow disk"], "{slow:?}");
        assert_eq!(status.masters[0].roles["etcd"].certificate_days, Some(0.83));
        assert_eq!(nodes(&status)["nodes"][1], json!({"host_ip": "10.0.0.2", "health": 0, "role": "master"}));
    }

    #[test]
    fn each_fault_is_a_sentence() {
        let well = [("etcd", Some(20)), ("identity", Some(20))];
        let masters = vec![
            master("a", &well, json!({"problems": ["the quota is reached"]})),
            master("bb", &[("etcd", None), ("identity", None)], json!({"error": "refused"})),
            master(
                "ccc",
                &[("etcd", Some(20)), ("identity", None), ("catalog", Some(2))],
                json!({"error": "away"}),
            ),
        ];
        let agents = Some(Agents { active: 1, inactive: 1, unreachable: 1 });
        let mut led = leaders();
        led.remove("services");
        let status = of(true, masters, led, agents);
        let wanted = [
            "etcd: the quota is reached",
            "the master bb (10.0.0.2) does not answer",
            "identity on ccc (10.0.0.3) does not answer (refused)",
            "the certificate of catalog on ccc (10.0.0.3) ends in 2 h",
            "etcd's caretaker on ccc (10.0.0.3) does not answer (away)",
            "2 of 3 stores answer, which is just enough",
            "nobody leads as services",
            "1 of the agents is unreachable",
        ];
        assert_eq!(status.problems.len(), wanted.len(), "{:#?}", status.problems);
        for (problem, wanted) in status.problems.iter().zip(wanted) {
            assert!(problem.starts_with(wanted), "{problem:?} is not {wanted:?}");
        }
        assert!(!status.healthy);
        let unit = &units(&status)["units"][2];
        assert_eq!((&unit["name"], &unit["health"]), (&json!("identity"), &json!(1)));
    }

    #[test]
    fn without_a_majority_and_without_masters() {
        let down = |name: &str| master(name, &[("etcd", None)], json!({}));
        let status = of(
            true,
            vec![master("a", &[("etcd", Some(20))], json!({})), down("bb"), down("ccc")],
            leaders(),
            None,
        );
        let text = status.problems.join("\n");
        assert!(
            text.contains("1 of 3 stores answer and 2 are needed") && text.contains("no master says"),
            "{text}"
        );
        let alone = of(false, vec![master("a", &[("identity", Some(20))], json!({}))], BTreeMap::new(), WELL);
        assert!(alone.healthy, "{:?}", alone.problems);
    }
}

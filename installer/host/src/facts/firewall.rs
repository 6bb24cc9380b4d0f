//! Firewalls of others: services that manage one, and base chains that drop or reject what no rule lets in.

use std::time::Duration;

use plenum_plan::facts::Firewall;
use serde_json::Value;

use crate::run::run;

const SHORT: Duration = Duration::from_secs(5);

pub fn look() -> Firewall {
    let names = ["firewalld", "ufw", "nftables", "iptables", "netfilter-persistent"];
    let units: Vec<String> = names.iter().map(|name| format!("{name}.service")).collect();
    let mut arguments = vec!["is-active"];
    arguments.extend(units.iter().map(String::as_str));
    let said = run("systemctl", &arguments, SHORT);
    let running = said.out.lines().zip(names).filter(|(state, _)| *state == "active");
    let mut services: Vec<String> = running.map(|(_, name)| name.to_owned()).collect();
    // ufw's unit is active even where the firewall is off.
    if services.iter().any(|name| name == "ufw") && run("ufw", &["status"], SHORT).out.contains("inactive") {
        services.retain(|name| name != "ufw");
    }
    let rules = run("nft", &["--json", "list", "ruleset"], SHORT);
    Firewall { services, dropping: dropping(&rules.out) }
}

/// Base chains with the policy `drop`, and those whose last rule drops or rejects everything, at hooks that see a host's own packets.
fn dropping(json: &str) -> Vec<String> {
    let parsed: Value = serde_json::from_str(json).unwrap_or_default();
    let empty = Vec::new();
    let objects = parsed.get("nftables").and_then(Value::as_array).unwrap_or(&empty);
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let (family, table, name) = (text(chain, "family"), text(chain, "table"), text(chain, "name"));
        if !["input", "output", "forward"].contains(&text(chain, "hook").as_str()) {
            continue;
        }
        let of_chain = |rule: &&Value| {
            text(rule, "family") == family && text(rule, "table") == table && text(rule, "chain") == name
        };
        let last = objects.iter().filter_map(|object| object.get("rule")).rfind(of_chain);
        if text(chain, "policy") == "drop" || last.is_some_and(ends_all) {
            found.push(format!("table {family} {table} chain {name}"));
        }
    }
    found
}

/// A rule that has no condition and drops or rejects.
fn ends_all(rule: &Value) -> bool {
    let Some(parts) = rule.get("expr").and_then(Value::as_array) else { return false };
    let has = |part: &Value, key: &str| part.get(key).is_some();
    parts.iter().any(|part| has(part, "drop") || has(part, "reject"))
        && parts.iter().all(|part| !has(part, "match") && !has(part, "limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_drop_are_named() {
        let json = r#"{"nftables":[{"metainfo":{}},
            {"chain":{"family":"inet","table":"filter","name":"input","hook":"input","policy":"drop"}},
            {"chain":{"family":"inet","table":"filter","name":"output","hook":"output","policy":"accept"}},
            {"chain":{"family":"ip","table":"f","name":"in","hook":"input","policy":"accept"}},
            {"rule":{"family":"ip","table":"f","chain":"in","expr":[{"match":{}},{"accept":null}]}},
            {"rule":{"family":"ip","table":"f","chain":"in","expr":[{"counter":{}},{"reject":null}]}},
            {"chain":{"family":"ip","table":"nat","name":"pre","hook":"prerouting","policy":"drop"}}]}"#;
        assert_eq!(dropping(json), ["table inet filter chain input", "table ip f chain in"]);
        assert!(dropping("").is_empty() && dropping("[]").is_empty());
    }
}

//! Where instances may go, and how they are replaced.

use super::super::app::{App, Unreachable};
use super::super::constraint::{Constraint, is_regex};
use super::{Flaws, decimal};

pub(super) fn scheduling(app: &App, flaws: &mut Flaws) {
    for (i, rule) in app.constraints.iter().enumerate() {
        if let Some(error) = constraint(rule) {
            flaws.add(format!("/constraints({i})"), error);
        }
    }
    roles(app, flaws);
    if let Unreachable::Enabled { inactive_after_seconds: inactive, expunge_after_seconds: expunge } =
        &app.unreachable_strategy
        && inactive > expunge
    {
        let error = format!(
            "inactiveAfterSeconds ({inactive}) must be less or equal to expungeAfterSeconds, which is {expunge}"
        );
        flaws.add("/unreachableStrategy/inactiveAfterSeconds", error);
    }
    if app.labels.get("MARATHON_SINGLE_INSTANCE_APP").is_some_and(|v| v == "true") {
        flaws.unless(app.instances <= 1, "/", "Single instance app may only have one instance");
        let strategy = &app.upgrade_strategy;
        for (name, n) in [
            ("minimumHealthCapacity", strategy.minimum_health_capacity),
            ("maximumOverCapacity", strategy.maximum_over_capacity),
        ] {
            if n != 0.0 {
                flaws.add(format!("/upgradeStrategy/{name}"), format!("got {}, expected 0.0", decimal(n)));
            }
        }
    }
}

/// What is wrong with a placement rule.
pub(super) fn constraint(rule: &[String]) -> Option<String> {
    let (field, operator, value) = match rule {
        [field, operator] => (field, operator.as_str(), None),
        [field, operator, value] => (field, operator.as_str(), Some(value.as_str())),
        _ => return Some("Each constraint must have either 2 or 3 fields".to_owned()),
    };
    let whole = |text: &str| text.parse::<i32>().is_ok();
    let error = match (operator, value) {
        _ if field.is_empty() => "illegal constraint specification",
        ("UNIQUE", Some(_)) => "UNIQUE does not accept a value",
        ("GROUP_BY", Some(n)) if !whole(n) => "GROUP BY must define an integer value or else no value at all",
        ("MAX_PER", n) if !n.is_some_and(whole) => "MAX_PER requires an integer value",
        ("LIKE" | "UNLIKE", None) => "LIKE and UNLIKE require a non-empty, regular expression value",
        ("LIKE" | "UNLIKE", Some(text)) if !is_regex(text) => "is not a valid regular expression",
        ("IS", value) if !value.unwrap_or("").bytes().all(is_literal) => {
            "IS only supports Mesos text and float values (see http://mesos.apache.org/documentation/latest/attributes-resources/)"
        }
        ("UNIQUE" | "CLUSTER" | "GROUP_BY" | "LIKE" | "UNLIKE" | "MAX_PER" | "IS", _) => {
            return Constraint::parse(rule).err();
        }
        _ => "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE or IS",
    };
    Some(error.to_owned())
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte)
}

fn roles(app: &App, flaws: &mut Flaws) {
    if let Some(error) = role(&app.role) {
        flaws.add("/role", error);
    }
    let Some(accepted) = &app.accepted_resource_roles else { return };
    flaws.unless(!accepted.is_empty(), "/acceptedResourceRoles", "must not be empty");
    for (i, name) in accepted.iter().enumerate() {
        if let Some(error) = role(name) {
            flaws.add(format!("/acceptedResourceRoles({i})"), error);
        }
    }
    if !accepted.iter().all(|name| name == "*" || *name == app.role) {
        let own = if app.role == "*" { String::new() } else { format!(" and {}", app.role) };
        flaws.add("/acceptedResourceRoles", format!("acceptedResourceRoles can only contain *{own}"));
    }
    let resident = !app.is_resident() || accepted.iter().all(|name| name == "*");
    let error = "A resident app must have `acceptedResourceRoles = [\"*\"]`.";
    flaws.unless(resident, "/acceptedResourceRoles", error);
}

/// What is wrong with a role's name. Roles within roles are divided by slashes, which Marathon does not have.
pub(super) fn role(name: &str) -> Option<String> {
    name.split('/').find_map(part)
}

fn part(name: &str) -> Option<String> {
    let characters = [
        ('\t', "horizontal tab (\\x09)"),
        ('\n', "line feed (\\x0a)"),
        ('\u{b}', "vertical tab (\\x0b)"),
        ('\u{c}', "form feed (\\x0c)"),
        ('\r', "carriage return (\\x0d)"),
        (' ', "space (\\x20)"),
        ('\u{7f}', "backspace (\\x7f)"),
    ];
    match name {
        "" | "." | ".." => Some(format!("A role name must not be \"{name}\".")),
        _ if name.starts_with('-') => Some("A role name must not start with a '-'.".to_owned()),
        _ => {
            let found = characters.iter().find(|(character, _)| name.contains(*character));
            found.map(|(_, words)| format!("A role name must not include a {words} character."))
        }
    }
}

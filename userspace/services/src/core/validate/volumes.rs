//! Volumes of every kind.

use serde_json::Value;

use super::super::app::{App, Container};
use super::super::constraint::is_regex;
use super::{Flaws, unique};

const DOTS: &str = "can not be one of (.,..)";
const LABEL: &str = "must match regular expression '^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$'";
const OPTION: &str = r"must match regular expression '^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?/[A-Za-z0-9](?:[-A-Za-z0-9\._:]*[A-Za-z0-9])?$'";
/// The option that names the driver.
const DRIVER: &str = "dvdi/driver";

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn some<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|v| !v.is_null())
}

pub(super) fn volumes(app: &App, flaws: &mut Flaws) {
    let Some(container) = &app.container else { return };
    let names = container.volumes.iter().filter_map(|v| some(v, "external")).map(|e| text(e, "name"));
    let different = unique(names.filter(|name| !name.is_empty()));
    flaws.unless(different, "/container/volumes", "Volume names must be unique");
    for (i, volume) in container.volumes.iter().enumerate() {
        let path = format!("/container/volumes({i})");
        if let Some(secret) = some(volume, "secret").and_then(Value::as_str) {
            let known = app.secrets.contains_key(secret);
            flaws.unless(known, &path, "volume.secret must refer to an existing secret");
        }
        if let Some(info) = some(volume, "persistent") {
            persistent(volume, info, &path, flaws);
        }
        if let Some(info) = some(volume, "external").filter(|info| text(info, "provider") != "csi") {
            external(container, volume, info, &path, flaws);
        }
    }
    let driven = container.volumes.iter().filter_map(|v| some(v, "external"));
    let alone =
        driven.filter(|e| text(e, "provider") == "dvdi").any(|e| e.get("shared") != Some(&Value::Bool(true)));
    if alone && app.instances > 1 {
        let id = &app.id;
        let error = format!("Number of instances is limited to 1 when declaring DVDI volumes in app [{id}]");
        flaws.add("/", error);
    }
}

fn persistent(volume: &Value, info: &Value, at: &str, flaws: &mut Flaws) {
    let path = text(volume, "containerPath");
    let at_path = format!("{at}/containerPath");
    flaws.unless(path != "." && path != "..", &at_path, DOTS);
    flaws.unless(!path.contains('/'), &at_path, "value must not contain \"/\"");
    flaws.unless(text(volume, "mode") == "RW", &format!("{at}/mode"), "does not equal RW");
    let at = format!("{at}/persistent");
    let size = info.get("size").and_then(Value::as_i64).unwrap_or(0);
    flaws.unless(size > 0, &format!("{at}/size"), &format!("got {size}, expected more than 0"));
    let largest = info.get("maxSize").and_then(Value::as_i64);
    let kind = text(info, "type");
    flaws.unless(kind == "mount" || largest.is_none(), &at, "Only mount volumes can have maxSize");
    flaws.unless(largest.is_none_or(|most| most > size), &at, "Max size must be larger than size");
    let rules = info.get("constraints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    flaws.unless(kind != "root" || rules.is_empty(), &at, "Constraints on root volumes are not supported");
    for (i, rule) in rules.iter().enumerate() {
        let parts: Vec<&str> = rule.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let error = match parts.as_slice() {
            [] => Some("Missing field and operator".to_owned()),
            ["path", "LIKE" | "UNLIKE", pattern, ..] => {
                (!is_regex(pattern)).then(|| "Invalid regular expression".to_owned())
            }
            ["path", "UNIQUE" | "CLUSTER" | "GROUP_BY" | "MAX_PER" | "IS", _, ..] => {
                Some("Operator must be one of LIKE, UNLIKE".to_owned())
            }
            ["path", operator, _, ..] => Some(format!("unknown constraint operator {operator}")),
            _ => Some(format!("Unsupported constraint {}", parts.join(","))),
        };
        if let Some(error) = error {
            flaws.add(format!("{at}/constraints({i})"), error);
        }
    }
}

/// A volume of somebody's driver.
fn external(container: &Container, volume: &Value, info: &Value, at: &str, flaws: &mut Flaws) {
    let (inside, path) = (format!("{at}/external"), text(volume, "containerPath"));
    flaws.unless(path != "." && path != "..", &format!("{at}/containerPath"), DOTS);
    let provider = some(info, "provider").and_then(Value::as_str);
    let error = match provider {
        None => Some("not defined"),
        Some(name) if !is_label(name) => Some(LABEL),
        Some(name) if name != "dvdi" => Some("is unknown provider"),
        Some(_) => None,
    };
    if let Some(error) = error {
        flaws.add(format!("{inside}/provider"), error);
    }
    flaws.unless(!text(info, "name").is_empty(), &format!("{inside}/name"), "must not be empty");
    let options = info.get("options").and_then(Value::as_object);
    for (i, key) in options.into_iter().flat_map(|o| o.keys()).enumerate() {
        flaws.unless(is_option(key), &format!("{inside}/options/keys({i})"), OPTION);
    }
    let driver = options.and_then(|o| o.get(DRIVER)).and_then(Value::as_str).unwrap_or_default();
    flaws.unless(!driver.is_empty(), &format!("{inside}/options/\"{DRIVER}\""), "not defined");
    if container.kind == "DOCKER" {
        let only = options.is_none_or(|o| o.keys().all(|key| key == DRIVER));
        flaws.unless(only, &format!("{inside}/options"), "must only contain dvdi/driver");
        let size = some(info, "size").is_none();
        flaws.unless(size, &format!("{inside}/size"), "must be undefined for Docker containers");
    } else {
        flaws.unless(text(volume, "mode") == "RW", &format!("{at}/mode"), "does not equal RW");
    }
}

fn is_label(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

fn is_option(text: &str) -> bool {
    let Some((space, name)) = text.split_once('/') else { return false };
    let (bytes, plain) = (name.as_bytes(), u8::is_ascii_alphanumeric);
    is_label(space)
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || b"-._:".contains(b))
}

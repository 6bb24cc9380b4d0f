//! What can be reached under `/service/`: installed services by their labels, frameworks by their web address. Read from the service
//! scheduler's and the master's JSON; where that comes from is `follow` and `directory`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Where one running instance answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The task's id.
    pub id: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What health checks say; none without checks or before the first result.
    pub healthy: Option<bool>,
}

/// An installed service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name's key; see [`key`].
    pub key: String,
    /// Whether it speaks TLS.
    pub secure: bool,
    /// Whether it wants to see `/service/<name>` in its paths.
    pub keep_prefix: bool,
    /// Its running instances, by id.
    pub instances: Vec<Instance>,
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// Its id.
    pub id: String,
    /// Its name's key; see [`key`].
    pub key: String,
    /// The web address it gave, where it has the form `http[s]://host[:port][/path]`: scheme and authority, and the path.
    pub web: Option<(String, String)>,
}

/// Everything under `/service/`.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By app id.
    services: BTreeMap<String, Service>,
    /// App ids by key: nothing hinders two apps from having one name.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// As the master lists them.
    frameworks: Vec<Framework>,
}

/// The form in which names are compared: segments in reverse order, joined by dots, so that `group/app` and `app.group` are one.
#[must_use]
pub fn key<'a>(segments: impl DoubleEndedIterator<Item = &'a str>) -> String {
    segments.filter(|segment| !segment.is_empty()).rev().collect::<Vec<_>>().join(".")
}

impl Table {
    /// Takes in what the scheduler says of one app; `None` where it has no such app. True when something changed.
    pub fn put(&mut self, app_id: &str, app: Option<&Value>) -> bool {
        let service = app.and_then(service);
        if self.services.get(app_id) == service.as_ref() {
            return false;
        }
        if let Some(old) = self.services.remove(app_id)
            && let Some(apps) = self.keys.get_mut(&old.key)
        {
            apps.remove(app_id);
            if apps.is_empty() {
                self.keys.remove(&old.key);
            }
        }
        if let Some(service) = service {
            self.keys.entry(service.key.clone()).or_default().insert(app_id.to_owned());
            self.services.insert(app_id.to_owned(), service);
        }
        true
    }

    /// Takes in all apps (`{"apps": [...]}`); those that are missing are forgotten.
    pub fn put_all(&mut self, answer: &Value) {
        let listed = answer.get("apps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named = listed.iter().filter_map(|app| Some((app.get("id")?.as_str()?, app)));
        let apps: BTreeMap<&str, &Value> = named.collect();
        let gone: Vec<String> =
            self.services.keys().filter(|id| !apps.contains_key(id.as_str())).cloned().collect();
        for id in gone {
            self.put(&id, None);
        }
        for (id, app) in apps {
            self.put(id, Some(app));
        }
    }

    /// Whether an app is a service here.
    #[must_use]
    pub fn knows(&self, app_id: &str) -> bool {
        self.services.contains_key(app_id)
    }

    /// Takes in the master's frameworks (`{"frameworks": [...]}`).
    pub fn put_frameworks(&mut self, answer: &Value) {
        let listed =
            answer.get("frameworks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        self.frameworks = listed.iter().filter_map(framework).collect();
    }

    /// The service with this key: one that runs before one that does not.
    #[must_use]
    pub fn service(&self, key: &str) -> Option<&Service> {
        let apps = self.keys.get(key)?.iter().filter_map(|app| self.services.get(app));
        apps.reduce(|best, other| if best.instances.is_empty() { other } else { best })
    }

    /// The framework with this id or key that has a web address.
    #[must_use]
    pub fn framework(&self, key: &str) -> Option<&Framework> {
        let reachable = || self.frameworks.iter().filter(|framework| framework.web.is_some());
        reachable().find(|framework| framework.id == key).or_else(|| reachable().find(|f| f.key == key))
    }
}

/// Reads an app; `None` where its labels do not make it a service.
fn service(app: &Value) -> Option<Service> {
    let label = |name: &str| app.get("labels")?.get(name)?.as_str();
    let key = key(label("DCOS_SERVICE_NAME")?.split('/'));
    let index: usize = label("DCOS_SERVICE_PORT_INDEX")?.parse().ok()?;
    let secure = match label("DCOS_SERVICE_SCHEME")?.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    if key.is_empty() {
        return None;
    }
    let tasks = app.get("tasks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut instances: Vec<Instance> = tasks.iter().filter_map(|task| instance(app, task, index)).collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let keep_prefix =
        label("DCOS_SERVICE_REWRITE_REQUEST_URLS").is_some_and(|text| text.eq_ignore_ascii_case("false"));
    Some(Service { key, secure, keep_prefix, instances })
}

/// Where a task answers; `None` when it does not run or has no such port. On a container network that is the task's own address and the
/// container's port, else the host's.
fn instance(app: &Value, task: &Value, index: usize) -> Option<Instance> {
    if task.get("state")?.as_str()? != "TASK_RUNNING" {
        return None;
    }
    let network = app.pointer("/networks/0/mode").and_then(Value::as_str);
    let mapped = || app.pointer("/container/portMappings")?.get(index)?.get("containerPort")?.as_u64();
    let (host, port) = match (network, mapped()) {
        (Some("container"), Some(port)) if port > 0 => (task.pointer("/ipAddresses/0/ipAddress")?, port),
        _ => (task.get("host")?, task.get("ports")?.get(index)?.as_u64()?),
    };
    let checks = task.get("healthCheckResults").and_then(Value::as_array);
    let alive = |check: &Value| check.get("alive").and_then(Value::as_bool);
    let healthy =
        checks.filter(|all| !all.is_empty()).map(|all| all.iter().all(|one| alive(one) == Some(true)));
    Some(Instance {
        id: task.get("id")?.as_str()?.to_owned(),
        host: host.as_str().filter(|host| is_host(host))?.to_owned(),
        port: u16::try_from(port).ok().filter(|port| *port > 0)?,
        healthy,
    })
}

/// A host name or an address, and nothing that would change the meaning of a URL.
fn is_host(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(plain)
}

fn framework(value: &Value) -> Option<Framework> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Some(Framework {
        id: text("id")?.to_owned(),
        key: key(text("name")?.split('/')),
        web: text("webui_url").and_then(web_address),
    })
}

/// Takes a web address apart; `None` for anything but http and https, or with credentials in it.
fn web_address(text: &str) -> Option<(String, String)> {
    let uri: http::Uri = text.parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let path = uri.path().trim_end_matches('/').to_owned();
    Some((format!("{scheme}://{authority}"), path))
}

/// The order in which to try instances for one caller: healthy ones first, those in `suspect` last, and within each class a caller always
/// meets the same one, because many web interfaces keep sessions in memory; different callers are spread.
pub fn order(instances: &mut [Instance], caller: &str, suspect: impl Fn(&Instance) -> bool) {
    instances.sort_by_cached_key(|one| {
        let health = match one.healthy {
            Some(true) => 0u8,
            None => 1,
            Some(false) => 2,
        };
        (suspect(one), health, weight(caller, &one.id))
    });
}

/// FNV-1a over both texts: spreads well enough, and is the same everywhere.
fn weight(caller: &str, instance: &str) -> u64 {
    let bytes = caller.bytes().chain([0]).chain(instance.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(id: &str, labels: &Value, networks: &Value, tasks: &Value) -> Value {
        let mappings = json!({"portMappings": [{"containerPort": 0}, {"containerPort": 8080}]});
        json!({"id": id, "labels": labels, "networks": networks, "container": mappings, "tasks": tasks})
    }

    fn labels(name: &str, index: &str) -> Value {
        json!({"DCOS_SERVICE_NAME": name, "DCOS_SERVICE_SCHEME": "http", "DCOS_SERVICE_PORT_INDEX": index})
    }

    fn task(id: &str, state: &str) -> Value {
        json!({"id": id, "state": state, "host": "127.88.0.1", "ports": [31000, 31001],
            "ipAddresses": [{"ipAddress": "10.0.0.7"}]})
    }

    #[test]
    fn labels_make_a_service() {
        let running =
            json!([task("b", "TASK_RUNNING"), task("a", "TASK_RUNNING"), task("c", "TASK_STAGING")]);
        let host = json!([{"mode": "host"}]);
        let container = json!([{"mode": "container", "name": "dcos"}]);
        let bridge = json!([{"mode": "container/bridge"}]);
        let found = |labels: &Value, networks: &Value| {
            service(&app("/x", labels, networks, &running)).map(|s| {
                (
                    s.key,
                    s.instances
                        .iter()
                        .map(|i| format!("{}={}:{}", i.id, i.host, i.port))
                        .collect::<Vec<_>>()
                        .join(" "),
                )
            })
        };
        let some = |key: &str, text: &str| Some((key.to_owned(), text.to_owned()));
        assert_eq!(
            found(&labels("hello", "0"), &host),
            some("hello", "a=127.88.0.1:31000 b=127.88.0.1:31000")
        );
        assert_eq!(
            found(&labels("/g/h/app/", "1"), &bridge),
            some("app.h.g", "a=127.88.0.1:31001 b=127.88.0.1:31001")
        );
        assert_eq!(found(&labels("n", "1"), &container), some("n", "a=10.0.0.7:8080 b=10.0.0.7:8080"));
        assert_eq!(found(&labels("n", "0"), &container), some("n", "a=127.88.0.1:31000 b=127.88.0.1:31000"));
        assert_eq!(found(&labels("n", "7"), &host), some("n", ""), "no such port");
        for (name, index) in [("n", "x"), ("n", "-1"), ("n", ""), ("", "0"), ("//", "0")] {
            assert_eq!(found(&labels(name, index), &host), None, "{name} {index}");
        }
        let mut odd = labels("n", "0");
        odd["DCOS_SERVICE_SCHEME"] = "ftp".into();
        assert_eq!(found(&odd, &host), None);
        odd["DCOS_SERVICE_SCHEME"] = Value::Null;
        assert_eq!(found(&odd, &host), None);
        assert_eq!(found(&json!({}), &host), None);
    }

    #[test]
    fn hostile_hosts_and_ports_are_nobody() {
        for (host, port) in [("a/b", 1), ("u@h", 1), ("", 1), ("h", 0), ("h", 65_536), ("h?x", 1), ("h#", 1)]
        {
            let one = json!([{"id": "a", "state": "TASK_RUNNING", "host": host, "ports": [port]}]);
            let made = service(&app("/x", &labels("n", "0"), &json!([]), &one)).unwrap();
            assert!(made.instances.is_empty(), "{host}:{port}");
        }
        for odd in [json!(null), json!([]), json!("x"), json!({"labels": 1, "tasks": 2})] {
            assert_eq!(service(&odd), None);
        }
    }

    #[test]
    fn the_table_follows_changes() {
        let mut table = Table::default();
        let host = json!([{"mode": "host"}]);
        let make = |id: &str, name: &str, state: &str| {
            app(id, &labels(name, "0"), &host, &json!([task("t", state)]))
        };
        assert!(table.put("/a", Some(&make("/a", "one", "TASK_STAGING"))));
        assert!(!table.put("/a", Some(&make("/a", "one", "TASK_STAGING"))), "nothing changed");
        assert!(table.put("/b", Some(&make("/b", "one", "TASK_RUNNING"))));
        assert_eq!(table.service("one").unwrap().instances.len(), 1, "the one that runs");
        assert!(table.put("/b", Some(&make("/b", "two", "TASK_RUNNING"))));
        assert!(table.service("one").unwrap().instances.is_empty());
        assert!(table.service("two").is_some());
        table.put_all(&json!({"apps": [make("/c", "three", "TASK_RUNNING"), {"id": 3}]}));
        assert!(table.service("one").is_none() && table.service("two").is_none());
        assert!(table.service("three").is_some() && table.knows("/c"));
        assert!(table.put("/c", None));
        assert!(table.service("three").is_none() && table.keys.is_empty());
    }

    #[test]
    fn frameworks_are_found_by_id_and_name() {
        let mut table = Table::default();
        let one = |id: &str, name: &str, url: Value| json!({"id": id, "name": name, "webui_url": url});
        table.put_frameworks(&json!({"frameworks": [
            one("f1", "dead", json!("")), one("f2", "g/kafka", json!("http://10.0.0.1:90/ui/")), one("f3", "none", Value::Null),
            one("f4", "bad", json!("ftp://x/")), one("f5", "cred", json!("http://a:b@x/")), {"id": "f6"},
        ]}));
        let web = Some(("http://10.0.0.1:90".to_owned(), "/ui".to_owned()));
        assert_eq!(table.framework("f2").unwrap().web, web);
        assert_eq!(table.framework("kafka.g").unwrap().id, "f2");
        for none in ["dead", "f1", "none", "bad", "cred", "f6", ""] {
            assert!(table.framework(none).is_none(), "{none}");
        }
    }

    #[test]
    fn callers_are_sticky_and_spread() {
        let make = |id: &str, healthy| Instance { id: id.into(), host: "h".into(), port: 1, healthy };
        let all =
            || vec![make("a", None), make("b", Some(true)), make("c", Some(true)), make("d", Some(false))];
        let ordered = |caller: &str, suspect: &str| {
            let mut all = all();
            order(&mut all, caller, |one| one.id == suspect);
            all.iter().map(|one| one.id.clone()).collect::<String>()
        };
        assert_eq!(ordered("x", ""), ordered("x", ""));
        let firsts: BTreeSet<char> =
            (0..50).filter_map(|n| ordered(&n.to_string(), "").chars().next()).collect();
        assert_eq!(firsts, ['b', 'c'].into());
        assert!(ordered("x", "").ends_with("ad"));
        assert!(ordered("x", "b").starts_with('c') && ordered("x", "b").ends_with('b'));
    }
}

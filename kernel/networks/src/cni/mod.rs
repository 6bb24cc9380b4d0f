//! Networks of CNI plugins (versions 0.1 to 1.1 of the interface): configurations by name, plugins in chains, results. Plugins run as this
//! process' user, each call with a deadline. What was called is kept in the container's record, so that it is undone with the same words.

mod config;
mod result;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ports::Port;
use crate::settings::Cni;
use crate::tool::{self, said};
use crate::types::{Attached, NetworkError};

pub(crate) use config::{List, find, names};

/// The interface inside.
pub(crate) const INTERFACE: &str = "eth0";

/// What plugins were called with, and their last result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The network.
    pub list: List,
    /// The chain's result; none until all of it has said yes.
    pub result: Option<Value>,
}

/// One container and its chain.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    pub cni: &'a Cni,
    pub list: &'a List,
    pub container: &'a str,
    pub netns: &'a Path,
    pub ports: &'a [Port],
    pub labels: &'a BTreeMap<String, String>,
    pub addresses: &'a [std::net::IpAddr],
}

impl Chain<'_> {
    /// What cannot be asked of this chain.
    pub fn refuse(&self) -> Result<(), NetworkError> {
        let refused = |reason: &str| {
            Err(NetworkError::Refused { name: self.list.name.clone(), reason: reason.to_owned() })
        };
        if !self.ports.is_empty() && !self.list.can("portMappings") {
            return refused(
                "none of its plugins maps ports; add one with the capability portMappings, or ask for no port mappings",
            );
        }
        if !self.addresses.is_empty() && !self.list.can("ips") {
            return refused(
                "none of its plugins takes addresses that are asked for; add one with the capability ips, or ask for no address",
            );
        }
        Ok(())
    }

    /// Calls each plugin with ADD and gives the last result. What was made before an error is left to [`Chain::remove`].
    pub async fn add(&self) -> Result<Value, NetworkError> {
        let mut result = None;
        for plugin in &self.list.plugins {
            let output = self.call("ADD", plugin, result.as_ref()).await?;
            let value: Value = serde_json::from_slice(&output)
                .map_err(|error| self.wrong(plugin, &format!("its result is no JSON: {error}")))?;
            if !value.is_object() {
                return Err(self.wrong(plugin, "its result is no JSON object"));
            }
            result = Some(value);
        }
        result.ok_or_else(|| NetworkError::Refused {
            name: self.list.name.clone(),
            reason: "it has no plugins".to_owned(),
        })
    }

    /// Calls each plugin with CHECK, where the version has it.
    pub async fn check(&self, result: &Value) -> Result<(), NetworkError> {
        if self.list.version() < (0, 4) || self.list.unchecked {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            self.call("CHECK", plugin, Some(result)).await?;
        }
        Ok(())
    }

    /// Calls each plugin with DEL, the last one first. All are called, also after an error; the first error is the result.
    pub async fn remove(&self, result: Option<&Value>) -> Result<(), NetworkError> {
        let result = result.filter(|_| self.list.version() >= (0, 4));
        let mut outcome = Ok(());
        for plugin in self.list.plugins.iter().rev() {
            let called = self.call("DEL", plugin, result).await.map(drop);
            outcome = outcome.and(called);
        }
        outcome
    }

    /// What the result says, put into `attached`.
    pub fn read(&self, value: &Value, attached: Attached) -> Result<Attached, NetworkError> {
        let (name, tool) = (self.list.name.clone(), format!("CNI network {}", self.list.name));
        result::read(value, Attached { name, ..attached }).map_err(|reason| NetworkError::Tool {
            tool,
            reason: format!("its result cannot be used: {reason}"),
        })
    }

    fn wrong(&self, plugin: &Value, reason: &str) -> NetworkError {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or("?");
        let tool = format!("CNI plugin {kind} of network {}", self.list.name);
        NetworkError::Tool { tool, reason: reason.to_owned() }
    }

    async fn call(
        &self,
        command: &str,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let program = self.program(plugin)?;
        let path: Vec<String> = self.cni.plugins.iter().map(|folder| folder.display().to_string()).collect();
        let environment = BTreeMap::from([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.container.to_owned()),
            ("CNI_NETNS", self.netns.display().to_string()),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_PATH", path.join(":")),
        ]);
        let input = self.input(plugin, previous).to_string();
        let deadline = Duration::from_secs(self.cni.deadline.max(1));
        let ended = tool::run(&program, &[], &environment, input.as_bytes(), deadline)
            .await
            .map_err(|reason| self.wrong(plugin, &format!("{command}: {reason}")))?;
        if ended.status.success() {
            return Ok(ended.output);
        }
        let value: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let words = match (text("msg"), text("details")) {
            ("", _) => said(if ended.errors.is_empty() { &ended.output } else { &ended.errors }),
            (message, "") => message.chars().take(500).collect(),
            (message, details) => format!("{message}: {details}").chars().take(500).collect(),
        };
        Err(self.wrong(plugin, &format!("{command} failed ({}): {words}", ended.status)))
    }

    fn program(&self, plugin: &Value) -> Result<PathBuf, NetworkError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let places = self.cni.plugins.iter().map(|folder| folder.join(kind));
        let missing = || {
            let folders: Vec<String> =
                self.cni.plugins.iter().map(|folder| folder.display().to_string()).collect();
            self.wrong(plugin, &format!("it is in none of the folders of plugins ({})", folders.join(", ")))
        };
        places.into_iter().find(|place| place.is_file()).ok_or_else(missing)
    }

    /// What a plugin reads: its part of the configuration, and what is known now.
    fn input(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut out = plugin.as_object().cloned().unwrap_or_default();
        out.insert("cniVersion".to_owned(), json!(self.list.version));
        out.insert("name".to_owned(), json!(self.list.name));
        if let Some(previous) = previous {
            out.insert("prevResult".to_owned(), previous.clone());
        }
        let mappings: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                json!({"hostPort": port.host, "containerPort": port.container, "protocol": port.protocol.as_str()})
            })
            .collect();
        let can = |capability| config::declares(plugin, capability);
        let mut runtime = Map::new();
        if can("portMappings") && !mappings.is_empty() {
            runtime.insert("portMappings".to_owned(), Value::Array(mappings));
        }
        if can("ips") && !self.addresses.is_empty() {
            runtime.insert("ips".to_owned(), json!(self.addresses));
        }
        if !runtime.is_empty() {
            out.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        if !self.labels.is_empty() {
            // As plugins made for Mesos read it.
            let labels: Vec<Value> =
                self.labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
            let info = json!({"name": self.list.name, "labels": {"labels": labels}});
            let args = out.entry("args").or_insert_with(|| json!({}));
            if let Some(args) = args.as_object_mut() {
                args.insert("org.apache.mesos".to_owned(), json!({"network_info": info}));
            }
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn a_plugin_is_told_what_it_asked_for() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"a","mtu":9000},{"type":"b","capabilities":{"portMappings":true,"ips":false}}]}"#;
        let list = config::parse(text.as_bytes(), true).unwrap();
        let ports = [Port { host: 80, container: 8080, protocol: Protocol::Udp }];
        let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let cni = Cni::default();
        let addresses = [[10, 0, 0, 9].into()];
        let netns = Path::new("/x");
        let chain = Chain {
            cni: &cni,
            list: &list,
            container: "c",
            netns,
            ports: &ports,
            labels: &labels,
            addresses: &[],
        };
        assert!(chain.refuse().is_ok());
        let previous = json!({"ips": []});
        let first = chain.input(&list.plugins[0], None);
        let info = json!({"name": "n", "labels": {"labels": [{"key": "k", "value": "v"}]}});
        let args = json!({"org.apache.mesos": {"network_info": info}});
        assert_eq!(
            first,
            json!({"type": "a", "mtu": 9000, "cniVersion": "1.0.0", "name": "n", "args": args})
        );
        let second = chain.input(&list.plugins[1], Some(&previous));
        assert_eq!(second["prevResult"], previous);
        let mapping = json!({"hostPort": 80, "containerPort": 8080, "protocol": "udp"});
        assert_eq!(second["runtimeConfig"], json!({"portMappings": [mapping]}));
        assert!(Chain { addresses: &addresses, ..chain }.refuse().is_err());
    }
}

//! An image's configuration: what it runs and how, and the digests of its unpacked layers. Pure, with bounds on everything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::platform::Platform;

/// What an image says of the container it wants to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments after the entry point, or the program where there is none.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Environment, in order; a later one of a name wins.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The working folder; absolute.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`; see [`crate::Image::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// Folders that are volumes; absolute.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The signal that asks for the end, by name or number.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// `80/tcp`, as it is written; without a protocol it is TCP.
    #[serde(default)]
    pub ports: Vec<(u16, String)>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A configuration document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What the image wants.
    pub config: ImageConfig,
    /// What it is for.
    pub platform: Platform,
    /// The digests of the unpacked layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Entries of one list.
const LIST_MAX: usize = 4096;
/// Bytes of all texts of one list together; the kernel takes two megabytes of arguments and environment.
const TEXT_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRoot,
}

#[derive(Deserialize)]
struct RawRoot {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

impl Parsed {
    /// Reads a configuration; `name` is for errors.
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, ImageError> {
        let wrong = |reason: String| ImageError::content(format!("the configuration of {name}"), reason);
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is not a configuration: {error}")))?;
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        let platform = Platform {
            os: full(raw.os).unwrap_or_else(|| "linux".to_owned()),
            architecture: full(raw.architecture).unwrap_or_default(),
            variant: full(raw.variant),
        };
        let config = raw.config.unwrap_or_default().checked().map_err(wrong)?;
        Ok(Self { config, platform, diff_ids: raw.rootfs.diff_ids.unwrap_or_default() })
    }

    /// Whether it is for this platform, or does not say. The variant is the index's matter: many configurations lack it, or have it wrong.
    #[must_use]
    pub fn runs_on(&self, platform: &Platform) -> bool {
        let plain = |platform: &Platform| Platform { variant: None, ..platform.clone() };
        self.platform.architecture.is_empty() || plain(platform).fits(&plain(&self.platform)).is_some()
    }
}

impl RawConfig {
    fn checked(self) -> Result<ImageConfig, String> {
        let entrypoint = list("Entrypoint", self.entrypoint.unwrap_or_default())?;
        let cmd = list("Cmd", self.cmd.unwrap_or_default())?;
        let env = list("Env", self.env.unwrap_or_default())?;
        let env = env.into_iter().filter_map(|pair| {
            // An entry without a name or a value sets nothing.
            pair.split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        });
        let volumes = list("Volumes", self.volumes.unwrap_or_default().into_keys().collect())?;
        let ports = list("ExposedPorts", self.exposed_ports.unwrap_or_default().into_keys().collect())?;
        let ports = ports.iter().map(|text| port(text)).collect::<Result<Vec<_>, _>>()?.concat();
        if ports.len() > 65_536 {
            return Err("it exposes more ports than there are".to_owned());
        }
        let labels = self.labels.unwrap_or_default();
        let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels.len() > LIST_MAX || bytes > TEXT_MAX {
            return Err("its Labels are too many".to_owned());
        }
        Ok(ImageConfig {
            entrypoint,
            cmd,
            env: env.collect(),
            working_dir: absolute("WorkingDir", self.working_dir)?,
            user: short("User", self.user, 512)?,
            volumes: volumes
                .into_iter()
                .map(|v| absolute("Volumes", Some(v)))
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect(),
            stop_signal: short("StopSignal", self.stop_signal, 32)?,
            ports,
            labels,
        })
    }
}

fn list(what: &str, texts: Vec<String>) -> Result<Vec<String>, String> {
    if texts.len() > LIST_MAX || texts.iter().map(String::len).sum::<usize>() > TEXT_MAX {
        return Err(format!("its {what} is too long"));
    }
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(format!("its {what} has a NUL character"));
    }
    Ok(texts)
}

fn short(what: &str, text: Option<String>, most: usize) -> Result<Option<String>, String> {
    let text = text.filter(|text| !text.is_empty());
    match &text {
        Some(text) if text.len() > most || text.contains(['\0', '\n']) => {
            Err(format!("its {what} is not valid"))
        }
        _ => Ok(text),
    }
}

fn absolute(what: &str, path: Option<String>) -> Result<Option<String>, String> {
    let path = short(what, path, 4000)?;
    match &path {
        Some(path) if !path.starts_with('/') || path.split('/').any(|part| part == "..") => {
            Err(format!("its {what} is not an absolute path"))
        }
        _ => Ok(path),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port(text: &str) -> Result<Vec<(u16, String)>, String> {
    let wrong = || "its ExposedPorts are not ports".to_owned();
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    Ok((first..=last).map(|port| (port, protocol.clone())).collect())
}

/// The ids of what the layers make together, from the lowest up: the first diff id, then the digest of "id diff-id".
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let mut hasher: Hasher = Digest::of(b"").hasher();
                hasher.update(format!("{below} {diff_id}").as_bytes());
                hasher.finish()
            }
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: &serde_json::Value) -> Result<Parsed, ImageError> {
        let document = json!({"os": "linux", "architecture": "amd64", "config": config, "rootfs": {"type": "layers", "diff_ids": []}});
        Parsed::parse(document.to_string().as_bytes(), "x")
    }

    #[test]
    fn everything_is_read() {
        let parsed = parse(&json!({
            "Entrypoint": ["/run"], "Cmd": ["a", "b"], "Env": ["A=1", "B=x=y", "broken", "=z"], "WorkingDir": "/srv",
            "User": "web:1", "Volumes": {"/data": {}}, "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "7-9": {}},
            "Labels": {"k": "v"}, "Healthcheck": {"Test": ["NONE"]}
        }))
        .unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let config = parsed.config;
        assert_eq!(config.entrypoint, ["/run"]);
        assert_eq!(config.cmd, ["a", "b"]);
        assert_eq!(config.env, [pair("A", "1"), pair("B", "x=y")]);
        assert_eq!(config.working_dir.as_deref(), Some("/srv"));
        assert_eq!(config.user.as_deref(), Some("web:1"));
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        let tcp = |port: u16| (port, "tcp".to_owned());
        assert_eq!(config.ports, [(53, "udp".to_owned()), tcp(7), tcp(8), tcp(9), tcp(80)]);
        assert_eq!(config.labels["k"], "v");
        assert_eq!(parsed.platform, Platform::linux("amd64"));
    }

    #[test]
    fn nulls_and_absence_are_empty() {
        let empty = parse(&json!({"Entrypoint": null, "Cmd": null, "Env": null, "WorkingDir": "", "User": "", "Volumes": null})).unwrap();
        assert_eq!(empty.config, ImageConfig::default());
        assert_eq!(parse(&serde_json::Value::Null).unwrap().config, ImageConfig::default());
    }

    #[test]
    fn bounds() {
        let many: Vec<String> = (0..5000).map(|n| format!("A{n}=1")).collect();
        for config in [
            json!({"Env": many}),
            json!({"Cmd": ["x".repeat(2 << 20)]}),
            json!({"Cmd": ["a\0b"]}),
            json!({"WorkingDir": "relative"}),
            json!({"WorkingDir": "/a/../b"}),
            json!({"Volumes": {"data": {}}}),
            json!({"User": "a\nb"}),
            json!({"StopSignal": "x".repeat(40)}),
            json!({"ExposedPorts": {"0/tcp": {}}}),
            json!({"ExposedPorts": {"99999/tcp": {}}}),
            json!({"ExposedPorts": {"80/icmp": {}}}),
            json!({"Entrypoint": "text"}),
        ] {
            assert_eq!(parse(&config).unwrap_err().code(), "IMAGE_CONTENT", "{config:.80}");
        }
        assert!(Parsed::parse(b"{}", "x").is_err());
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }
}

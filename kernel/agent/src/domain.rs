//! Region and zone of this machine: from the configuration, else from a script, else from the cloud's metadata address when one is set.
//!
//! What was found is remembered beside the records, so that an agent comes back while script or address fail.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ::http::{HeaderName, Method, Uri};
use plenum_api::mesos::DomainInfo;
use plenum_api::mesos::domain_info::{FaultDomain, fault_domain};
use plenum_base::client::{Call, Client};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::config::Config;

/// An answer is no longer than this.
const MOST: u64 = 64 * 1024;
/// A name is no longer than this.
const NAME: usize = 255;
/// How long a token of the metadata service is asked for, in seconds.
const TOKEN_SECONDS: &str = "60";

/// Why region and zone are not known.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The script.
    #[error(
        "detect_script {script}: {reason}; run it by hand: it prints {{\"fault_domain\": {{\"region\": {{\"name\": …}}, \"zone\": {{\"name\": …}}}}}}"
    )]
    Script {
        /// Its path.
        script: String,
        /// What went wrong.
        reason: String,
    },
    /// The metadata address.
    #[error("metadata_url {url}: {reason}; set region and zone instead where the cloud does not tell them")]
    Metadata {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

/// As DC/OS' detection scripts print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Printed {
    fault_domain: Place,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    region: Named,
    zone: Named,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    name: String,
}

impl Printed {
    fn new(region: &str, zone: &str) -> Self {
        let named = |name: &str| Named { name: name.to_owned() };
        Self { fault_domain: Place { region: named(region), zone: named(zone) } }
    }

    fn read(text: &str) -> Result<Self, String> {
        let printed: Self =
            serde_json::from_str(text).map_err(|error| format!("its answer is not understood: {error}"))?;
        printed.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let place = &self.fault_domain;
        for (what, name) in [("region", &place.region.name), ("zone", &place.zone.name)] {
            if name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) {
                return Err(format!(
                    "the {what}'s name must have 1 to {NAME} bytes and no control characters"
                ));
            }
        }
        Ok(self)
    }

    fn info(self) -> DomainInfo {
        DomainInfo {
            fault_domain: Some(FaultDomain {
                region: fault_domain::RegionInfo { name: self.fault_domain.region.name },
                zone: fault_domain::ZoneInfo { name: self.fault_domain.zone.name },
            }),
        }
    }
}

/// What clouds answer: JSON as above, or a zone's name, perhaps as the end of a path (`projects/1/zones/us-central1-a`, `us-east-1a`).
fn read_metadata(text: &str) -> Result<Printed, String> {
    let text = text.trim();
    if text.starts_with('{') {
        return Printed::read(text);
    }
    let zone = text.rsplit('/').next().unwrap_or_default();
    let letters = |c: char| c.is_ascii_lowercase();
    let region = match zone.strip_suffix(letters) {
        Some(rest) if rest.ends_with('-') => rest.trim_end_matches('-'),
        Some(rest) if rest.ends_with(|c: char| c.is_ascii_digit()) => rest,
        _ => zone,
    };
    Printed::new(region, zone).checked()
}

/// Region and zone; none where nothing says them.
///
/// # Errors
/// [`DomainError`] when what is configured fails, and did not succeed before either.
pub(crate) async fn detect(config: &Config, work_dir: &Path) -> Result<Option<DomainInfo>, DomainError> {
    if let (Some(region), Some(zone)) = (&config.region, &config.zone) {
        return Ok(Some(Printed::new(region, zone).info()));
    }
    let limit = Duration::from_secs(config.detect_timeout.max(1));
    let found = match (&config.detect_script, &config.metadata_url) {
        (Some(script), _) => run(script, limit)
            .await
            .map_err(|reason| DomainError::Script { script: script.display().to_string(), reason }),
        (None, Some(url)) => {
            let asked = tokio::time::timeout(limit, ask(url, limit)).await;
            asked
                .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
                .map_err(|reason| DomainError::Metadata { url: url.clone(), reason })
        }
        (None, None) => return Ok(None),
    };
    let memory = work_dir.join("domain.json");
    match found {
        Ok(printed) => {
            remember(&memory, &printed);
            Ok(Some(printed.info()))
        }
        Err(error) => {
            match std::fs::read_to_string(&memory).ok().and_then(|text| Printed::read(&text).ok()) {
                Some(known) => {
                    tracing::warn!(%error, "region and zone are those of the last start");
                    Ok(Some(known.info()))
                }
                None => Err(error),
            }
        }
    }
}

fn remember(memory: &Path, printed: &Printed) {
    let text = serde_json::to_string(printed).unwrap_or_default();
    if std::fs::read_to_string(memory).is_ok_and(|known| known == text) {
        return;
    }
    let temporary: PathBuf = memory.with_extension("json.new");
    let written = std::fs::write(&temporary, &text).and_then(|()| std::fs::rename(&temporary, memory));
    if let Err(error) = written {
        tracing::warn!(%error, "region and zone cannot be written down");
    }
}

async fn run(script: &Path, limit: Duration) -> Result<Printed, String> {
    let mut command = Command::new(script);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let output = child.stdout.take();
    let finished = async {
        let mut text = Vec::new();
        if let Some(output) = output {
            output.take(MOST).read_to_end(&mut text).await.map_err(|error| error.to_string())?;
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(text) } else { Err(format!("it failed: {status}")) }
    };
    let text = tokio::time::timeout(limit, finished)
        .await
        .map_err(|_| format!("it did not end within {} s", limit.as_secs()))??;
    Printed::read(&String::from_utf8_lossy(&text))
}

async fn ask(url: &str, limit: Duration) -> Result<Printed, String> {
    let client = Client::plain().map_err(|error| error.to_string())?;
    let call = || with_flavours(client.call(Method::GET, url)).deadline(limit);
    let mut reply = call().send().await.map_err(|error| error.to_string())?;
    if reply.status.as_u16() == 401 {
        // A service that wants a token first (EC2's second version).
        let at = token_address(url).ok_or("the address has no host")?;
        let token = client
            .call(Method::PUT, &at)
            .header(HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"), TOKEN_SECONDS);
        let token = token.deadline(limit).send().await.map_err(|error| error.to_string())?;
        let token = token.bytes_up_to(4_096).await.map_err(|error| error.to_string())?;
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        reply = call()
            .header(HeaderName::from_static("x-aws-ec2-metadata-token"), &token)
            .send()
            .await
            .map_err(|error| error.to_string())?;
    }
    if !reply.status.is_success() {
        return Err(format!("it answers {}", reply.status));
    }
    let body = reply.bytes_up_to(MOST as usize).await.map_err(|error| error.to_string())?;
    read_metadata(&String::from_utf8_lossy(&body))
}

/// Clouds answer only who shows that it is not tricked into asking.
fn with_flavours(call: Call) -> Call {
    call.header(HeaderName::from_static("metadata-flavor"), "Google")
        .header(HeaderName::from_static("metadata"), "true")
}

fn token_address(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}/latest/api/token", uri.scheme_str()?, uri.authority()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn clouds_answers_are_read() {
        let json = r#"{"fault_domain": {"region": {"name": "r"}, "zone": {"name": "z"}}}"#;
        for (text, region, zone) in [
            (json, "r", "z"),
            ("us-east-1a\n", "us-east-1", "us-east-1a"),
            ("projects/12/zones/us-central1-b", "us-central1", "us-central1-b"),
            ("1", "1", "1"),
        ] {
            assert_eq!(read_metadata(text), Ok(Printed::new(region, zone)), "{text}");
        }
        for bad in ["", "{}", "a\u{1}b", "x/"] {
            assert!(read_metadata(bad).is_err(), "{bad}");
        }
        assert_eq!(
            token_address("http://169.254.169.254/a/b").as_deref(),
            Some("http://169.254.169.254/latest/api/token")
        );
    }

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("detect");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_script_tells_and_is_remembered_while_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let printed = r#"echo '{"fault_domain": {"region": {"name": "eu"}, "zone": {"name": "eu-1"}}}'"#;
        let mut config = Config { detect_timeout: 1, ..Config::default() };
        assert!(detect(&config, folder.path()).await.unwrap().is_none());
        config.detect_script = Some(script(folder.path(), "exit 3"));
        assert!(detect(&config, folder.path()).await.unwrap_err().to_string().contains("exit status: 3"));
        config.detect_script = Some(script(folder.path(), printed));
        let found = detect(&config, folder.path()).await.unwrap().unwrap();
        assert_eq!(found.fault_domain.as_ref().unwrap().zone.name, "eu-1");
        for broken in ["exit 3", "sleep 60", "echo hello"] {
            config.detect_script = Some(script(folder.path(), broken));
            assert_eq!(detect(&config, folder.path()).await.unwrap(), Some(found.clone()), "{broken}");
        }
        config.region = Some("r".into());
        config.zone = Some("z".into());
        let set = detect(&config, folder.path()).await.unwrap().unwrap();
        assert_eq!(set.fault_domain.unwrap().region.name, "r", "what is configured wins");
    }

    #[tokio::test]
    async fn a_metadata_address_is_asked_with_its_token() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url =
            format!("http://{}/latest/meta-data/placement/availability-zone", listener.local_addr().unwrap());
        let serve = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in ["401 Unauthorized\r\n\r\n", "200 OK\r\n\r\ntok", "200 OK\r\n\r\neu-west-3c"] {
                let (mut io, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let count = io.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..count]).to_lowercase());
                let answer = answer.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                io.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
            asked
        });
        let folder = tempfile::tempdir().unwrap();
        let config = Config { metadata_url: Some(url), detect_timeout: 5, ..Config::default() };
        let found = detect(&config, folder.path()).await.unwrap().unwrap().fault_domain.unwrap();
        assert_eq!((found.region.name.as_str(), found.zone.name.as_str()), ("eu-west-3", "eu-west-3c"));
        let asked = serve.await.unwrap();
        assert!(asked[1].starts_with("put /latest/api/token"), "{asked:?}");
        assert!(asked[2].contains("x-aws-ec2-metadata-token: tok"), "{asked:?}");
    }
}

//! A volume driver's plugin: where it listens, and one question to it. The protocol is that of Docker's volume plugins (version 1): JSON by POST
//! over HTTP/1.1, on a Unix socket or a TCP port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// What plugins say they speak.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";
/// Largest answer (bytes).
const ANSWER: usize = 1 << 20;
/// Largest file that names an address (bytes).
const SPEC: u64 = 64 * 1024;
/// How long a plugin that does not listen may be on its way up.
const UP: Duration = Duration::from_secs(10);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(250);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing can be said about what the plugin has done.
    Away(String),
    /// The plugin has said no.
    Refused(String),
}

impl Fault {
    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::Away(words) | Self::Refused(words) => words,
        }
    }
}

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Whether it can be the name of a driver: also of a file that is looked for.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(fits)
}

/// Looks for a driver in folders, in turn: its socket, then a file with its address.
pub(super) fn find(folders: &[PathBuf], name: &str) -> Result<Address, String> {
    for folder in folders {
        for at in [folder.join(name), folder.join(name).join(name)] {
            let with = |extension: &str| PathBuf::from(format!("{}.{extension}", at.display()));
            let socket = with("sock");
            if is_socket(&socket) {
                return Ok(Address::Unix(socket));
            }
            if let Some(text) = read(&with("spec")) {
                return parse(text.trim());
            }
            if let Some(text) = read(&with("json")) {
                return from_json(&text);
            }
        }
    }
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(format!(
        "no plugin of this name is found (looked for {name}.sock, .spec and .json in {})",
        folders.join(", ")
    ))
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|found| found.file_type().is_socket())
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(SPEC).read_to_string(&mut text).ok()?;
    Some(text)
}

fn from_json(text: &str) -> Result<Address, String> {
    let spec: Value = serde_json::from_str(text).map_err(|error| format!("its file is not JSON: {error}"))?;
    if spec.get("TLSConfig").is_some_and(|tls| !tls.is_null()) {
        return Err("its file asks for TLS, which this agent does not speak to plugins".to_owned());
    }
    let address = spec.get("Addr").and_then(Value::as_str).ok_or("its file has no `Addr`")?;
    parse(address)
}

fn parse(address: &str) -> Result<Address, String> {
    let tcp = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://"));
    match (address.strip_prefix("unix://"), tcp) {
        (Some(path), _) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        (_, Some(host)) if host.contains(':') => Ok(Address::Tcp(host.trim_end_matches('/').to_owned())),
        _ => Err(format!("its address '{address}' is not unix:///path or tcp://host:port")),
    }
}

/// Asks once, within a deadline; a plugin that does not listen yet is waited for.
pub(super) async fn ask(
    address: &Address,
    method: &str,
    question: &Value,
    deadline: Duration,
) -> Result<Value, Fault> {
    let away = |what: &str| Fault::Away(format!("{method}: {what}"));
    let exchange = async {
        let up = tokio::time::Instant::now() + UP;
        loop {
            let connected = match address {
                Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
                Address::Tcp(host) => TcpStream::connect(host.as_str()).await.map(Stream::Tcp),
            };
            match connected {
                Ok(Stream::Unix(stream)) => return exchange(stream, method, question).await,
                Ok(Stream::Tcp(stream)) => return exchange(stream, method, question).await,
                Err(error) if tokio::time::Instant::now() >= up => {
                    return Err(away(&format!("the plugin does not listen: {error}")));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    let done = tokio::time::timeout(deadline, exchange).await;
    done.unwrap_or_else(|_| Err(away(&format!("no answer within {} s", deadline.as_secs()))))
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

async fn exchange<S>(stream: S, method: &str, question: &Value) -> Result<Value, Fault>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let away = |error: String| Fault::Away(format!("{method}: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| away(error.to_string()))?;
    let request = Request::post(format!("/{method}"))
        .header(header::HOST, "plugin")
        .header(header::ACCEPT, MEDIA_TYPE)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(question.to_string())))
        .map_err(|error| away(error.to_string()))?;
    // A task of its own drives the connection; it ends with the question, however that ends.
    let connection = tokio::spawn(connection);
    let _ends = tokio_util::task::AbortOnDropHandle::new(connection);
    let answer = sender.send_request(request).await.map_err(|error| away(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    let body = body.map_err(|error| away(error.to_string()))?.to_bytes();
    let said: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let error = said.get("Err").and_then(Value::as_str).unwrap_or_default();
    let refused = |words: String| Err(Fault::Refused(format!("{method}: {words}")));
    match (status.is_success(), error) {
        (true, "") if said.is_object() => Ok(said),
        (true, "") => refused("the answer is not a JSON object".to_owned()),
        (false, "") => {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            refused(format!("HTTP {}: {}", status.as_u16(), text.trim()))
        }
        (_, words) => refused(words.chars().take(500).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_by_socket_and_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("none"), folder.path().to_path_buf()];
        let socket = folder.path().join("one.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::create_dir(folder.path().join("two")).unwrap();
        for (file, text) in [
            ("two/two.spec", "unix:///run/two.sock\n"),
            ("three.spec", "tcp://localhost:99"),
            ("four.json", r#"{"Name": "four", "Addr": "http://127.0.0.1:7/"}"#),
            ("five.json", r#"{"Addr": "https://x:1", "TLSConfig": {"CAFile": "x"}}"#),
            ("six.spec", "nonsense"),
            ("seven.json", "{"),
            ("eight.sock", "a file"),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        for (name, want) in [
            ("one", Ok(Address::Unix(socket.clone()))),
            ("two", Ok(Address::Unix("/run/two.sock".into()))),
            ("three", Ok(Address::Tcp("localhost:99".to_owned()))),
            ("four", Ok(Address::Tcp("127.0.0.1:7".to_owned()))),
            ("five", Err("TLS")),
            ("six", Err("nonsense")),
            ("seven", Err("JSON")),
            ("eight", Err("no plugin")),
            ("nine", Err("no plugin")),
        ] {
            match (find(&folders, name), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{name}"),
                (Err(words), Err(word)) => assert!(words.contains(word), "{name}: {words}"),
                (found, want) => panic!("{name}: {found:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn names_are_names_of_files() {
        for (name, good) in
            [("rexray", true), ("a-b_c.2", true), ("", false), ("../x", false), (".x", false), ("a/b", false)]
        {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}

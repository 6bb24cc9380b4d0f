//! A registry with one image of one layer, for the agent to pull once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::node::ADDRESS;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Where the registry listens.
pub const HOST: &str = "127.88.201.1:5000";
/// The image's name.
pub const IMAGE: &str = "127.88.201.1:5000/bench/stamp:1";

/// Type and body by path.
type Served = BTreeMap<String, (&'static str, Vec<u8>)>;

/// Serves the files below `root` as an image until the runtime ends.
///
/// # Errors
/// When the address is taken.
pub async fn serve(root: &Path) -> Result<()> {
    let served = Arc::new(image(root)?);
    let listener = TcpListener::bind(HOST).await?;
    debug_assert!(HOST.starts_with(ADDRESS));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let _client_gone = answer(stream, &served).await;
            });
        }
    });
    Ok(())
}

fn image(root: &Path) -> Result<Served> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", root)?;
    let layer = tar.into_inner()?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/stamp"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let describe =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe(CONFIG, &config),
        "layers": [describe(LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let of = |kind: &str, name: &str| format!("/v2/bench/stamp/{kind}/{name}");
    Ok(BTreeMap::from([
        ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
        (of("blobs", &digest(&layer)), ("application/octet-stream", layer)),
        (of("blobs", &digest(&config)), ("application/octet-stream", config)),
        (of("manifests", &digest(&manifest)), (MANIFEST, manifest.clone())),
        (of("manifests", "1"), (MANIFEST, manifest)),
    ]))
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// One request a connection.
async fn answer(stream: TcpStream, served: &Served) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match served.get(path) {
        Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
        None => ("404 Not Found", "text/plain", &b"not here"[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\nConnection: close\r\n\r\n",
        body.len(),
        digest(body)
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

//! Layers and images for tests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use plenum_images::{Auth, Digest, Image, ImageError, Images, Listener, Pinned, Platform, Settings};
use serde_json::json;
use tar::{EntryType, Header};

use crate::registry::Fake;

/// A tar archive that is put together by hand: the builder of the library refuses what hostile archives have.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

/// A header with everything a plain entry has.
pub fn header(path: &str, kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

impl Tar {
    pub fn raw(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.raw(header(path, EntryType::Regular, content.len() as u64, 0o644), content)
    }

    pub fn owned(self, path: &str, content: &[u8], mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = header(path, EntryType::Regular, content.len() as u64, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.raw(header, content)
    }

    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.raw(header(path, EntryType::Directory, 0, mode), b"")
    }

    pub fn link(self, path: &str, kind: EntryType, target: &str) -> Self {
        let mut header = header(path, kind, 0, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, EntryType::Symlink, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(path, EntryType::Link, target)
    }

    pub fn device(self, path: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        let mut header = header(path, kind, 0, 0o666);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }

    /// PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let bare = key.len() + value.len() + 3;
            let mut length = bare + 1;
            while length != bare + length.to_string().len() {
                length = bare + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.raw(header("pax", EntryType::XHeader, content.len() as u64, 0o644), &content)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Bytes that do not compress.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// What is pushed: documents and blobs by digest.
#[derive(Debug, Clone, Default)]
pub struct Built {
    pub manifest: Vec<u8>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub layers: Vec<Digest>,
    pub config: Digest2,
}

/// A digest that has a default, for the builder.
pub type Digest2 = Option<Digest>;

/// An image of layers given as (unpacked archive, packed form, media type suffix).
pub fn build(layers: &[(Vec<u8>, Vec<u8>, &str)], config: &serde_json::Value) -> Built {
    let mut built = Built::default();
    let diff_ids: Vec<_> = layers.iter().map(|(plain, _, _)| Digest::of(plain)).collect();
    let config = json!({"os": "linux", "architecture": Platform::here().architecture, "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes();
    let mut list = Vec::new();
    for (_, packed, kind) in layers {
        let digest = Digest::of(packed);
        list.push(json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar{kind}"), "digest": digest, "size": packed.len()}));
        built.layers.push(digest.clone());
        built.blobs.insert(digest, packed.clone());
    }
    let digest = Digest::of(&config);
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()}, "layers": list});
    built.blobs.insert(digest.clone(), config);
    built.config = Some(digest);
    built.manifest = manifest.to_string().into_bytes();
    built
}

/// An image of one gzipped layer.
pub fn one(layer: Vec<u8>) -> Built {
    let packed = gzip(&layer);
    build(&[(layer, packed, "+gzip")], &json!({"Cmd": ["/bin/x"]}))
}

/// Settings that do not wait long.
pub fn quick(fake: &Fake) -> Settings {
    Settings {
        default_registry: Some(fake.host.clone()),
        insecure: [fake.host.clone()].into(),
        backoff: Duration::from_millis(2),
        stall: Duration::from_millis(400),
        trust_machine: false,
        attempts: 4,
        ..Settings::default()
    }
}

pub async fn pin(images: &Images, name: &str, auth: &Auth) -> Result<Pinned, ImageError> {
    images.resolve(&images.reference(name)?, auth, &Platform::here()).await
}

pub async fn pull(images: &Images, name: &str) -> Result<Image, ImageError> {
    pull_as(images, name, &Auth::none()).await
}

pub async fn pull_as(images: &Images, name: &str, auth: &Auth) -> Result<Image, ImageError> {
    let pinned = pin(images, name, auth).await?;
    images.pull(&pinned, auth, &Listener::none()).await
}

/// What is in a folder, by name.
pub fn listed(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Ends the store: what was going on with it has to notice that nobody waits any more.
pub async fn close(images: Images) {
    drop(images);
    tokio::time::sleep(Duration::from_millis(5)).await;
}

//! Manifests and indexes: OCI image 1.x and Docker's schema 2. Pure: bytes in, what to fetch out.

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::platform::Platform;

/// What we ask registries for, in a header.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// overlayfs takes 500 lower folders; engines stop at 127 layers, so no image has more.
pub const LAYERS_MAX: usize = 127;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Tar,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Content by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, as the manifest says.
    pub size: u64,
}

/// A layer as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Where its bytes are.
    pub blob: Blob,
    /// How they are packed.
    pub packing: Packing,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its manifest.
    pub blob: Blob,
    /// What it is for, where that is said.
    pub platform: Option<Platform>,
}

/// What a registry answers for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image for one platform.
    Image(Manifest),
    /// Images by platform.
    Index(Vec<Offer>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<RawBlob>,
    layers: Option<Vec<RawBlob>>,
    manifests: Option<Vec<RawBlob>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBlob {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Document {
    /// Reads a manifest or an index. `name` is for errors.
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, ImageError> {
        let what = || format!("the manifest of {name}");
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::content(what(), format!("it is not a manifest: {error}")))?;
        if raw.schema_version != 2 {
            let reason = format!(
                "it has schema version {}; only version 2 and OCI images are understood: push the image again with a current tool",
                raw.schema_version
            );
            return Err(ImageError::content(what(), reason));
        }
        let kind = raw.media_type.unwrap_or_default();
        // The two forms are told apart by what they have; one that has both is made to be read differently by different readers.
        match (raw.manifests, raw.config, raw.layers) {
            (Some(list), None, None)
                if !kind.contains(".image.manifest") && !kind.contains(".manifest.v2") =>
            {
                Ok(Self::Index(list.into_iter().map(RawBlob::offer).collect()))
            }
            (None, Some(config), Some(layers)) if !kind.contains(".index.") && !kind.contains(".list.") => {
                let manifest = image(config, layers).map_err(|reason| ImageError::content(what(), reason))?;
                Ok(Self::Image(manifest))
            }
            _ => Err(ImageError::content(what(), "it is neither an image nor an index of images")),
        }
    }
}

impl RawBlob {
    fn offer(self) -> Offer {
        let platform = self.platform.filter(|platform| !platform.os.is_empty());
        let platform = platform.map(|raw| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant.filter(|variant| !variant.is_empty()),
        });
        Offer { blob: Blob { digest: self.digest, size: self.size }, platform }
    }
}

fn image(config: RawBlob, layers: Vec<RawBlob>) -> Result<Manifest, String> {
    let known =
        ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json", ""];
    if !known.contains(&config.media_type.as_str()) {
        let kind: String = config.media_type.chars().take(100).collect();
        return Err(format!("it is not a container image: its configuration is of type {kind:?}"));
    }
    if layers.len() > LAYERS_MAX {
        return Err(format!("it has {} layers; {LAYERS_MAX} are allowed", layers.len()));
    }
    let layers = layers.into_iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    Ok(Manifest { config: Blob { digest: config.digest, size: config.size }, layers })
}

fn layer(raw: RawBlob) -> Result<Layer, String> {
    let kind = raw.media_type.as_str();
    let packing = match kind {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Packing::Tar
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip" => Packing::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Packing::Zstd,
        _ if kind.ends_with("+encrypted") => return Err("its layers are encrypted".to_owned()),
        _ if kind.contains("foreign") || !raw.urls.is_empty() => {
            return Err("it has layers that are kept outside the registry".to_owned());
        }
        _ => {
            let kind: String = kind.chars().take(100).collect();
            return Err(format!("the layer type {kind:?} is not understood"));
        }
    };
    Ok(Layer { blob: Blob { digest: raw.digest, size: raw.size }, packing })
}

/// The image of an index that runs on `platform`; the first of several.
///
/// # Errors
/// [`ImageError::Platform`].
pub fn choose<'a>(offers: &'a [Offer], platform: &Platform, name: &str) -> Result<&'a Offer, ImageError> {
    let fit = |offer: &Offer| offer.platform.as_ref().and_then(|offered| platform.fits(offered));
    let best = offers.iter().filter_map(fit).max();
    if let Some(offer) = best.and_then(|best| offers.iter().find(|offer| fit(offer) == Some(best))) {
        return Ok(offer);
    }
    // An index of one image that does not say what it is for; its configuration is checked later.
    if let [only] = offers
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut offered: Vec<String> =
        offers.iter().filter_map(|offer| offer.platform.as_ref()).map(Platform::to_string).take(20).collect();
    offered.dedup();
    let offered = if offered.is_empty() { "nothing that is named".to_owned() } else { offered.join(", ") };
    let offered = offered.chars().take(500).collect();
    Err(ImageError::Platform { name: name.to_owned(), wanted: platform.to_string(), offered })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn blob(kind: &str, size: u64) -> serde_json::Value {
        json!({"mediaType": kind, "digest": Digest::of(kind.as_bytes()), "size": size})
    }

    fn parse(value: &serde_json::Value) -> Result<Document, ImageError> {
        Document::parse(value.to_string().as_bytes(), "x")
    }

    #[test]
    fn both_families_of_types() {
        for (config, layers) in [
            (
                "application/vnd.oci.image.config.v1+json",
                [
                    ("application/vnd.oci.image.layer.v1.tar", Packing::Tar),
                    ("application/vnd.oci.image.layer.v1.tar+gzip", Packing::Gzip),
                    ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd),
                ],
            ),
            (
                "application/vnd.docker.container.image.v1+json",
                [
                    ("application/vnd.docker.image.rootfs.diff.tar", Packing::Tar),
                    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Packing::Gzip),
                    ("application/vnd.docker.image.rootfs.diff.tar.zstd", Packing::Zstd),
                ],
            ),
        ] {
            let list: Vec<_> = layers.iter().map(|(kind, _)| blob(kind, 5)).collect();
            let document = json!({"schemaVersion": 2, "config": blob(config, 2), "layers": list});
            let Document::Image(manifest) = parse(&document).unwrap() else { panic!("not an image") };
            let packings: Vec<_> = manifest.layers.iter().map(|layer| layer.packing).collect();
            assert_eq!(packings, layers.map(|(_, packing)| packing));
            assert_eq!(manifest.config.size, 2);
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        let config = || blob("application/vnd.oci.image.config.v1+json", 2);
        let many: Vec<_> = (0..200).map(|_| blob("application/vnd.oci.image.layer.v1.tar", 1)).collect();
        let layer = |kind: &str| json!({"schemaVersion": 2, "config": config(), "layers": [blob(kind, 1)]});
        for (document, word) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema version 1"),
            (json!({"schemaVersion": 2}), "neither"),
            (json!({"schemaVersion": 2, "manifests": [], "config": config(), "layers": []}), "neither"),
            (
                json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "config": config(), "layers": []}),
                "neither",
            ),
            (json!({"schemaVersion": 2, "config": config(), "layers": many}), "200 layers"),
            (
                json!({"schemaVersion": 2, "config": blob("application/vnd.chart", 1), "layers": []}),
                "not a container",
            ),
            (layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
            (layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "outside"),
            (layer("text/plain"), "text/plain"),
            (
                json!({"schemaVersion": 2, "config": {"digest": "sha256:..", "size": 1}, "layers": []}),
                "digest",
            ),
            (
                json!({"schemaVersion": 2, "config": {"digest": Digest::of(b""), "size": -1}, "layers": []}),
                "not a manifest",
            ),
            (json!([]), "not a manifest"),
        ] {
            let error = parse(&document).unwrap_err();
            assert_eq!(error.code(), "IMAGE_CONTENT");
            assert!(error.to_string().contains(word), "{error} lacks {word}");
        }
    }

    #[test]
    fn the_platform_chooses() {
        let with = |os: &str, architecture: &str| {
            let mut offer = blob(&format!("{os}{architecture}"), 1);
            offer["platform"] = json!({"os": os, "architecture": architecture});
            offer
        };
        let list = json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [with("linux", "arm64"), with("windows", "amd64"), with("linux", "amd64"), with("unknown", "unknown")]});
        let Document::Index(offers) = parse(&list).unwrap() else { panic!("not an index") };
        let chosen = choose(&offers, &Platform::linux("amd64"), "x").unwrap();
        assert_eq!(chosen.blob.digest, Digest::of(b"linuxamd64"));
        let error = choose(&offers, &Platform::linux("s390x"), "x").unwrap_err();
        assert_eq!(error.code(), "IMAGE_PLATFORM");
        assert!(error.to_string().contains("linux/arm64, windows/amd64"), "{error}");
        let unnamed = [Offer { blob: offers[0].blob.clone(), platform: None }];
        assert!(choose(&unnamed, &Platform::linux("s390x"), "x").is_ok());
    }
}

//! The operating system and processor that an image is for, in the words of the OCI image index.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7`, `v8`, …; where the architecture has variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on `architecture`.
    #[must_use]
    pub fn linux(architecture: &str) -> Self {
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// This machine's.
    #[must_use]
    pub fn here() -> Self {
        Self::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        })
    }

    /// How well `offered` runs here: `None` not at all, else the more the better.
    #[must_use]
    pub fn fits(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        // A 64-bit ARM is v8 whether it is said or not.
        let variant = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", Some("v8")) | (_, None) => None,
            (_, Some(variant)) => Some(variant.to_owned()),
        };
        match (variant(self), variant(offered)) {
            (mine, theirs) if mine == theirs => Some(2),
            (_, None) => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitting() {
        let with = |architecture: &str, variant: &str| Platform {
            variant: Some(variant.to_owned()),
            ..Platform::linux(architecture)
        };
        for (mine, offered, fits) in [
            (Platform::linux("amd64"), Platform::linux("amd64"), Some(2)),
            (Platform::linux("amd64"), Platform::linux("arm64"), None),
            (Platform::linux("amd64"), with("amd64", "v3"), None),
            (Platform::linux("arm64"), with("arm64", "v8"), Some(2)),
            (with("arm", "v7"), with("arm", "v6"), None),
            (with("arm", "v7"), with("arm", "v7"), Some(2)),
            (with("amd64", "v3"), Platform::linux("amd64"), Some(1)),
        ] {
            assert_eq!(mine.fits(&offered), fits, "{mine} {offered}");
        }
    }
}

//! Why an image cannot be had: one sentence for the user each, with a stable code, and never a secret.

use std::io;

use crate::digest::Digest;

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The image's name is not one.
    #[error("the image name {name:?} is not valid: {reason}")]
    Reference {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name has no registry and there is no default one.
    #[error(
        "the image name {name:?} names no registry and this node has no default one: write <registry host>/{name}, or set the agent's default registry"
    )]
    NoRegistry {
        /// As it was given.
        name: String,
    },
    /// Pull credentials that are not understood.
    #[error("the pull credentials are not usable: {reason}")]
    Credentials {
        /// Where they are wrong; without their content.
        reason: String,
    },
    /// The registry refuses.
    #[error("{registry} does not allow pulling {repository}: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked for.
        repository: String,
        /// What it said, and what to do.
        reason: String,
    },
    /// The registry has no such thing.
    #[error("{registry} has no {what}; check the name and the tag")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry cannot be reached, or breaks off, or fails, and again.
    #[error("{registry} cannot be used: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The last failure.
        reason: String,
    },
    /// Nothing arrives any more.
    #[error("{registry} sent nothing for {seconds} s while {what} was downloaded")]
    Stalled {
        /// The registry.
        registry: String,
        /// What was being downloaded.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Something is larger than allowed.
    #[error("{what} has more than the {limit} bytes that are allowed for it")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A manifest, index or configuration that is not understood.
    #[error("{what} is not usable: {reason}")]
    Content {
        /// Which document.
        what: String,
        /// Why.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error(
        "{what} has the digest {found} and should have {expected}; the registry or something on the way to it changes content"
    )]
    Digest {
        /// What.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The image is not made for this machine.
    #[error("the image {name} is not made for {wanted}; it is for {offered}")]
    Platform {
        /// The image.
        name: String,
        /// This machine.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A layer's archive is broken or hostile.
    #[error("the layer {layer} cannot be unpacked: {reason}")]
    Archive {
        /// The layer.
        layer: Digest,
        /// Why.
        reason: String,
    },
    /// An image grows beyond its bounds when unpacked.
    #[error("the layer {layer} unpacks to more than {what}; raise the agent's limit if it is meant to")]
    Bomb {
        /// The layer.
        layer: Digest,
        /// Which bound.
        what: String,
    },
    /// The disk is full.
    #[error(
        "the disk of the image store is full while {what}; nothing was left half done: free space or prune images"
    )]
    DiskFull {
        /// What was being done.
        what: String,
    },
    /// Another process has the store.
    #[error("the image store {folder} is used by another process")]
    Busy {
        /// The store.
        folder: String,
    },
    /// The user of the image, or of the task, is not in the image.
    #[error("the image has no {what}; give a number, or one that is in its /etc/passwd and /etc/group")]
    NoUser {
        /// Which user or group.
        what: String,
    },
    /// The operating system says no.
    #[error("{what} failed: {reason}")]
    Io {
        /// What was being done.
        what: String,
        /// What the operating system said.
        reason: String,
    },
    /// The pull was given up by its caller.
    #[error("the pull was given up")]
    Cancelled,
}

impl ImageError {
    /// A stable code, for those who sort errors by program.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "IMAGE_NAME",
            Self::NoRegistry { .. } => "IMAGE_NO_REGISTRY",
            Self::Credentials { .. } => "IMAGE_CREDENTIALS",
            Self::Denied { .. } => "IMAGE_DENIED",
            Self::NotFound { .. } => "IMAGE_NOT_FOUND",
            Self::Unreachable { .. } => "IMAGE_REGISTRY_UNREACHABLE",
            Self::Stalled { .. } => "IMAGE_REGISTRY_STALLED",
            Self::TooLarge { .. } => "IMAGE_TOO_LARGE",
            Self::Content { .. } => "IMAGE_CONTENT",
            Self::Digest { .. } => "IMAGE_DIGEST",
            Self::Platform { .. } => "IMAGE_PLATFORM",
            Self::Archive { .. } => "IMAGE_LAYER",
            Self::Bomb { .. } => "IMAGE_LAYER_LIMIT",
            Self::DiskFull { .. } => "IMAGE_DISK_FULL",
            Self::Busy { .. } => "IMAGE_STORE_BUSY",
            Self::NoUser { .. } => "IMAGE_USER",
            Self::Io { .. } => "IMAGE_IO",
            Self::Cancelled => "IMAGE_CANCELLED",
        }
    }

    /// Whether another attempt may help without anybody changing something.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. } | Self::DiskFull { .. })
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let what = what.into();
            if is_full(&error) {
                Self::DiskFull { what }
            } else {
                Self::Io { what, reason: error.to_string() }
            }
        }
    }

    pub(crate) fn content(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Content { what: what.into(), reason: reason.into() }
    }
}

/// Whether an error means that there is no space, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

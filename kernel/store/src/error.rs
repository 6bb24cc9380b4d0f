//! Why a store did not do what it was asked.

use std::time::Duration;

use crate::{Guard, LeaseId, Revision};

/// The outcome of a call that failed. [`StoreError::code`] is stable; the sentence is not.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A guard did not hold; nothing was changed.
    #[error("precondition not met: {guard}")]
    Conflict {
        /// Its place in [`crate::Txn::guards`].
        index: usize,
        /// The guard.
        guard: Guard,
    },
    /// More guards and operations than a transaction may hold.
    #[error("{count} guards and operations in one transaction, at most {limit} are allowed: split it")]
    TooManyOperations {
        /// How many there were.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More bytes than a transaction may hold.
    #[error("{bytes} bytes in one transaction, at most {limit} are allowed: store it in chunks")]
    TooLarge {
        /// How many there were.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The request makes no sense to any store (an empty key, a key written twice).
    #[error("not a valid request: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such lease (any more); nothing was changed.
    #[error("lease {lease} does not exist or has run out: grant a new one")]
    LeaseNotFound {
        /// The lease.
        lease: LeaseId,
    },
    /// Somebody else leads the election.
    #[error("{election} is held by {holder}: campaign again")]
    Held {
        /// The election.
        election: String,
        /// The candidate that leads it.
        holder: String,
    },
    /// The history asked for is no longer kept; list again and watch from there.
    #[error("history is kept from revision {oldest} on: list again")]
    Compacted {
        /// The oldest revision a watch can start after.
        oldest: Revision,
    },
    /// There is no room. The store works again by itself once there is.
    #[error("the store is full ({reason}): free space and it goes on by itself")]
    Full {
        /// What was full.
        reason: String,
        /// See [`StoreError::maybe_applied`].
        maybe_applied: bool,
    },
    /// Not now; try again.
    #[error("the store is not available ({reason}): try again")]
    Unavailable {
        /// Why.
        reason: String,
        /// See [`StoreError::maybe_applied`].
        maybe_applied: bool,
    },
    /// Another process has the store's file open.
    #[error("{path} is in use by another process: stop it, or give this one another instance name")]
    InUse {
        /// The file.
        path: String,
    },
    /// The store needs an operator: what it holds cannot be read, or it refuses our credentials.
    #[error("the store needs attention: {reason}")]
    Broken {
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// A stable word for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::TooManyOperations { .. } => "too_many_operations",
            Self::TooLarge { .. } => "too_large",
            Self::Invalid { .. } => "invalid",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::Held { .. } => "held",
            Self::Compacted { .. } => "compacted",
            Self::Full { .. } => "full",
            Self::Unavailable { .. } => "unavailable",
            Self::InUse { .. } => "in_use",
            Self::Broken { .. } => "broken",
        }
    }

    /// Whether the same call may succeed later without anybody changing the request.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. } | Self::Held { .. })
    }

    /// Whether a transaction that ended like this may have been carried out all the same (a deadline passed or
    /// a connection broke after it was sent). Guards make repeating it safe.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Full { maybe_applied, .. } | Self::Unavailable { maybe_applied, .. } => *maybe_applied,
            _ => false,
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into() }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), maybe_applied: false }
    }

    pub(crate) fn deadline(after: Duration, maybe_applied: bool) -> Self {
        Self::Unavailable { reason: format!("no answer within {} ms", after.as_millis()), maybe_applied }
    }
}

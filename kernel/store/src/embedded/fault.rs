//! What can go wrong with the file, and what that means to a caller.

use std::io;

use crate::StoreError;

/// Why the database has to be given up and opened again.
#[derive(Debug)]
pub(super) enum Fault {
    /// No room on the medium.
    Full(String),
    /// Reading or writing failed, or a redb database that failed before.
    Io(String),
    /// Another process has it.
    InUse,
    /// What is there cannot be understood.
    Corrupt(String),
}

impl Fault {
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }

    pub(super) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(error.to_string())
            }
            // How redb says that the file is not its own.
            io::ErrorKind::InvalidData => Self::Corrupt(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }

    /// What a caller is told.
    pub(super) fn into_error(self, maybe_applied: bool) -> StoreError {
        match self {
            Self::Full(reason) => StoreError::Full { reason, maybe_applied },
            Self::Io(reason) => StoreError::Unavailable { reason, maybe_applied },
            Self::InUse => StoreError::InUse { path: String::new() },
            Self::Corrupt(reason) => StoreError::Broken { reason },
        }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(e) => Self::io(&e),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                Self::Io("an earlier read or write failed".to_owned())
            }
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse,
            other => Self::Corrupt(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

//! What the masters share beside accounts: the settings that every host must agree on, and the secret of their TLS tickets.

use plenum_store::{StoreError, Txn};
use serde_json::Value;

use super::turn::Tries;
use super::{Directory, DirectoryError, Versioned};
use crate::records::{self, FORMAT, SettingsRecord, TicketRecord};

/// The largest settings in bytes.
const SETTINGS: usize = 256 * 1024;

impl Directory {
    /// The settings that every host must agree on, with their revision; `None` where nobody put any.
    pub(crate) async fn settings(&self) -> Result<Option<Versioned<Value>>, DirectoryError> {
        let held = self.get::<SettingsRecord>("settings").await?;
        Ok(held.map(|held| Versioned { record: held.record.settings, revision: held.revision }))
    }

    /// Exchanges the settings. With `expected` only those that are there at that revision (0: none).
    pub(crate) async fn put_settings(
        &self,
        settings: Value,
        expected: Option<u64>,
    ) -> Result<(), DirectoryError> {
        if !settings.is_object() {
            return Err(DirectoryError::Invalid("the settings are a JSON object".to_owned()));
        }
        let bytes = records::write("settings", &SettingsRecord { format: FORMAT, settings })?;
        if bytes.len() > SETTINGS {
            return Err(DirectoryError::Invalid(format!("the settings may have {SETTINGS} bytes")));
        }
        let txn = match expected {
            Some(0) => Txn::new().absent("settings"),
            Some(revision) => Txn::new().unchanged("settings", plenum_store::Revision(revision)),
            None => Txn::new(),
        };
        match self.store.commit(txn.put("settings", bytes)).await {
            Err(StoreError::Conflict { .. }) => Err(DirectoryError::Changed),
            other => other.map(|_| ()).map_err(Into::into),
        }
    }

    /// The 32 bytes from which the masters derive the keys of their TLS tickets: made once, the same from every identity.
    pub(crate) async fn ticket_secret(&self) -> Result<Vec<u8>, DirectoryError> {
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            if let Some(held) = self.look::<TicketRecord>("ticket").await? {
                return Ok(self.vault.open_sealed("ticket", &held.secret)?);
            }
            let secret = self.vault.seal("ticket", &rand::random::<[u8; 32]>())?;
            let bytes = records::write("ticket", &TicketRecord { format: FORMAT, secret })?;
            match self.store.commit(Txn::new().absent("ticket").put("ticket", bytes)).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

//! Publishing the policy: what components need of the records, signed, in the state folder. Each identity writes the same policy on its own
//! machine, as the records in its memory say; numbers only grow.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use plenum_base::files;
use plenum_base::policy::{Account, BasicCredential, FORMAT, Signed, Snapshot};
use plenum_base::service::Shutdown;
use plenum_store::Txn;

use super::turn::Tries;
use super::{Directory, DirectoryError};
use crate::records::{ClusterRecord, PolicyNumber, User};

/// How often it is looked whether something is left to publish.
const ROUND: Duration = Duration::from_secs(20);
/// The same after a failure: a policy that lags behind keeps new accounts out.
const RETRY: Duration = Duration::from_secs(1);

impl Directory {
    /// Publishes: whatever a crash left undone is in the policy afterwards.
    pub(crate) async fn publish(&self) -> Result<(), DirectoryError> {
        let known = self.number_on_disk();
        self.published.send_if_modified(|number| {
            let more = known > *number;
            *number = known.max(*number);
            more
        });
        self.mirror.reload(self.store.as_ref()).await?;
        let stored = self.mirror.get::<PolicyNumber>("policy")?.map_or(0, |held| held.number);
        if stored < known {
            // The store was brought back from a backup; what components have seen already is never published again under its number.
            let mut tries = Tries::default();
            loop {
                let turn = self.begin(&mut tries).await?;
                if self.finish(turn, Txn::new()).await? {
                    return Ok(());
                }
            }
        }
        self.publish_now()
    }

    /// The number of the policy that lies on disk, if this cluster signed it; else 0.
    fn number_on_disk(&self) -> u64 {
        let text = std::fs::read(self.places.policy()).ok();
        let signed = text.and_then(|text| serde_json::from_slice::<Signed>(&text).ok());
        let snapshot = signed.and_then(|signed| signed.open(&self.identity.roots()).ok());
        snapshot
            .filter(|snapshot| snapshot.cluster_id == self.cluster_id)
            .map_or(0, |snapshot| snapshot.number)
    }

    /// Publishes at a start. Where there is a policy already, one that cannot be written (a full disk) keeps nobody from
    /// logging in: the background task goes on trying.
    pub(crate) async fn publish_first(&self) -> Result<(), DirectoryError> {
        match self.publish().await {
            Err(error) if self.places.policy().exists() => {
                self.publish_later(&error);
                Ok(())
            }
            other => other,
        }
    }

    /// Leaves it to the background task.
    pub(super) fn publish_later(&self, error: &DirectoryError) {
        tracing::error!(%error, "the policy could not be published; trying again");
        self.unpublished.notify_one();
    }

    /// Builds from the records in memory, signs and writes; never an older one than is there.
    pub(super) fn publish_now(&self) -> Result<(), DirectoryError> {
        let _one = self.writing.lock();
        self.renew_own()?;
        let (users, number) = self.mirror.with_list::<User, PolicyNumber>("users/", "policy")?;
        let number = number.map_or(0, |held| held.number);
        if number < *self.published.borrow() {
            return Ok(());
        }
        let cluster = self.mirror.get::<ClusterRecord>("cluster")?.map(|held| held.map);
        let snapshot = Snapshot { cluster, ..self.snapshot(number, &users) };
        let signed = Signed::sign(&snapshot, &self.identity)?;
        let text = serde_json::to_vec(&signed).map_err(|e| DirectoryError::Failed(e.to_string()))?;
        let path = self.places.policy();
        files::replace(&path, &text, files::SECRET)
            .map_err(|e| DirectoryError::Failed(format!("{}: {e}", path.display())))?;
        self.published.send_replace(number);
        Ok(())
    }

    fn snapshot(&self, number: u64, users: &[User]) -> Snapshot {
        let account = |user: &User| Account { kind: user.kind, permissions: user.permissions.clone() };
        let basic = users.iter().filter_map(|user| {
            Some(BasicCredential { principal: user.uid.clone(), hash: user.secret.clone()? })
        });
        // A clock that was set back must not put the signature before its certificate.
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let earliest = seconds(self.identity.peer().not_before) + 1;
        Snapshot {
            format: FORMAT,
            number,
            cluster_id: self.cluster_id.clone(),
            issued_at: seconds(SystemTime::now()).max(earliest),
            jwks: self.signer.jwks(),
            accounts: users.iter().map(|user| (user.uid.clone(), account(user))).collect::<BTreeMap<_, _>>(),
            basic: basic.collect(),
            enforce: self.config.enforce_permissions,
            cluster: None,
        }
    }

    /// The published policy as it is on disk, once its number is above `after`; `None` when that takes longer than `wait`.
    pub(crate) async fn policy_after(
        &self,
        after: u64,
        wait: Duration,
    ) -> Result<Option<Vec<u8>>, DirectoryError> {
        let mut published = self.published.subscribe();
        let newer = tokio::time::timeout(wait, published.wait_for(|number| *number > after)).await;
        if !matches!(newer, Ok(Ok(_))) {
            return Ok(None);
        }
        let path = self.places.policy();
        let text =
            std::fs::read(&path).map_err(|e| DirectoryError::Failed(format!("{}: {e}", path.display())))?;
        Ok(Some(text))
    }

    /// Follows the records until `shutdown`.
    pub(crate) async fn follow(&self, shutdown: Shutdown) {
        self.mirror.follow(self.store.as_ref(), &shutdown).await;
    }

    /// Publishes what others changed and what a failure left unpublished, and renews identity's own certificate in time, until `shutdown`.
    pub(crate) async fn keep_published(&self, shutdown: Shutdown) {
        let mut changes = self.mirror.changes();
        let mut pause = ROUND;
        loop {
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = changes.changed(), if pause == ROUND => {}
                    // What just failed is not tried again at once.
                    () = self.unpublished.notified() => tokio::time::sleep(RETRY).await,
                }
            };
            if shutdown.until(wait).await.is_none() {
                return;
            }
            pause = match self.catch_up() {
                Ok(()) => ROUND,
                Err(error) => {
                    tracing::error!(%error, "certificate or policy could not be brought up to date; trying again");
                    RETRY
                }
            };
        }
    }

    fn catch_up(&self) -> Result<(), DirectoryError> {
        self.renew_own()?;
        let number = self.mirror.get::<PolicyNumber>("policy")?.map_or(0, |held| held.number);
        if number > *self.published.borrow() || !self.places.policy().exists() {
            self.publish_now()
        } else {
            Ok(())
        }
    }
}

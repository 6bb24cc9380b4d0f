//! Accounts: making, changing, removing, and what each may do.

use std::collections::BTreeMap;

use plenum_base::policy::AccountKind;
use plenum_store::{StoreError, Txn};

use super::turn::Tries;
use super::{Directory, DirectoryError, Versioned, now_seconds, on_conflict};
use crate::passwords::Refused;
use crate::records::{self, FORMAT, User};
use crate::tokens::is_public_key;

/// Shortest and longest password, in bytes.
const PASSWORD: std::ops::RangeInclusive<usize> = 5..=1024;
/// Longest description, in bytes.
const DESCRIPTION: usize = 4096;

/// An account to be made.
#[derive(Debug, Default)]
pub(crate) struct NewUser {
    pub(crate) description: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) public_key: Option<String>,
    /// A framework's basic secret: makes a service account.
    pub(crate) secret: Option<String>,
    pub(crate) provider: Option<(String, String)>,
    pub(crate) superuser: bool,
}

/// What is to be changed; what is `None` stays.
#[derive(Debug, Default)]
pub(crate) struct UserChange {
    pub(crate) description: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) public_key: Option<String>,
    pub(crate) secret: Option<String>,
}

/// Whether a uid can be used: 1 to 128 of letters, digits and `@ . _ + -`, beginning with a letter, digit or underscore.
pub(crate) fn valid_uid(uid: &str) -> bool {
    let first = uid.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = uid.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-".contains(&b));
    // The names that principals without an account have.
    first && rest && uid.len() <= 128 && uid != "anonymous"
}

fn user_key(uid: &str) -> String {
    format!("users/{uid}")
}

impl From<Refused> for DirectoryError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => {
                Self::Failed("too many passwords are being hashed at once; try again".to_owned())
            }
            Refused::Brake | Refused::Failed => Self::Failed("the password could not be hashed".to_owned()),
        }
    }
}

impl Directory {
    /// The account of `uid`.
    pub(crate) async fn user(&self, uid: &str) -> Result<Option<User>, DirectoryError> {
        if !valid_uid(uid) {
            return Ok(None);
        }
        self.look(&user_key(uid)).await
    }

    /// All accounts by uid.
    pub(crate) async fn users(&self) -> Result<Vec<User>, DirectoryError> {
        self.list("users/").await
    }

    async fn hash(&self, what: &str, secret: Option<&String>) -> Result<Option<String>, DirectoryError> {
        let Some(secret) = secret else { return Ok(None) };
        if !PASSWORD.contains(&secret.len()) {
            let (least, most) = (PASSWORD.start(), PASSWORD.end());
            return Err(DirectoryError::Invalid(format!("the {what} must have {least} to {most} bytes")));
        }
        Ok(Some(self.passwords.hash(secret).await?))
    }

    /// Makes an account. `Exists` if there is one.
    pub(crate) async fn create_user(
        &self,
        uid: &str,
        new: NewUser,
        creator: &str,
    ) -> Result<(), DirectoryError> {
        let key = user_key(uid);
        // Before any hashing: repeated requests of old clients are cheap.
        if self.user(uid).await?.is_some() {
            return Err(DirectoryError::Exists("user"));
        }
        check_texts(new.description.as_deref(), new.public_key.as_deref())?;
        let is_service = new.public_key.is_some() || new.secret.is_some();
        let local = is_service || new.password.is_some();
        let (provider_type, provider_id) = match new.provider {
            Some(provider) => provider,
            None if local => ("internal".to_owned(), String::new()),
            // What DC/OS' old clients make: an e-mail address whose owner logs in somewhere else.
            None => ("oidc".to_owned(), "https://dcos.auth0.com/".to_owned()),
        };
        let mut permissions = BTreeMap::new();
        if new.superuser {
            permissions.insert("dcos:superuser".to_owned(), vec!["full".to_owned()]);
        }
        let user = User {
            format: FORMAT,
            uid: uid.to_owned(),
            description: new.description.unwrap_or_default(),
            kind: if is_service { AccountKind::Service } else { AccountKind::User },
            provider_type,
            provider_id,
            password: self.hash("password", new.password.as_ref()).await?,
            public_key: new.public_key,
            secret: self.hash("secret", new.secret.as_ref()).await?,
            permissions,
            created: now_seconds(),
            creator: creator.to_owned(),
        };
        let mut tries = Tries::default();
        loop {
            let turn = self.begin(&mut tries).await?;
            let txn = Txn::new().absent(key.as_str()).put(key.as_str(), records::write(&key, &user)?);
            if on_conflict(self.finish(turn, txn).await, &key, DirectoryError::Exists("user"))? {
                return Ok(());
            }
        }
    }

    /// Changes an account.
    pub(crate) async fn update_user(&self, uid: &str, change: UserChange) -> Result<(), DirectoryError> {
        check_texts(change.description.as_deref(), change.public_key.as_deref())?;
        let password = self.hash("password", change.password.as_ref()).await?;
        let secret = self.hash("secret", change.secret.as_ref()).await?;
        let wants_service = change.public_key.is_some() || secret.is_some();
        self.edit_user(uid, |user| {
            let is_service = user.kind == AccountKind::Service;
            if wants_service != is_service && (wants_service || password.is_some()) {
                let rule =
                    "a service has a public_key or a secret, a user a password; they cannot be exchanged";
                return Err(DirectoryError::Invalid(rule.to_owned()));
            }
            if user.is_remote() && password.is_some() {
                return Err(DirectoryError::Invalid(
                    "this user logs in elsewhere and has no password here".to_owned(),
                ));
            }
            if let Some(description) = &change.description {
                user.description.clone_from(description);
            }
            user.password = password.clone().or(user.password.take());
            user.secret = secret.clone().or(user.secret.take());
            user.public_key = change.public_key.clone().or(user.public_key.take());
            Ok(())
        })
        .await
    }

    /// Sets the password of a user who has none or another one, whatever it was.
    pub(crate) async fn set_password(&self, uid: &str, password: &str) -> Result<(), DirectoryError> {
        let hash = self.passwords.hash(password).await?;
        self.edit_user(uid, |user| {
            user.password = Some(hash.clone());
            Ok(())
        })
        .await
    }

    /// Grants (`true`) or takes away an action on a resource. `Exists` and `Missing` tell that it was so already.
    pub(crate) async fn set_permission(
        &self,
        uid: &str,
        resource: &str,
        action: &str,
        granted: bool,
    ) -> Result<(), DirectoryError> {
        let guarded = !granted && resource == "dcos:superuser" && action == "full";
        self.edit_user_if(uid, guarded, |user| {
            let actions = user.permissions.entry(resource.to_owned()).or_default();
            match (actions.iter().position(|held| held == action), granted) {
                (Some(_), true) => return Err(DirectoryError::Exists("permission")),
                (None, false) => return Err(DirectoryError::Missing("permission")),
                (None, true) => actions.push(action.to_owned()),
                (Some(at), false) => {
                    actions.remove(at);
                }
            }
            user.permissions.retain(|_, actions| !actions.is_empty());
            Ok(())
        })
        .await
    }

    /// Reads, edits and writes back; tries again when somebody else was faster.
    async fn edit_user(
        &self,
        uid: &str,
        edit: impl Fn(&mut User) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        self.edit_user_if(uid, false, edit).await
    }

    /// As `edit_user`; with `keep_one` not where it is the last one who may administer the cluster.
    async fn edit_user_if(
        &self,
        uid: &str,
        keep_one: bool,
        edit: impl Fn(&mut User) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let key = user_key(uid);
        let mut tries = Tries::default();
        loop {
            let turn = self.begin(&mut tries).await?;
            let Versioned { mut record, revision } =
                self.get::<User>(&key).await?.ok_or(DirectoryError::Missing("user"))?;
            edit(&mut record)?;
            if keep_one {
                self.check_not_last(uid).await?;
            }
            let txn = Txn::new()
                .unchanged(key.as_str(), revision)
                .put(key.as_str(), records::write(&key, &record)?);
            match self.finish(turn, txn).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(DirectoryError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes an account. Its tokens end with it.
    pub(crate) async fn delete_user(&self, uid: &str) -> Result<(), DirectoryError> {
        let key = user_key(uid);
        let mut tries = Tries::default();
        loop {
            let turn = self.begin(&mut tries).await?;
            self.get::<User>(&key).await?.ok_or(DirectoryError::Missing("user"))?;
            self.check_not_last(uid).await?;
            let txn = Txn::new().exists(key.as_str()).delete(key.as_str());
            if on_conflict(self.finish(turn, txn).await, &key, DirectoryError::Missing("user"))? {
                return Ok(());
            }
        }
    }

    async fn check_not_last(&self, uid: &str) -> Result<(), DirectoryError> {
        let users = self.users().await?;
        let is_one = users.iter().any(|user| user.uid == uid && user.is_superuser());
        let another = users.iter().any(|user| user.uid != uid && user.is_superuser());
        if is_one && !another { Err(DirectoryError::LastSuperuser) } else { Ok(()) }
    }
}

fn check_texts(description: Option<&str>, public_key: Option<&str>) -> Result<(), DirectoryError> {
    if description.is_some_and(|text| text.len() > DESCRIPTION) {
        return Err(DirectoryError::Invalid(format!("the description may have {DESCRIPTION} bytes")));
    }
    if public_key.is_some_and(|pem| !is_public_key(pem)) {
        return Err(DirectoryError::Invalid("public_key is not an RSA public key in PEM".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::valid_uid;

    #[test]
    fn uids_are_checked() {
        for good in ["admin", "a@b.example", "kafka-principal", "_x", "user+tag@x", &"a".repeat(128)] {
            assert!(valid_uid(good), "{good}");
        }
        for bad in
            ["", "-x", ".", "..", "a/b", "a b", "ä", "plenum://a/b/c", "anonymous", "a\n", &"a".repeat(129)]
        {
            assert!(!valid_uid(bad), "{bad}");
        }
    }
}

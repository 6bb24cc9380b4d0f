//! What is asked of etcd's members one by one: lists, votes, alarms, upkeep. Every call has a deadline; the certificate is the role's own.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Certificate, Client, CompactionOptions, ConnectOptions, Identity, Member,
    MemberAddOptions, Permission, PermissionType, RoleRevokePermissionOptions, TlsOptions, UserAddOptions,
};
use tokio::time::timeout;

use crate::config::{Config, client_url};
use crate::join::Listed;
use crate::users::{ROOT, Right, Span, Step, Users};

/// How long an ordinary call may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// Changing the members and cleaning up takes longer.
const UPKEEP: Duration = Duration::from_secs(30);

/// Why a member did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("etcd at {url}: {reason}")]
pub(crate) struct AdminError {
    url: String,
    reason: String,
}

impl AdminError {
    /// Whether etcd said this.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.reason.contains(text)
    }
}

/// How a member is, by its own account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct How {
    pub(crate) id: u64,
    pub(crate) cluster: u64,
    /// 0: it knows none.
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) learner: bool,
    pub(crate) revision: i64,
    pub(crate) raft_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) size: u64,
    pub(crate) in_use: u64,
}

/// A member to talk to.
#[derive(Clone)]
pub(crate) struct Admin {
    url: String,
    client: Client,
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn listed(member: &Member) -> Listed {
    Listed {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        learner: member.is_learner(),
    }
}

impl Admin {
    /// Prepares to talk to the member of a master. Nothing is sent yet; certificates are read now.
    pub(crate) async fn at(config: &Config, address: IpAddr) -> Result<Self, AdminError> {
        let files = &config.component;
        Self::connect(client_url(address), &files.ca, &files.certificate, &files.key).await
    }

    pub(crate) async fn connect(
        url: String,
        ca: &Path,
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, AdminError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|e| AdminError { url: url.clone(), reason: format!("{}: {e}", path.display()) })
        };
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(ca)?))
            .identity(Identity::from_pem(read(certificate)?, read(key)?));
        let options = ConnectOptions::new()
            .with_connect_timeout(DEADLINE)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(3))
            .with_tls(tls);
        match Client::connect([&url], Some(options)).await {
            Ok(client) => Ok(Self { url, client }),
            Err(e) => Err(AdminError { url, reason: e.to_string() }),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, AdminError> {
        let reason = match timeout(deadline, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(etcd_client::Error::GRpcStatus(status))) => status.message().to_owned(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {} s", deadline.as_secs()),
        };
        Err(AdminError { url: self.url.clone(), reason })
    }

    /// How the member is.
    pub(crate) async fn how(&self) -> Result<How, AdminError> {
        let mut client = self.client.clone();
        let status = self.call(DEADLINE, client.status()).await?;
        let header = status.header();
        Ok(How {
            id: header.map_or(0, |header| header.member_id()),
            cluster: header.map_or(0, |header| header.cluster_id()),
            leader: status.leader(),
            term: status.raft_term(),
            learner: status.is_learner(),
            revision: header.map_or(0, |header| header.revision()),
            raft_index: status.raft_index(),
            applied_index: status.raft_applied_index(),
            size: unsigned(status.db_size()),
            in_use: unsigned(status.raft_used_db_size()),
        })
    }

    /// The members, as this one knows them.
    pub(crate) async fn members(&self) -> Result<Vec<Listed>, AdminError> {
        let mut client = self.client.clone();
        let answer = self.call(DEADLINE, client.member_list()).await?;
        Ok(answer.members().iter().map(listed).collect())
    }

    pub(crate) async fn add_learner(&self, peer_url: &str) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        let options = MemberAddOptions::new().with_is_learner();
        self.call(UPKEEP, client.member_add([peer_url], Some(options))).await.map(|_| ())
    }

    pub(crate) async fn remove(&self, id: u64) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        self.call(UPKEEP, client.member_remove(id)).await.map(|_| ())
    }

    pub(crate) async fn promote(&self, id: u64) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        self.call(DEADLINE, client.member_promote(id)).await.map(|_| ())
    }

    pub(crate) async fn move_leader(&self, to: u64) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        self.call(DEADLINE, client.move_leader(to)).await.map(|_| ())
    }

    /// Whether any member ran out of space, and whether any found its data corrupt.
    pub(crate) async fn alarms(&self) -> Result<Vec<(u64, &'static str)>, AdminError> {
        let mut client = self.client.clone();
        let answer = self.call(DEADLINE, client.alarm(AlarmAction::Get, AlarmType::None, None)).await?;
        let word = |alarm| match alarm {
            AlarmType::Nospace => "NOSPACE",
            AlarmType::Corrupt => "CORRUPT",
            AlarmType::None => "NONE",
        };
        Ok(answer.alarms().iter().map(|alarm| (alarm.member_id(), word(alarm.alarm()))).collect())
    }

    pub(crate) async fn disarm_no_space(&self, member: u64) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        let mut options = etcd_client::AlarmOptions::new();
        options.with_member(member);
        let disarm = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options));
        self.call(DEADLINE, disarm).await.map(|_| ())
    }

    pub(crate) async fn compact(&self, revision: i64) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        let options = CompactionOptions::new().with_physical();
        match self.call(UPKEEP, client.compact(revision, Some(options))).await {
            Err(e) if e.says("has been compacted") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(crate) async fn defragment(&self) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        self.call(UPKEEP, client.defragment()).await.map(|_| ())
    }

    /// The users and the roles there are.
    pub(crate) async fn users(&self) -> Result<Users, AdminError> {
        let mut client = self.client.clone();
        let mut all = Users::default();
        let names = self.call(DEADLINE, client.user_list()).await?;
        for name in names.users() {
            let user = self.call(DEADLINE, client.user_get(name.as_str())).await?;
            all.users.insert(name.clone(), user.roles().iter().cloned().collect());
        }
        let names = self.call(DEADLINE, client.role_list()).await?;
        for name in names.roles() {
            let role = self.call(DEADLINE, client.role_get(name.as_str())).await?;
            all.roles.insert(name.clone(), role.permissions().iter().map(right).collect());
        }
        Ok(all)
    }

    /// Makes one change. One that was made already, as by another caretaker at the same time, is fine.
    pub(crate) async fn change_users(&self, step: &Step) -> Result<(), AdminError> {
        let mut client = self.client.clone();
        let done = match step {
            Step::AddRole(role) => self.call(DEADLINE, client.role_add(role.as_str())).await.map(drop),
            Step::Grant(role, span, right) => {
                let grant = client.role_grant_permission(role.as_str(), permission(span, *right));
                self.call(DEADLINE, grant).await.map(drop)
            }
            Step::Revoke(role, span) => {
                let end = (!span.end.is_empty())
                    .then(|| RoleRevokePermissionOptions::new().with_range_end(span.end.clone()));
                let revoke = client.role_revoke_permission(role.as_str(), span.key.clone(), end);
                self.call(DEADLINE, revoke).await.map(drop)
            }
            Step::AddUser(user) => {
                let options = Some(UserAddOptions::new().with_no_pwd());
                self.call(DEADLINE, client.user_add(user.as_str(), "", options)).await.map(drop)
            }
            Step::Give { user, role } => {
                self.call(DEADLINE, client.user_grant_role(user.as_str(), role.as_str())).await.map(drop)
            }
            Step::Take { user, role } => {
                self.call(DEADLINE, client.user_revoke_role(user.as_str(), role.as_str())).await.map(drop)
            }
            Step::Enforce => self.call(DEADLINE, client.auth_enable()).await.map(drop),
        };
        match done {
            Err(error) if DONE.iter().any(|said| error.says(said)) => Ok(()),
            other => other,
        }
    }

    /// Whether etcd goes by its users. (etcd 3.4 says so only to somebody who tries a password.)
    pub(crate) async fn users_enforced(&self) -> Result<bool, AdminError> {
        let mut client = self.client.auth_client();
        match self.call(DEADLINE, client.authenticate(ROOT.to_owned(), String::new())).await {
            Ok(_) => Ok(true),
            Err(error) if error.says("authentication is not enabled") => Ok(false),
            Err(error) if error.says("authentication failed") => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What etcd says to a change that was made before.
const DONE: [&str; 4] =
    ["already exists", "is not granted to the", "is already enabled", "is already granted"];

fn right(permission: &Permission) -> (Span, Right) {
    let right = match permission.get_type() {
        kind if kind == PermissionType::Read as i32 => Right::Read,
        kind if kind == PermissionType::Write as i32 => Right::Write,
        _ => Right::ReadWrite,
    };
    (Span { key: permission.key().to_vec(), end: permission.range_end().to_vec() }, right)
}

fn permission(span: &Span, right: Right) -> Permission {
    let kind = match right {
        Right::Read => PermissionType::Read,
        Right::Write => PermissionType::Write,
        Right::ReadWrite => PermissionType::Readwrite,
    };
    let permission = Permission::new(kind, span.key.clone());
    if span.end.is_empty() { permission } else { permission.with_range_end(span.end.clone()) }
}

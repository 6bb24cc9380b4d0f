//! How the member and its cluster are: `GET /v1/status`. What is wrong is said in sentences that name the remedy.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::join_all;
use plenum_base::auth::OnlyComponent;
use plenum_base::component::Component;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::Config;
use crate::admin::{Admin, AdminError, How};
use crate::granting::enforced;
use crate::join::Listed;

/// How long a member may take to say how it is before it counts as unhealthy.
const ANSWER: Duration = Duration::from_millis(1500);
/// A member that is so many entries behind is told of.
const LAG: u64 = 5000;
/// A disk that takes so long for a write makes etcd change its leader.
const SLOW: f64 = 0.1;
/// Certificates live a day, and are renewed after half of it.
const DAY: f64 = 86_400.0;

/// What the member is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nobody that could let it in answers.
    #[default]
    Waiting,
    /// It has no vote yet.
    Joining,
    /// etcd is coming up, or has no leader.
    Starting,
    /// It votes, and there is a leader.
    Running,
    /// It was taken out of the cluster.
    Removed,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The host's name.
    pub name: String,
    /// etcd's id, in hexadecimal.
    pub id: String,
    /// Where clients reach it.
    pub url: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Whether it answers and knows a leader.
    pub healthy: bool,
    /// How many entries it is behind the leader.
    pub lag: u64,
    /// Bytes of its data.
    pub db_size: u64,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The answer of `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The member's name.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
    /// In words, unless it is simply running.
    pub doing: String,
    /// Its id in hexadecimal; empty while etcd does not answer.
    pub member: String,
    /// The name of etcd's leader.
    pub leader: Option<String>,
    /// The raft term.
    pub term: u64,
    /// Bytes of its data.
    pub db_size: u64,
    /// Bytes of that in use.
    pub db_in_use: u64,
    /// Bytes the data may take.
    pub quota: u64,
    /// Alarms, as `NAME at MEMBER`.
    pub alarms: Vec<String>,
    /// Every member of the cluster.
    pub members: Vec<MemberStatus>,
    /// 99 of 100 writes of the last while were on this member's disk within so many milliseconds.
    pub fsync_milliseconds: Option<f64>,
    /// Days until the member's certificate ends.
    pub certificate_days: f64,
    /// Whether etcd holds each component to its own records.
    #[serde(default)]
    pub users: bool,
    /// Why not yet, where this is known: at etcd's leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_wait: Option<String>,
    /// What is wrong, and what to do.
    pub problems: Vec<String>,
    /// What works and could be better, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What the member's parts share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) component: Component,
    now: parking::Slot,
    own: AsyncMutex<Option<(Stamp, Admin)>>,
}

/// Which certificate a connection shows: the component's count of exchanges, and when the file was written, for on masters identity also
/// renews it there.
type Stamp = (u64, Option<SystemTime>);

/// The little that changes often.
mod parking {
    use std::sync::Mutex;

    use super::Phase;

    #[derive(Default)]
    pub(super) struct Now {
        pub(super) phase: Phase,
        pub(super) doing: String,
        pub(super) fsync: Option<f64>,
        pub(super) trouble: Option<String>,
        pub(super) users: bool,
        pub(super) users_wait: Option<String>,
    }

    #[derive(Default)]
    pub(super) struct Slot(Mutex<Now>);

    impl Slot {
        /// Nothing panics while it is held; should it all the same, what is there is still whole.
        pub(super) fn with<T>(&self, f: impl FnOnce(&mut Now) -> T) -> T {
            f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        }
    }
}

impl Shared {
    pub(crate) fn new(config: Config, component: Component) -> Self {
        Self { config, component, now: parking::Slot::default(), own: AsyncMutex::new(None) }
    }

    /// Notes what the member is doing.
    pub(crate) fn say(&self, phase: Phase, doing: &str) {
        let changed = self.now.with(|now| {
            let changed = now.phase != phase || now.doing != doing;
            now.phase = phase;
            doing.clone_into(&mut now.doing);
            changed
        });
        if changed {
            tracing::info!(?phase, doing, "the member of etcd");
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.now.with(|now| now.phase)
    }

    pub(crate) fn set_fsync(&self, seconds: Option<f64>) {
        self.now.with(|now| now.fsync = seconds.or(now.fsync));
    }

    /// Notes what the caretaker failed to do.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        self.now.with(|now| now.trouble = trouble);
    }

    /// Whether etcd is known to go by its users.
    pub(crate) fn users(&self) -> bool {
        self.now.with(|now| now.users)
    }

    /// Notes that it does.
    pub(crate) fn set_users(&self) {
        self.now.with(|now| (now.users, now.users_wait) = (true, None));
    }

    /// Notes why it does not yet.
    pub(crate) fn set_users_wait(&self, reason: Option<String>) {
        self.now.with(|now| now.users_wait = reason);
    }

    /// The member here, over a connection that is kept until the certificate changes.
    pub(crate) async fn own(&self) -> Result<Admin, AdminError> {
        let generation = *self.component.identity.changes().borrow();
        let written = std::fs::metadata(&self.config.component.certificate).and_then(|file| file.modified());
        let stamp = (generation, written.ok());
        let mut own = self.own.lock().await;
        if let Some((of, admin)) = &*own
            && *of == stamp
        {
            return Ok(admin.clone());
        }
        let admin = Admin::at(&self.config, self.config.address).await?;
        *own = Some((stamp, admin.clone()));
        Ok(admin)
    }
}

/// Asks every member how it is, the one here over its own connection.
pub(crate) async fn ask_all(config: &Config, listed: Vec<Listed>) -> Vec<(Listed, Result<How, String>)> {
    let files = &config.component;
    join_all(listed.into_iter().map(|member| async move {
        let Some(url) = member.client_urls.first().cloned() else {
            return (member, Err("it was added, but has not started yet".to_owned()));
        };
        let asked =
            async { Admin::connect(url, &files.ca, &files.certificate, &files.key).await?.how().await };
        let how = match timeout(ANSWER, asked).await {
            Ok(how) => how.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {} ms", ANSWER.as_millis())),
        };
        (member, how)
    }))
    .await
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let users = get(crate::granting::answer);
    Router::new().route("/v1/status", get(answer)).route("/v1/users", users).with_state(shared)
}

async fn answer(_: OnlyComponent, State(shared): State<Arc<Shared>>) -> Json<Status> {
    Json(gather(&shared).await)
}

async fn gather(shared: &Shared) -> Status {
    let config = &shared.config;
    let peer = shared.component.identity.peer();
    let left = peer.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let mut status = shared.now.with(|now| Status {
        phase: now.phase,
        doing: now.doing.clone(),
        fsync_milliseconds: now.fsync.map(|seconds| seconds * 1000.0),
        problems: now.trouble.iter().cloned().collect(),
        ..Status::default()
    });
    status.name.clone_from(&config.name);
    status.quota = config.quota_bytes();
    status.certificate_days = left.as_secs_f64() / DAY;
    let asked = async {
        let own = shared.own().await?;
        let how = own.how().await?;
        let listed = own.members().await?;
        let alarms = own.alarms().await;
        if let Err(error) = enforced(shared, &own).await {
            tracing::debug!(%error, "etcd does not say whether it goes by its users");
        }
        Ok::<_, AdminError>((how, listed, alarms))
    };
    match asked.await {
        Ok((how, listed, alarms)) => {
            let all = ask_all(config, listed).await;
            fill(&mut status, &how, &all);
            if let Ok(alarms) = alarms {
                status.alarms =
                    alarms.iter().map(|(id, word)| format!("{word} at {}", named(&all, *id))).collect();
            }
        }
        Err(error) if status.phase == Phase::Removed => tracing::trace!(%error, "as expected"),
        Err(error) => status.problems.push(format!("the member here does not answer: {error}; see its log")),
    }
    (status.users, status.users_wait) = shared.now.with(|now| (now.users, now.users_wait.clone()));
    let found = problems(&status);
    status.problems.extend(found);
    status.warnings = warnings(&status);
    status
}

fn named(all: &[(Listed, Result<How, String>)], id: u64) -> String {
    let found = all.iter().find(|(member, _)| member.id == id);
    found.map_or_else(|| format!("{id:x}"), |(member, _)| member.name.clone())
}

fn fill(status: &mut Status, own: &How, all: &[(Listed, Result<How, String>)]) {
    status.member = format!("{:x}", own.id);
    status.leader = (own.leader != 0).then(|| named(all, own.leader));
    status.term = own.term;
    status.db_size = own.size;
    status.db_in_use = own.in_use;
    let newest =
        all.iter().filter_map(|(_, how)| how.as_ref().ok()).map(|how| how.raft_index).max().unwrap_or(0);
    status.members = all
        .iter()
        .map(|(member, how)| MemberStatus {
            name: member.name.clone(),
            id: format!("{:x}", member.id),
            url: member.client_urls.first().cloned().unwrap_or_default(),
            votes: !member.learner,
            healthy: how.as_ref().is_ok_and(|how| how.leader != 0),
            lag: how.as_ref().map_or(0, |how| newest.saturating_sub(how.applied_index)),
            db_size: how.as_ref().map_or(0, |how| how.size),
            reason: match how {
                Ok(how) if how.leader == 0 => "it knows no leader".to_owned(),
                Ok(_) => String::new(),
                Err(reason) => reason.clone(),
            },
        })
        .collect();
}

/// What is wrong, by what the status shows. Pure.
fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    let voters = status.members.iter().filter(|member| member.votes);
    let (all, healthy) =
        voters.fold((0_usize, 0_usize), |(all, healthy), m| (all + 1, healthy + usize::from(m.healthy)));
    if status.leader.is_none() && !status.member.is_empty() {
        problems.push(format!(
            "etcd has no leader: {healthy} of {all} members are well, and more than half are needed; bring the other masters back, or, if \
             they are lost, run `plenum store recover` on one master that is left"
        ));
    }
    for member in status.members.iter().filter(|member| !member.healthy) {
        let (name, reason) = (&member.name, &member.reason);
        let name = if name.is_empty() { &member.id } else { name };
        problems.push(format!(
            "the member {name} is not well ({reason}): bring its host back, or replace it with `plenum node replace {name}`"
        ));
    }
    for member in status.members.iter().filter(|member| member.healthy && member.lag > LAG) {
        problems.push(format!(
            "the member {} is {} changes behind: look at its disk and its network",
            member.name, member.lag
        ));
    }
    let full = status.quota > 0 && status.db_in_use > status.quota / 10 * 8;
    for alarm in &status.alarms {
        problems.push(match alarm.strip_prefix("NOSPACE at ") {
            Some(_) => format!(
                "etcd refuses writes ({alarm}): it is being cleaned up, which takes a minute; if that does not help, raise quota_mebibytes \
                 of the role etcd on every master"
            ),
            None => format!("etcd's data is damaged ({alarm}): stop that member, delete its data, start it again"),
        });
    }
    if full && status.alarms.is_empty() {
        problems.push(format!(
            "etcd's data uses {} of {} MiB: raise quota_mebibytes of the role etcd on every master before it is full",
            status.db_in_use / 1024 / 1024,
            status.quota / 1024 / 1024
        ));
    }
    if status.certificate_days < 0.25 {
        problems.push(format!(
            "the certificate of {} ends in {:.1} hours and was not renewed: see whether identity runs on the masters",
            status.name,
            status.certificate_days * 24.0
        ));
    }
    problems
}

/// What works, and could be better. Pure.
fn warnings(status: &Status) -> Vec<String> {
    let mut warnings = Vec::new();
    let all = status.members.iter().filter(|member| member.votes).count();
    if all > 1 && all.is_multiple_of(2) {
        warnings
            .push(format!("{all} members bear no more failures than {}: add or remove a master", all - 1));
    }
    if let Some(slow) = status.fsync_milliseconds.filter(|ms| *ms > SLOW * 1000.0) {
        warnings.push(format!(
            "the disk of {} takes {slow:.0} ms for a write, which makes etcd slow: use a faster disk, or move other load away",
            status.name
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, healthy: bool) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            id: "1".to_owned(),
            url: String::new(),
            votes: true,
            healthy,
            lag: 0,
            db_size: 0,
            reason: String::new(),
        }
    }

    fn good() -> Status {
        Status {
            name: "a".to_owned(),
            phase: Phase::Running,
            member: "1".to_owned(),
            leader: Some("a".to_owned()),
            quota: 100,
            certificate_days: 0.9,
            members: vec![member("a", true), member("b", true), member("c", true)],
            ..Status::default()
        }
    }

    #[test]
    fn every_problem_names_its_remedy() {
        assert_eq!(problems(&good()), Vec::<String>::new());
        let down = vec![member("a", true), member("b", false), member("c", true)];
        let behind = vec![MemberStatus { lag: 6000, ..member("a", true) }];
        let cases = [
            (Status { leader: None, ..good() }, "plenum store recover"),
            (Status { members: down, ..good() }, "plenum node replace b"),
            (Status { members: behind, ..good() }, "6000 changes behind"),
            (Status { alarms: vec!["NOSPACE at b".to_owned()], ..good() }, "being cleaned up"),
            (
                Status { alarms: vec!["NOSPACE at b".to_owned()], db_in_use: 90, ..good() },
                "raise quota_mebibytes",
            ),
            (Status { alarms: vec!["CORRUPT at b".to_owned()], ..good() }, "delete its data"),
            (Status { db_in_use: 90, ..good() }, "before it is full"),
            (Status { certificate_days: 0.1, ..good() }, "ends in 2.4 hours"),
        ];
        for (status, text) in cases {
            let found = problems(&status);
            assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
        }
        let two = vec![member("a", true), member("b", true)];
        let cases = [
            (Status { members: two, ..good() }, "add or remove a master"),
            (Status { fsync_milliseconds: Some(250.0), ..good() }, "takes 250 ms"),
        ];
        for (status, text) in cases {
            let found = warnings(&status);
            assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
            assert_eq!(problems(&status), Vec::<String>::new(), "it works");
        }
        assert_eq!(warnings(&good()), Vec::<String>::new());
    }
}

//! The member's life: the shell around [`crate::join`]. It starts etcd, brings it into the cluster, notices that it was taken out, and
//! begins again whenever etcd ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use plenum_base::cluster::ClusterMap;
use plenum_base::component::{Component, ServeError};
use plenum_base::service::Shutdown;
use plenum_base::tls::TlsError;
use tokio::time::{Instant, sleep, timeout};

use crate::admin::{Admin, AdminError, How};
use crate::folder::{Folder, Note};
use crate::join::{Here, Listed, Step, decide};
use crate::process::{Begin, Running};
use crate::status::{self, Phase, Shared};
use crate::{Config, caretaker, recover};

/// How long the others may take to say who is in the cluster, before this member starts without having heard.
const ASK: Duration = Duration::from_millis(1200);
/// Pause between steps that did not help.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the running member is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A member that has known no leader for so long asks whether the cluster goes on without it.
const ORPHAN: Duration = Duration::from_secs(5);
/// etcd that ends sooner than this, without ever having been well, has failed to start.
const EARLY: Duration = Duration::from_secs(30);
/// Failed starts in a row after which the data is fetched anew from the others.
const FAILURES: u32 = 3;

/// Why the role ends.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The status cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Files, or the program.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Two of them on one folder.
    #[error("another process cares for the member in {0}: stop it first")]
    InUse(String),
}

/// Runs the member and its caretaker until `shutdown`.
///
/// # Errors
/// [`MemberError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), MemberError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let folder = Folder::new(component.data());
    let Some(_lock) = folder.lock()? else {
        return Err(MemberError::InUse(component.data().display().to_string()));
    };
    let own = shutdown.child();
    let shared = Arc::new(Shared::new(config, component.clone()));
    let router = component.authenticated(status::router(Arc::clone(&shared)));
    let caring = tokio::spawn(caretaker::run(Arc::clone(&shared), own.clone()));
    let keeping = Keeper { shared, folder, shutdown: own.clone(), failures: 0 };
    let ended = tokio::select! {
        served = component.serve(router) => served.map_err(MemberError::from),
        kept = keeping.run() => kept,
    };
    own.trigger();
    let _ = caring.await;
    ended
}

/// What a member of the cluster with a leader told.
pub(crate) struct Cluster {
    pub(crate) admin: Admin,
    pub(crate) listed: Vec<Listed>,
}

/// Asks `addresses` who is in the cluster: the best informed of those that have a vote and know a leader.
pub(crate) async fn ask(config: &Config, addresses: &[IpAddr], within: Duration) -> Option<Cluster> {
    let each = addresses.iter().map(|address| async move {
        let asked = async {
            let admin = Admin::at(config, *address).await?;
            let how = admin.how().await?;
            let listed = admin.members().await?;
            Ok::<_, AdminError>((how, Cluster { admin, listed }))
        };
        match timeout(within, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a member was asked in vain");
                None
            }
            Err(_) => None,
        }
    });
    let answers = join_all(each).await.into_iter().flatten();
    let fit = answers.filter(|(how, _)| how.leader != 0 && !how.learner);
    // The leader before others: a promotion that a member only passes on to it is refused there for want of a user.
    fit.max_by_key(|(how, _)| (how.term, how.leader == how.id, how.raft_index)).map(|(_, cluster)| cluster)
}

/// Where the other members may be: the masters, and those that were members when this one last ran.
pub(crate) fn others(config: &Config, masters: &[IpAddr], note: Option<&Note>) -> Vec<IpAddr> {
    let mut all = masters.to_vec();
    let noted = note.iter().flat_map(|note| &note.members).flat_map(|member| &member.client_urls);
    all.extend(noted.filter_map(|url| address(url)));
    all.sort();
    all.dedup();
    all.retain(|address| *address != config.address);
    all
}

/// The address in a member's URL.
pub(crate) fn address(url: &str) -> Option<IpAddr> {
    let host = url.strip_prefix("https://")?;
    host.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip())
}

/// Whether the map wants this master. Without a map nothing speaks against it.
fn is_wanted(map: Option<&ClusterMap>, name: &str, voted: bool) -> bool {
    map.is_none_or(|map| {
        let leaving = map.leaving.iter().any(|other| other == name);
        // One that joins is in the map only after it has its vote.
        !leaving && (map.find(name).is_some() || !voted)
    })
}

/// Why etcd is not running any more.
enum Ended {
    Shutdown,
    /// It ended by itself; whether it had been well.
    Itself(bool),
    /// Somebody asks for [`recover()`](crate::recover()), or the cluster goes on without this member.
    Stopped,
}

struct Keeper {
    shared: Arc<Shared>,
    folder: Folder,
    shutdown: Shutdown,
    failures: u32,
}

impl Keeper {
    async fn run(mut self) -> Result<(), MemberError> {
        while !self.shutdown.is_triggered() {
            let shutdown = self.shutdown.clone();
            if let Some(forced) = recover::requested(&self.folder) {
                let config = &self.shared.config;
                let done = recover::perform(config, &self.folder, &self.others(), forced).await;
                recover::answer(&self.folder, &done)?;
            }
            let Some(step) = shutdown.until(self.step()).await else { return Ok(()) };
            let pause = match step {
                Ok(begin) => match begin {
                    Some(begin) => self.member(&begin).await?,
                    None => Duration::from_millis(50),
                },
                Err(Pause(text)) => {
                    self.shared.say(Phase::Waiting, &text);
                    PAUSE
                }
            };
            shutdown.sleep(pause).await;
        }
        Ok(())
    }

    fn others(&self) -> Vec<IpAddr> {
        let masters = self.shared.component.masters.list();
        others(&self.shared.config, &masters, self.folder.note().as_ref())
    }

    fn wanted(&self) -> bool {
        let map = self.shared.component.masters.map();
        let name = &self.shared.config.name;
        let voted = self
            .folder
            .note()
            .is_none_or(|note| note.members.iter().any(|member| member.id == note.id && !member.learner));
        is_wanted(map.as_deref(), name, voted)
    }

    /// One step: how etcd is to be started; nothing, when something else was done.
    async fn step(&mut self) -> Result<Option<Begin>, Pause> {
        let config = &self.shared.config;
        let others = self.others();
        if self.folder.is_out() && self.shared.component.masters.map().is_some() && self.wanted() {
            self.folder.set_out(false)?;
        }
        let here = Here {
            name: config.name.clone(),
            peer_url: config.peer_url(),
            data: self.folder.has_data(),
            id: self.folder.note().map(|note| note.id),
            first: config.bootstrap && others.is_empty(),
            unwanted: self.folder.is_out(),
            broken: self.failures >= FAILURES,
        };
        let cluster = ask(config, &others, ASK).await;
        let step = decide(&here, cluster.as_ref().map(|cluster| cluster.listed.as_slice()));
        if step != Step::Wait && step != Step::StayOut {
            tracing::info!(?step, "the member's next step");
        }
        match (step, &cluster) {
            (Step::Resume, _) => Ok(Some(Begin::Resume)),
            (Step::Begin, _) => Ok(Some(Begin::New)),
            (Step::Enter(members), _) => Ok(Some(Begin::Existing(members))),
            (Step::Add, Some(cluster)) => {
                self.shared.say(Phase::Joining, "asking to be let into the cluster");
                cluster.admin.add_learner(&config.peer_url()).await?;
                Ok(None)
            }
            (Step::Replace(id), Some(cluster)) => {
                self.shared.say(Phase::Joining, "taking the place of a member that was here before");
                cluster.admin.remove(id).await?;
                self.folder.set_aside("replaced")?;
                self.failures = 0;
                Ok(None)
            }
            (Step::SetAside, _) => {
                let out = !self.wanted();
                self.folder.set_out(out)?;
                self.folder.set_aside("removed")?;
                self.failures = 0;
                Ok(None)
            }
            (Step::StayOut, _) => {
                self.shared.say(Phase::Removed, "this master was taken out of the cluster");
                sleep(PAUSE).await;
                Ok(None)
            }
            (Step::Wait | Step::Add | Step::Replace(_), _) => {
                Err(Pause("no member of the cluster answers; waiting for one to be let in".to_owned()))
            }
        }
    }

    /// Runs etcd until it ends or has to; returns how long to pause.
    async fn member(&mut self, begin: &Begin) -> Result<Duration, MemberError> {
        let started = Instant::now();
        let mut running = Running::start(&self.shared.config, &self.folder, begin).await?;
        self.shared.say(Phase::Starting, "etcd is starting");
        let shutdown = self.shutdown.clone();
        let ended = tokio::select! {
            how = running.ended() => {
                tracing::warn!(%how, "etcd ended");
                self.shared.say(Phase::Starting, &format!("etcd ended: {how}"));
                None
            }
            () = shutdown.wait() => Some(Ended::Shutdown),
            () = self.look() => Some(Ended::Stopped),
        };
        let was_well = self.shared.phase() == Phase::Running || started.elapsed() > EARLY;
        match ended.unwrap_or(Ended::Itself(was_well)) {
            Ended::Shutdown => {
                running.stop().await;
                Ok(Duration::ZERO)
            }
            Ended::Stopped => {
                running.stop().await;
                self.failures = 0;
                Ok(Duration::ZERO)
            }
            Ended::Itself(well) => {
                self.failures = if well { 0 } else { self.failures.saturating_add(1) };
                Ok(PAUSE)
            }
        }
    }

    /// Looks at the running member, until it should be stopped.
    async fn look(&self) {
        let mut leader_seen = Instant::now();
        let mut asked = Instant::now();
        loop {
            sleep(LOOK).await;
            if recover::requested(&self.folder).is_some() {
                return;
            }
            match self.look_once().await {
                Ok(how) if how.leader != 0 => leader_seen = Instant::now(),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the member here does not answer"),
            }
            if leader_seen.elapsed() > ORPHAN && asked.elapsed() > ORPHAN {
                asked = Instant::now();
                if self.is_orphan().await {
                    return;
                }
            }
        }
    }

    async fn look_once(&self) -> Result<How, AdminError> {
        let config = &self.shared.config;
        let admin = self.shared.own().await?;
        let how = admin.how().await?;
        if how.leader == 0 {
            self.shared.say(Phase::Starting, "etcd has no leader");
            return Ok(how);
        }
        if how.learner {
            self.shared.say(Phase::Joining, "a learner, catching up");
            self.note(&admin, &how).await;
            if let Some(cluster) = ask(config, &self.others(), ASK).await {
                match cluster.admin.promote(how.id).await {
                    Ok(()) => tracing::info!("the member has its vote"),
                    Err(error) => tracing::debug!(%error, "not promoted yet"),
                }
            }
        } else {
            self.shared.say(Phase::Running, "");
            self.note(&admin, &how).await;
        }
        Ok(how)
    }

    async fn note(&self, admin: &Admin, how: &How) {
        let Ok(members) = admin.members().await else { return };
        let note = Note { id: how.id, cluster: how.cluster, members };
        if let Err(error) = self.folder.write_note(&note) {
            tracing::warn!(%error, "what is known about the member cannot be noted");
        }
    }

    /// Whether others have a leader, and this member is none of theirs.
    async fn is_orphan(&self) -> bool {
        let Some(id) = self.folder.note().map(|note| note.id) else { return false };
        let cluster = ask(&self.shared.config, &self.others(), ASK).await;
        cluster.is_some_and(|cluster| cluster.listed.iter().all(|member| member.id != id))
    }
}

/// A step that did not work; it is tried again.
struct Pause(String);

impl From<AdminError> for Pause {
    fn from(error: AdminError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Pause {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_base::cluster::MasterNode;

    #[test]
    fn who_is_wanted() {
        let node = |name: &str| MasterNode { name: name.to_owned(), address: IpAddr::from([10, 0, 0, 1]) };
        let map =
            ClusterMap { number: 1, masters: vec![node("a"), node("b")], leaving: vec!["b".to_owned()] };
        let cases = [
            ("a", true, true),
            ("b", true, false),
            ("b", false, false),
            ("c", true, false),
            ("c", false, true),
        ];
        for (name, voted, wanted) in cases {
            assert_eq!(is_wanted(Some(&map), name, voted), wanted, "{name} {voted}");
        }
        assert!(is_wanted(None, "c", true));
    }

    #[test]
    fn the_others_are_masters_and_former_members_but_never_this_one() {
        let config = Config { address: [10, 0, 0, 1].into(), ..Config::default() };
        let member = |url: &str| Listed {
            id: 1,
            name: String::new(),
            peer_urls: Vec::new(),
            client_urls: vec![url.to_owned()],
            learner: false,
        };
        let members = vec![member("https://10.0.0.3:2379"), member("https://[fd00::1]:2379"), member("x")];
        let note = Note { members, ..Note::default() };
        let masters = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3])];
        let all: Vec<String> =
            others(&config, &masters, Some(&note)).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "fd00::1"]);
    }
}

//! Cares for the cluster from the master whose member leads it: the shell around [`crate::care`]. On every master it also watches how
//! long the member's disk takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use tokio::time::Instant;

use crate::admin::{Admin, AdminError};
use crate::care::{Care, Memory, Seen, View, decide};
use crate::granting;
use crate::metrics::{FSYNC, Histogram};
use crate::status::{Phase, Shared, ask_all};

/// How often the cluster is looked at.
const ROUND: Duration = Duration::from_secs(2);
/// Every so many rounds the disk is looked at.
const METRICS: u32 = 5;
/// etcd's users are looked at this often until they are enforced, and afterwards.
const USERS: Duration = Duration::from_secs(5);
const USERS_LATER: Duration = Duration::from_secs(300);

/// Until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let client = shared.component.client(Role::Etcd).ok();
    let mut caretaker = Caretaker {
        shared,
        memory: Memory::default(),
        heard: BTreeMap::new(),
        began: Instant::now(),
        users: None,
        fsync: Histogram::default(),
    };
    let mut round = 0_u32;
    while shutdown.sleep(ROUND).await {
        if caretaker.shared.phase() != Phase::Running {
            continue;
        }
        let cared = async {
            if round.is_multiple_of(METRICS)
                && let Some(client) = &client
            {
                caretaker.look_at_disk(client).await;
            }
            caretaker.round(client.as_ref()).await
        };
        match shutdown.until(cared).await {
            None => return,
            Some(Ok(())) => caretaker.shared.set_trouble(None),
            Some(Err(error)) => {
                tracing::warn!(%error, "the cluster's member could not be cared for; trying again");
                caretaker
                    .shared
                    .set_trouble(Some(format!("caring for etcd failed and is tried again: {error}")));
            }
        }
        round = round.wrapping_add(1);
    }
}

struct Caretaker {
    shared: Arc<Shared>,
    memory: Memory,
    /// When members last answered.
    heard: BTreeMap<u64, Instant>,
    began: Instant,
    /// When etcd's users were last looked at.
    users: Option<Instant>,
    fsync: Histogram,
}

impl Caretaker {
    /// One look, and one step if this member leads.
    async fn round(&mut self, client: Option<&Client>) -> Result<(), AdminError> {
        let own = self.shared.own().await?;
        let how = own.how().await?;
        if how.leader != how.id {
            // Who leads next begins with a fresh memory: it cannot know what was done meanwhile.
            self.memory = Memory::default();
            self.heard.clear();
            self.users = None;
            self.shared.set_users_wait(None);
            return Ok(());
        }
        let view = self.view(&own, how.id, how.revision).await?;
        if view.no_space.is_empty() {
            self.memory.compacted = None;
        }
        match decide(&view, &self.memory, self.began.elapsed()) {
            Some(care) => self.act(&own, &view, care).await,
            None => self.look_at_users(client, &own, &view).await,
        }
    }

    async fn look_at_users(
        &mut self,
        client: Option<&Client>,
        own: &Admin,
        view: &View,
    ) -> Result<(), AdminError> {
        let pause = if self.shared.users() { USERS_LATER } else { USERS };
        let Some(client) = client.filter(|_| self.users.is_none_or(|last| last.elapsed() >= pause)) else {
            return Ok(());
        };
        let members: Vec<_> = view.members.iter().map(|seen| seen.listed.clone()).collect();
        let wait = granting::round(&self.shared, client, own, &members).await?;
        self.users = Some(Instant::now());
        self.shared.set_users_wait(wait);
        Ok(())
    }

    async fn view(&mut self, own: &Admin, id: u64, revision: i64) -> Result<View, AdminError> {
        let now = Instant::now();
        let mut members = Vec::new();
        for (listed, how) in ask_all(&self.shared.config, own.members().await?).await {
            let heard = self.heard.entry(listed.id).or_insert(now);
            if how.is_ok() {
                *heard = now;
            }
            let silent = now.saturating_duration_since(*heard);
            members.push(Seen { listed, how: how.ok(), silent });
        }
        self.heard.retain(|id, _| members.iter().any(|member| member.listed.id == *id));
        let no_space = own.alarms().await?.into_iter().filter(|(_, word)| *word == "NOSPACE");
        let config = &self.shared.config;
        Ok(View {
            own: id,
            revision,
            no_space: no_space.map(|(id, _)| id).collect(),
            leaving: self.shared.component.masters.map().map(|map| map.leaving.clone()).unwrap_or_default(),
            quota: config.quota_bytes(),
            stale_learner: Duration::from_secs(u64::from(config.stale_learner_minutes) * 60),
            members,
        })
    }

    async fn act(&mut self, own: &Admin, view: &View, care: Care) -> Result<(), AdminError> {
        let now = self.began.elapsed();
        tracing::info!(?care, "caring for etcd");
        match care {
            Care::HandOver(to) => own.move_leader(to).await,
            Care::Remove(id) => own.remove(id).await,
            Care::Disarm(id) => own.disarm_no_space(id).await,
            Care::Compact(revision) => {
                own.compact(revision).await?;
                self.memory.compacted = Some((revision, now));
                Ok(())
            }
            Care::Defragment(id) => {
                // Noted first: one that fails is not tried at each round.
                self.memory.defragmented.insert(id, now);
                let member = view.members.iter().find(|member| member.listed.id == id);
                let url = member.and_then(|member| member.listed.client_urls.first()).cloned();
                let Some(url) = url else { return Ok(()) };
                let files = &self.shared.config.component;
                Admin::connect(url, &files.ca, &files.certificate, &files.key).await?.defragment().await
            }
        }
    }

    async fn look_at_disk(&mut self, client: &Client) {
        let url = format!("{}/metrics", self.shared.config.client_url());
        let asked = async {
            let reply = client.get(&url).deadline(Duration::from_secs(3)).send().await?.success().await?;
            reply.bytes_up_to(4 * 1024 * 1024).await
        };
        match asked.await {
            Ok(bytes) => {
                let now = Histogram::read(&String::from_utf8_lossy(&bytes), FSYNC);
                let slow = now.quantile_since(&self.fsync, 0.99).map(|seconds| seconds.min(60.0));
                self.shared.set_fsync(slow);
                self.fsync = now;
            }
            Err(error) => tracing::debug!(%error, "etcd's metrics cannot be read"),
        }
    }
}

//! The repositories: which there are (stored), and what they hold (fetched, and kept as last seen). One that fails keeps its last packages
//! and costs no other; one bad definition costs only itself.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use plenum_base::client::Client;
use plenum_store::{Guard, Range, Revision, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::bodies::RepositoryEntry;
use crate::api::error::CosmosError;
use crate::definition::Package;
use crate::index::{Index, Repository};

/// The address of what is built into the program.
pub const BUILT_IN: &str = "builtin://packages";
/// What ships with the distribution.
const PACKAGES: &str = include_str!(concat!(env!("OUT_DIR"), "/packages.json"));
/// Where the list is stored.
const KEY: &str = "repositories";
/// The list's format.
const FORMAT: u32 = 1;
/// How often a change is tried anew that another catalog was faster with.
const TRIES: usize = 5;
/// The list is compared at least this often.
const LOOK: Duration = Duration::from_secs(60);
/// After the store could not be asked.
const AGAIN: Duration = Duration::from_millis(500);
/// A repository's answer may be this long: the largest published one has 30 MB.
const MAX_ANSWER: usize = 128 << 20;
/// What a repository is asked for, the newest format first.
const ACCEPT: &str = "application/vnd.dcos.universe.repo+json;charset=utf-8;version=v5,\
    application/vnd.dcos.universe.repo+json;charset=utf-8;version=v4,\
    application/vnd.dcos.universe.repo+json;charset=utf-8;version=v3";

/// The stored list.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    repositories: Vec<RepositoryEntry>,
    /// Who changed it last.
    changed_by: String,
}

/// The list and what it holds now.
pub struct Repositories {
    store: Arc<dyn Store>,
    client: Client,
    release: String,
    current: ArcSwap<Current>,
    /// One change at a time: each fetches before it stores.
    changing: tokio::sync::Mutex<()>,
}

struct Current {
    repositories: Vec<Repository>,
    index: Index,
}

impl std::fmt::Debug for Repositories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repositories").field("release", &self.release).finish_non_exhaustive()
    }
}

fn built_in() -> RepositoryEntry {
    RepositoryEntry { name: "Plenum".to_owned(), uri: BUILT_IN.to_owned() }
}

impl Repositories {
    /// Reads the list. Repositories elsewhere are fetched by [`Repositories::refresh`].
    pub async fn open(store: Arc<dyn Store>, client: Client, release: String) -> Result<Self, StoreError> {
        let listed = stored(store.as_ref()).await?.0;
        let repositories = listed
            .into_iter()
            .map(|entry| {
                let packages =
                    if entry.uri == BUILT_IN { parse(&entry, PACKAGES.as_bytes()) } else { Ok(Vec::new()) };
                Repository { packages: packages.unwrap_or_default(), name: entry.name, uri: entry.uri }
            })
            .collect();
        let current = ArcSwap::from_pointee(Current::new(repositories, &release));
        Ok(Self { store, client, release, current, changing: tokio::sync::Mutex::new(()) })
    }

    /// Calls `read` with the index of now.
    pub fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.current.load().index)
    }

    /// The list.
    pub fn list(&self) -> Vec<RepositoryEntry> {
        let entry = |one: &Repository| RepositoryEntry { name: one.name.clone(), uri: one.uri.clone() };
        self.current.load().repositories.iter().map(entry).collect()
    }

    /// Fetches every repository again. What fails keeps what was there.
    pub async fn refresh(&self) {
        let _changing = self.changing.lock().await;
        let mut repositories = self.current.load().repositories.clone();
        for repository in &mut repositories {
            let entry = RepositoryEntry { name: repository.name.clone(), uri: repository.uri.clone() };
            if entry.uri == BUILT_IN {
                continue;
            }
            match self.fetch(&entry).await {
                Ok(packages) => repository.packages = packages,
                Err(error) => {
                    tracing::warn!(name = entry.name, uri = entry.uri, %error, "a repository cannot be read")
                }
            }
        }
        self.publish(repositories);
    }

    /// Takes changes of the list in, whoever made them, until dropped.
    pub async fn follow(&self) {
        loop {
            if let Err(error) = self.follow_once().await {
                tracing::debug!(%error, "the list of repositories is not followed; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Takes the list in as it is, then waits for a change.
    async fn follow_once(&self) -> Result<(), StoreError> {
        let revision = self.store.range(Range { limit: 1, ..Range::prefix(KEY) }).await?.revision;
        {
            let _changing = self.changing.lock().await;
            let listed = stored(self.store.as_ref()).await?.0;
            if listed != self.list() {
                let mut repositories = self.with_packages(listed);
                for one in repositories.iter_mut().filter(|one| one.packages.is_empty()) {
                    let entry = RepositoryEntry { name: one.name.clone(), uri: one.uri.clone() };
                    match self.fetch(&entry).await {
                        Ok(packages) => one.packages = packages,
                        Err(error) => {
                            tracing::warn!(name = entry.name, %error, "a repository cannot be read")
                        }
                    }
                }
                self.publish(repositories);
            }
        }
        let mut watch = self.store.watch(KEY, revision).await?;
        // A watch may end without a word: the list is compared now and then in any case.
        watch.next_within(LOOK).await.map(|_| ())
    }

    /// The listed repositories with what is known of each.
    fn with_packages(&self, listed: Vec<RepositoryEntry>) -> Vec<Repository> {
        let current = self.current.load();
        let known = |uri: &str| current.repositories.iter().find(|one| one.uri == uri);
        let with = |entry: RepositoryEntry| {
            let packages = known(&entry.uri).map(|one| one.packages.clone()).unwrap_or_default();
            Repository { packages, name: entry.name, uri: entry.uri }
        };
        listed.into_iter().map(with).collect()
    }

    /// Adds a repository that answers, at `index` or at the end.
    pub async fn add(
        &self,
        entry: RepositoryEntry,
        index: Option<i64>,
        principal: &str,
    ) -> Result<(), CosmosError> {
        let _changing = self.changing.lock().await;
        let place = |listed: &[RepositoryEntry]| {
            if listed.iter().any(|one| one.name == entry.name || one.uri == entry.uri) {
                return Err(CosmosError::repository_present(&entry.name, &entry.uri));
            }
            match index {
                None => Ok(listed.len()),
                Some(index) => usize::try_from(index)
                    .ok()
                    .filter(|place| *place <= listed.len())
                    .ok_or_else(|| CosmosError::index_out_of_bounds(index, listed.len())),
            }
        };
        let failed = |error: StoreError| CosmosError::store(&error.to_string());
        place(&stored(self.store.as_ref()).await.map_err(failed)?.0)?;
        let packages = self
            .fetch(&entry)
            .await
            .map_err(|cause| CosmosError::repository_unreadable(&entry.name, &entry.uri, &cause))?;
        let change = |listed: &mut Vec<RepositoryEntry>| {
            let place = place(listed)?;
            listed.insert(place, entry.clone());
            Ok(())
        };
        let listed = self.write(change, principal).await?;
        let mut repositories = self.with_packages(listed);
        if let Some(one) = repositories.iter_mut().find(|one| one.uri == entry.uri) {
            one.packages = packages;
        }
        self.publish(repositories);
        Ok(())
    }

    /// Removes the repository of a name and address, as far as they are given.
    pub async fn delete(
        &self,
        name: Option<&str>,
        uri: Option<&str>,
        principal: &str,
    ) -> Result<(), CosmosError> {
        let what = name.or(uri).ok_or_else(CosmosError::name_or_uri_missing)?;
        let _changing = self.changing.lock().await;
        let change = |listed: &mut Vec<RepositoryEntry>| {
            let before = listed.len();
            listed.retain(|one| {
                !(name.is_none_or(|name| name == one.name) && uri.is_none_or(|uri| uri == one.uri))
            });
            if listed.len() == before { Err(CosmosError::no_repository(what)) } else { Ok(()) }
        };
        let listed = self.write(change, principal).await?;
        self.publish(self.with_packages(listed));
        Ok(())
    }

    /// Changes the stored list as it is now; where another catalog changes it at the same time, again.
    async fn write(
        &self,
        change: impl Fn(&mut Vec<RepositoryEntry>) -> Result<(), CosmosError>,
        principal: &str,
    ) -> Result<Vec<RepositoryEntry>, CosmosError> {
        let failed = |error: &dyn std::fmt::Display| CosmosError::store(&error.to_string());
        for _ in 0..TRIES {
            let (mut listed, revision) = stored(self.store.as_ref()).await.map_err(|error| failed(&error))?;
            change(&mut listed)?;
            let record =
                Record { format: FORMAT, repositories: listed.clone(), changed_by: principal.to_owned() };
            let value = serde_json::to_vec(&record).map_err(|error| failed(&error))?;
            let guard = match revision {
                Some(revision) => Guard::ModRevision(KEY.to_owned(), revision),
                None => Guard::Absent(KEY.to_owned()),
            };
            match self.store.commit(Txn::new().guard(guard).put(KEY, value)).await {
                Ok(_) => return Ok(listed),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(failed(&"others change the list all the time: try again"))
    }

    fn publish(&self, repositories: Vec<Repository>) {
        self.current.store(Arc::new(Current::new(repositories, &self.release)));
    }

    async fn fetch(&self, entry: &RepositoryEntry) -> Result<Vec<Arc<Package>>, String> {
        if entry.uri == BUILT_IN {
            return parse(entry, PACKAGES.as_bytes());
        }
        let agent = format!("plenum/{} dcos/{}", env!("CARGO_PKG_VERSION"), self.release);
        let answer = self
            .client
            .get(&entry.uri)
            .header(http::header::ACCEPT, ACCEPT)
            .header(http::header::USER_AGENT, &agent)
            .deadline(Duration::from_secs(60))
            .send()
            .await
            .map_err(|error| error.to_string())?
            .success()
            .await
            .map_err(|error| error.to_string())?;
        let bytes = answer.bytes_up_to(MAX_ANSWER).await.map_err(|error| error.to_string())?;
        parse(entry, &bytes)
    }
}

impl Current {
    fn new(repositories: Vec<Repository>, release: &str) -> Self {
        Self { index: Index::build(&repositories, release), repositories }
    }
}

/// The list as it is stored, else that of a new cluster.
async fn stored(store: &dyn Store) -> Result<(Vec<RepositoryEntry>, Option<Revision>), StoreError> {
    let found = read(store).await?;
    Ok(found
        .map_or_else(|| (vec![built_in()], None), |(record, revision)| (record.repositories, Some(revision))))
}

async fn read(store: &dyn Store) -> Result<Option<(Record, Revision)>, StoreError> {
    let Some(entry) = store.get(KEY).await? else { return Ok(None) };
    let broken = |reason: String| Err(StoreError::Broken { reason });
    match serde_json::from_slice::<Record>(&entry.value) {
        Ok(record) if record.format == FORMAT => Ok(Some((record, entry.mod_revision))),
        Ok(record) => {
            broken(format!("the list of repositories has format {} of a newer release", record.format))
        }
        Err(error) => broken(format!("the list of repositories cannot be read: {error}")),
    }
}

fn parse(entry: &RepositoryEntry, bytes: &[u8]) -> Result<Vec<Arc<Package>>, String> {
    #[derive(Deserialize)]
    struct Answer {
        packages: Vec<Value>,
    }
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|error| format!("not a repository: {error}"))?;
    let mut packages = Vec::with_capacity(answer.packages.len());
    for definition in answer.packages {
        match Package::read(definition) {
            Ok(package) => packages.push(Arc::new(package)),
            Err(error) => tracing::warn!(repository = entry.name, %error, "a package is set aside"),
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use plenum_store::Embedded;

    use super::*;

    async fn until(what: impl Fn() -> bool) {
        for _ in 0..1000 {
            if what() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not come");
    }

    #[tokio::test]
    async fn two_catalogs_on_one_store_see_each_others_changes_and_lose_none() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let open = || async {
            let client = Client::plain().unwrap();
            Arc::new(Repositories::open(store.clone(), client, "2.2".to_owned()).await.unwrap())
        };
        let (one, two) = (open().await, open().await);
        let following =
            [one.clone(), two.clone()].map(|each| tokio::spawn(async move { each.follow().await }));
        one.delete(Some("Plenum"), None, "ann").await.unwrap();
        until(|| two.list().is_empty()).await;
        assert!(two.with_index(|index| index.find("hello", None).is_none()), "its packages are gone, too");
        two.add(built_in(), None, "bob").await.unwrap();
        until(|| one.list() == [built_in()] && one.with_index(|index| index.find("hello", None).is_some()))
            .await;
        for each in following {
            each.abort();
        }
        // Without following: a change starts from what is stored, not from what was seen.
        let stale = open().await;
        one.delete(Some("Plenum"), None, "ann").await.unwrap();
        let error = stale.delete(Some("Plenum"), None, "ann").await.unwrap_err();
        assert_eq!(error.kind, "RepositoryNotPresent");
        stale.add(built_in(), Some(0), "ann").await.unwrap();
        assert_eq!(one.add(built_in(), None, "ann").await.unwrap_err().kind, "RepositoryAlreadyPresent");
    }
}

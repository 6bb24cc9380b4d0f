//! The repositories: which there are (stored), and what they hold (fetched, and kept as last seen). One that fails keeps its last packages
//! and costs no other; one bad definition costs only itself.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use plenum_base::client::Client;
use plenum_store::{Guard, Store, StoreError, Txn};
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
        let listed =
            read(store.as_ref()).await?.map_or_else(|| vec![built_in()], |(record, _)| record.repositories);
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

    /// Adds a repository that answers, at `index` or at the end.
    pub async fn add(
        &self,
        entry: RepositoryEntry,
        index: Option<i64>,
        principal: &str,
    ) -> Result<(), CosmosError> {
        let _changing = self.changing.lock().await;
        let mut repositories = self.current.load().repositories.clone();
        if repositories.iter().any(|one| one.name == entry.name || one.uri == entry.uri) {
            return Err(CosmosError::repository_present(&entry.name, &entry.uri));
        }
        let place = match index {
            None => repositories.len(),
            Some(index) => usize::try_from(index)
                .ok()
                .filter(|place| *place <= repositories.len())
                .ok_or_else(|| CosmosError::index_out_of_bounds(index, repositories.len()))?,
        };
        let packages = self
            .fetch(&entry)
            .await
            .map_err(|cause| CosmosError::repository_unreadable(&entry.name, &entry.uri, &cause))?;
        repositories.insert(place, Repository { name: entry.name, uri: entry.uri, packages });
        self.write(repositories, principal).await
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
        let mut repositories = self.current.load().repositories.clone();
        let before = repositories.len();
        repositories.retain(|one| {
            !(name.is_none_or(|name| name == one.name) && uri.is_none_or(|uri| uri == one.uri))
        });
        if repositories.len() == before {
            return Err(CosmosError::no_repository(what));
        }
        self.write(repositories, principal).await
    }

    async fn write(&self, repositories: Vec<Repository>, principal: &str) -> Result<(), CosmosError> {
        let entry = |one: &Repository| RepositoryEntry { name: one.name.clone(), uri: one.uri.clone() };
        let record = Record {
            format: FORMAT,
            repositories: repositories.iter().map(entry).collect(),
            changed_by: principal.to_owned(),
        };
        let failed = |error: &dyn std::fmt::Display| CosmosError::store(&error.to_string());
        let value = serde_json::to_vec(&record).map_err(|error| failed(&error))?;
        let guard = match read(self.store.as_ref()).await.map_err(|error| failed(&error))? {
            Some((_, revision)) => Guard::ModRevision(KEY.to_owned(), revision),
            None => Guard::Absent(KEY.to_owned()),
        };
        let txn = Txn::new().guard(guard).put(KEY, value);
        self.store.commit(txn).await.map_err(|error| failed(&error))?;
        self.publish(repositories);
        Ok(())
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

async fn read(store: &dyn Store) -> Result<Option<(Record, plenum_store::Revision)>, StoreError> {
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

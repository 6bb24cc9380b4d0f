//! Carries the records of every component over: from the files of a single machine to etcd and back, to a backup and from one. Each
//! component's part is copied, compared, and only then is the place it came from closed. What was begun can be begun again.
//!
//! Terms of elections are records like others and come along, so that who leads afterwards has a higher term than whoever led before.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plenum_base::files;
use plenum_base::places::{Places, Role};
use plenum_store::moved::{marker, set_fence};
use plenum_store::{Etcd, Range, Store, StoreError, Txn, copy_all, export, import, open_embedded, scoped};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The components that keep records in files on a single machine, and in etcd in a fleet.
pub const COMPONENTS: [Role; 4] = [Role::Identity, Role::Master, Role::Services, Role::Catalog];

/// Where the records shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// On etcd.
    Etcd,
    /// In this machine's own files.
    Embedded,
}

/// What became of one component's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The component.
    pub component: String,
    /// How many records there are.
    pub records: u64,
    /// SHA-256 over all keys and values in order, in hexadecimal.
    pub digest: String,
    /// Nothing had to be done: it had been moved before, or there is nothing.
    pub already: bool,
}

/// Why records were not carried over. What was moved stays moved; the same call goes on with the rest.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A store.
    #[error("{component}: {source}")]
    Store {
        /// Whose.
        component: String,
        /// Why.
        source: StoreError,
    },
    /// A component is running.
    #[error("{component} is led by {leader}: stop the control roles on every master first")]
    Running {
        /// Which.
        component: String,
        /// The candidate that leads.
        leader: String,
    },
    /// There are records already where they should go.
    #[error(
        "{component} has {records} records at the target already: nothing was overwritten; remove them or choose another instance"
    )]
    Occupied {
        /// Whose.
        component: String,
        /// How many.
        records: u64,
    },
    /// What arrived is not what was sent.
    #[error(
        "{component}: the copy differs ({copied} of {records} records, or other contents): nothing was closed; run it again"
    )]
    Differs {
        /// Whose.
        component: String,
        /// How many there are.
        records: u64,
        /// How many arrived.
        copied: u64,
    },
    /// Files.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> MoveError + '_ {
    move |source| MoveError::File { path: path.to_owned(), source }
}

/// One component on its way.
struct Part {
    component: Role,
    file: PathBuf,
    prefix: String,
    /// A key that is there while records are on their way to etcd.
    moving: String,
}

impl Part {
    fn of(places: &Places, component: Role) -> Self {
        Self {
            component,
            file: places.store(component),
            prefix: format!("/plenum/{}/{component}/", places.instance),
            moving: format!("/plenum/{}/.moving/{component}", places.instance),
        }
    }

    fn store(&self) -> impl Fn(StoreError) -> MoveError + '_ {
        |source| MoveError::Store { component: self.component.to_string(), source }
    }

    /// Refuses while somebody leads: its writes would be lost.
    async fn must_rest(&self, store: &dyn Store) -> Result<(), MoveError> {
        let mut next = Some(Range::default());
        while let Some(request) = next {
            let page = store.range(request.clone()).await.map_err(self.store())?;
            let held =
                page.entries.iter().find(|entry| entry.lease.is_some() && entry.key.ends_with("leader"));
            if let Some(held) = held {
                let election = held.key.trim_end_matches("leader").trim_end_matches('/');
                let leader = store.leader(election).await.map_err(self.store())?;
                let leader = leader.map_or_else(|| "somebody".to_owned(), |leader| leader.candidate);
                return Err(MoveError::Running { component: self.component.to_string(), leader });
            }
            next = page.next(&request);
        }
        Ok(())
    }

    /// Copies and compares.
    async fn copy(&self, from: &dyn Store, to: &dyn Store) -> Result<Sum, MoveError> {
        copy_all(from, to).await.map_err(self.store())?;
        let (sent, arrived) = (self.sum(from).await?, self.sum(to).await?);
        if sent == arrived {
            return Ok(sent);
        }
        let component = self.component.to_string();
        Err(MoveError::Differs { component, records: sent.records, copied: arrived.records })
    }

    async fn sum(&self, store: &dyn Store) -> Result<Sum, MoveError> {
        sum(store).await.map_err(self.store())
    }

    fn moved(&self, sum: Sum, already: bool) -> Moved {
        Moved { component: self.component.to_string(), records: sum.records, digest: sum.digest, already }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    records: u64,
    digest: String,
}

/// How many records there are, and a digest of all of them. Leased ones do not count: they say who is alive.
async fn sum(store: &dyn Store) -> Result<Sum, StoreError> {
    let mut hash = Sha256::new();
    let mut records = 0_u64;
    let mut next = Some(Range::default());
    while let Some(request) = next {
        let page = store.range(request.clone()).await?;
        for entry in page.entries.iter().filter(|entry| entry.lease.is_none()) {
            records = records.saturating_add(1);
            for part in [entry.key.as_bytes(), &entry.value] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        next = page.next(&request);
    }
    let mut digest = String::new();
    for byte in hash.finalize() {
        let _ = write!(digest, "{byte:02x}");
    }
    Ok(Sum { records, digest })
}

/// Moves the records of every component of an instance. The control roles must not run, on any master.
///
/// # Errors
/// [`MoveError`].
pub async fn move_store(places: &Places, etcd: &Etcd, to: Target) -> Result<Vec<Moved>, MoveError> {
    let mut all = Vec::new();
    for component in COMPONENTS {
        let part = Part::of(places, component);
        let moved = match to {
            Target::Etcd => to_etcd(&part, etcd).await?,
            Target::Embedded => to_embedded(&part, etcd).await?,
        };
        tracing::info!(
            component = moved.component,
            records = moved.records,
            already = moved.already,
            "moved"
        );
        all.push(moved);
    }
    Ok(all)
}

async fn to_etcd(part: &Part, etcd: &Etcd) -> Result<Moved, MoveError> {
    let whole: Arc<dyn Store> = Arc::new(etcd.clone());
    let target = scoped(Arc::clone(&whole), &part.prefix);
    let mark = marker(&part.file);
    if mark.exists() || !part.file.exists() {
        return Ok(part.moved(part.sum(&target).await?, true));
    }
    let source = open_embedded(&part.file, &part.prefix).await.map_err(part.store())?;
    let begun = whole.get(&part.moving).await.map_err(part.store())?.is_some();
    let there = part.sum(&target).await?;
    let back = whole.get(&plenum_store::moved::fence(&part.prefix)).await.map_err(part.store())?.is_some();
    if there.records > 0 && !begun && !back {
        // Killed between the comparison and the mark? Then it is all there already.
        if there == part.sum(source.as_ref()).await? {
            return close_file(part, there, source);
        }
        return Err(MoveError::Occupied { component: part.component.to_string(), records: there.records });
    }
    let begin = Txn::new().put(&part.moving, "");
    whole.commit(begin).await.map_err(part.store())?;
    clear(part, &target).await?;
    let sum = part.copy(source.as_ref(), &target).await?;
    set_fence(whole.as_ref(), &part.prefix, false).await.map_err(part.store())?;
    whole.commit(Txn::new().delete(&part.moving)).await.map_err(part.store())?;
    close_file(part, sum, source)
}

/// From now on no component opens the file.
fn close_file(part: &Part, sum: Sum, source: Arc<dyn Store>) -> Result<Moved, MoveError> {
    let mark = marker(&part.file);
    files::replace(&mark, b"etcd\n", 0o600).map_err(at(&mark))?;
    drop(source);
    Ok(part.moved(sum, false))
}

async fn clear(part: &Part, target: &dyn Store) -> Result<(), MoveError> {
    loop {
        let request = Range { limit: 90, ..Range::default() };
        let page = target.range(request).await.map_err(part.store())?;
        if page.entries.is_empty() {
            return Ok(());
        }
        let txn = page.entries.into_iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key));
        target.commit(txn).await.map_err(part.store())?;
    }
}

async fn to_embedded(part: &Part, etcd: &Etcd) -> Result<Moved, MoveError> {
    let whole: Arc<dyn Store> = Arc::new(etcd.clone());
    let source = scoped(Arc::clone(&whole), &part.prefix);
    let fence = plenum_store::moved::fence(&part.prefix);
    let mark = marker(&part.file);
    let fenced = whole.get(&fence).await.map_err(part.store())?.is_some();
    if part.file.exists() && !mark.exists() {
        let own = open_embedded(&part.file, &part.prefix).await.map_err(part.store())?;
        let sum = part.sum(own.as_ref()).await?;
        if fenced || sum == part.sum(&source).await? {
            set_fence(whole.as_ref(), &part.prefix, true).await.map_err(part.store())?;
            return Ok(part.moved(sum, true));
        }
        return Err(MoveError::Occupied { component: part.component.to_string(), records: sum.records });
    }
    part.must_rest(&source).await?;
    let sum = part.sum(&source).await?;
    if sum.records == 0 {
        return Ok(part.moved(sum, true));
    }
    let new = part.file.with_extension("moving");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&new)(e)),
        _ => {}
    }
    let target = open_embedded(&new, &part.prefix).await.map_err(part.store())?;
    let sum = part.copy(&source, target.as_ref()).await?;
    drop(target);
    set_fence(whole.as_ref(), &part.prefix, true).await.map_err(part.store())?;
    std::fs::rename(&new, &part.file).map_err(at(&part.file))?;
    match std::fs::remove_file(&mark) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&mark)(e)),
        _ => {}
    }
    if let Some(folder) = part.file.parent() {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    }
    Ok(part.moved(sum, false))
}

/// Where a component's records are now.
async fn current(part: &Part, etcd: Option<&Etcd>) -> Result<Arc<dyn Store>, MoveError> {
    match etcd {
        Some(etcd) => Ok(Arc::new(scoped(Arc::new(etcd.clone()), &part.prefix))),
        None => open_embedded(&part.file, &part.prefix).await.map_err(part.store()),
    }
}

/// Writes the records of every component to files in a new folder, one a component: from etcd, while it is in use, or from this machine's
/// files, whose roles must not run. Secrets in it are sealed with identity's key, which is not part of it.
///
/// # Errors
/// [`MoveError`].
pub async fn backup(places: &Places, etcd: Option<&Etcd>, folder: &Path) -> Result<Vec<Moved>, MoveError> {
    std::fs::create_dir_all(folder.parent().unwrap_or(folder)).map_err(at(folder))?;
    std::fs::create_dir(folder).map_err(at(folder))?;
    files::private_dir(folder).map_err(at(folder))?;
    let mut all = Vec::new();
    for component in COMPONENTS {
        let part = Part::of(places, component);
        if etcd.is_none() && !part.file.exists() {
            continue;
        }
        let store = current(&part, etcd).await?;
        let path = folder.join(format!("{component}.backup"));
        let mut options = tokio::fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&path).await.map_err(at(&path))?;
        let summary = export(store.as_ref(), &mut file).await.map_err(part.store())?;
        file.sync_all().await.map_err(at(&path))?;
        all.push(part.moved(Sum { records: summary.records, digest: String::new() }, false));
    }
    Ok(all)
}

/// Reads a backup into stores that hold nothing. A component that has the same records already is left as it is.
///
/// # Errors
/// [`MoveError`].
pub async fn restore(places: &Places, etcd: Option<&Etcd>, folder: &Path) -> Result<Vec<Moved>, MoveError> {
    let mut all = Vec::new();
    for component in COMPONENTS {
        let part = Part::of(places, component);
        let path = folder.join(format!("{component}.backup"));
        if !path.exists() {
            continue;
        }
        let target = current(&part, etcd).await?;
        let mut file = tokio::fs::File::open(&path).await.map_err(at(&path))?;
        match import(target.as_ref(), &mut file).await {
            Ok(_) => {}
            Err(StoreError::Invalid { .. }) => {
                let records = part.sum(target.as_ref()).await?.records;
                return Err(MoveError::Occupied { component: component.to_string(), records });
            }
            Err(source) => return Err(part.store()(source)),
        }
        all.push(part.moved(part.sum(target.as_ref()).await?, false));
    }
    if all.is_empty() {
        let none = io::Error::new(io::ErrorKind::NotFound, "it holds no backup of any component");
        return Err(at(folder)(none));
    }
    Ok(all)
}

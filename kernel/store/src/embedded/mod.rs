//! The embedded store: a redb file inside the process that owns the data.
//!
//! One thread owns writing ([`writer`]): whatever has queued up becomes one durable redb transaction. Reads run
//! beside it on blocking threads, a bounded number. What the tables hold is [`engine`]'s concern; where the bytes
//! are, [`medium`]'s; who watches, [`watching`]'s.

mod engine;
mod fault;
mod leases;
mod medium;
mod records;
mod watching;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{timeout, timeout_at};

use crate::{
    Entry, Leadership, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch, election, limits,
};
use fault::Fault;
use leases::Leases;
pub use medium::{Medium, MemoryMedium};
use watching::{EmbeddedWatch, Ring};
use writer::{Command, Work, Writer};

/// Reads that may run at the same time; a hung disk holds no more threads than this.
const READERS: usize = 8;
/// Bytes of transactions that may wait for the writer, in units of [`QUEUE_UNIT`].
const QUEUE_UNITS: usize = 64 * 1024;
const QUEUE_UNIT: usize = 1024;

/// Monotonic time, as leases see it. A test puts its own here.
#[doc(hidden)]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
}

/// The machine's clock.
#[doc(hidden)]
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How an embedded store behaves. The defaults suit a control plane's state.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long any call waits for its answer.
    pub deadline: Duration,
    /// How long [`Embedded::open`] waits, which after a crash includes checking the whole file.
    pub open_deadline: Duration,
    /// Changes kept for watches that resume; at least one revision is always kept.
    pub history_changes: usize,
    /// Bytes of changes kept for watches that resume.
    pub history_bytes: usize,
    /// Age of changes kept for watches that resume.
    pub history_age: Duration,
    /// Memory for pages of the file.
    pub cache_bytes: usize,
    #[doc(hidden)]
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            open_deadline: Duration::from_secs(60),
            history_changes: 50_000,
            history_bytes: 32 * 1024 * 1024,
            history_age: Duration::from_secs(3600),
            cache_bytes: 16 * 1024 * 1024,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// What the writer, the readers and the watches share.
#[derive(Debug)]
struct Shared {
    /// The open database; `None` while it is being opened again.
    db: RwLock<Option<redb::Database>>,
    /// Counts openings, so that a reader's complaint about one is not taken for the next.
    generation: AtomicU64,
    /// Why there is no database.
    down: RwLock<Option<StoreError>>,
    leases: Mutex<Leases>,
    ring: RwLock<Ring>,
    progress: watch::Sender<Progress>,
}

/// What watches wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    revision: u64,
    closed: bool,
}

impl Shared {
    fn down_error(&self) -> StoreError {
        self.down.read().clone().unwrap_or_else(|| StoreError::unavailable("it is being opened"))
    }
}

/// A handle on an embedded store; clones are the same store. The file is closed by [`Embedded::close`], or in the
/// background once the last handle and the last watch are gone.
#[derive(Clone, Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    options: Options,
}

impl Embedded {
    /// Opens the store in the file at `path`, which is made (readable by its owner only) if it is not there.
    /// Needs a tokio runtime.
    ///
    /// Errors: `InUse` if another process (or another handle in this one) has it open; `Broken` if it is not a
    /// store or damaged beyond what a crash does; `Full` and `Unavailable` as ever.
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(medium::FileMedium::new(path.as_ref())), options).await
    }

    /// A store in memory, for tests. Everything is gone when it is closed.
    #[doc(hidden)]
    pub async fn open_in_memory() -> Result<Self, StoreError> {
        Self::open_on(Arc::new(MemoryMedium::default()), Options::default()).await
    }

    /// Opens a store on any medium, for tests of failing disks.
    #[doc(hidden)]
    pub async fn open_on(medium: Arc<dyn Medium>, options: Options) -> Result<Self, StoreError> {
        let (queue, commands) = mpsc::channel();
        let shared = Arc::new(Shared {
            db: RwLock::new(None),
            generation: AtomicU64::new(0),
            down: RwLock::new(None),
            leases: Mutex::new(Leases::default()),
            ring: RwLock::new(Ring::default()),
            progress: watch::Sender::new(Progress::default()),
        });
        let (opened_tx, opened) = oneshot::channel();
        let writer = Writer::new(medium, options.clone(), Arc::clone(&shared), commands);
        std::thread::Builder::new()
            .name("plenum-store".to_owned())
            .spawn(move || writer.run(opened_tx))
            .map_err(|e| StoreError::unavailable(format!("the writer thread cannot be started: {e}")))?;
        match timeout(options.open_deadline, opened).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(StoreError::broken("the writer thread ended while opening the file")),
            Err(_) => return Err(StoreError::deadline(options.open_deadline, false)),
        }
        Ok(Self {
            shared,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_UNITS)),
            readers: Arc::new(Semaphore::new(READERS)),
            options,
        })
    }

    /// Finishes what is queued, closes the file and releases its lock. Later calls, by any handle, end in
    /// `Unavailable`.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Command::Close(reply)).is_err() {
            return Ok(());
        }
        // An error means that the thread has already ended.
        timeout(self.options.deadline, done)
            .await
            .map(|_| ())
            .map_err(|_| StoreError::deadline(self.options.deadline, false))
    }

    /// Makes the writer look at the clock now; for tests that move it.
    #[doc(hidden)]
    pub fn wake(&self) {
        let _ = self.queue.send(Command::Wake);
    }

    /// Hands work to the writer and waits for it to be durable.
    async fn write(&self, work: Work, bytes: usize) -> Result<Revision, StoreError> {
        let deadline = self.options.deadline;
        let until = tokio::time::Instant::now() + deadline;
        let units = bytes.div_ceil(QUEUE_UNIT).clamp(1, QUEUE_UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        let room = match timeout_at(until, room).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(closed()),
            Err(_) => return Err(StoreError::deadline(deadline, false)),
        };
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Work { work, reply, room }).map_err(|_| closed())?;
        match timeout_at(until, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(StoreError::deadline(deadline, true)),
        }
    }

    /// Runs `read` on a blocking thread against the open database.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::Database) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = self.options.deadline;
        let work = async {
            let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| closed())?;
            let shared = Arc::clone(&self.shared);
            let queue = self.queue.clone();
            let job = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let db = shared.db.read();
                let generation = shared.generation.load(Ordering::Acquire);
                let Some(open) = &*db else { return Err(shared.down_error()) };
                read(open).map_err(|fault| {
                    let _ = queue.send(Command::Heal(generation));
                    fault.into_error(false)
                })
            });
            job.await.map_err(|e| StoreError::broken(format!("reading the file failed: {e}")))?
        };
        timeout(deadline, work).await.map_err(|_| StoreError::deadline(deadline, false))?
    }
}

fn closed() -> StoreError {
    StoreError::unavailable("it has been closed")
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        limits::check_txn(&txn)?;
        let bytes = txn.bytes();
        self.write(Work::Commit(txn), bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        let key = key.to_owned();
        self.read(move |db| engine::get(db, &key)).await
    }

    async fn range(&self, req: Range) -> Result<Page, StoreError> {
        limits::check_prefix(&req.prefix)?;
        limits::check_prefix(req.start_after.as_deref().unwrap_or_default())?;
        self.read(move |db| engine::range(db, &req)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        limits::check_prefix(prefix)?;
        if self.shared.progress.borrow().closed {
            return Err(closed());
        }
        Ok(Watch::new(EmbeddedWatch::new(self.clone(), prefix, after)))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = limits::round_ttl(ttl)?;
        // Never used twice: a holder of an old number must not keep somebody else's lease alive.
        let lease = LeaseId(rand::random_range(1..=i64::MAX));
        self.write(Work::Grant { lease, ttl }, 0).await?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        if self.shared.progress.borrow().closed {
            return Err(closed());
        }
        let now = self.options.clock.now();
        self.shared.leases.lock().keep_alive(lease, now).ok_or(StoreError::LeaseNotFound { lease })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write(Work::End { lease }, 0).await.map(|_| ())
    }

    async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
    ) -> Result<Leadership, StoreError> {
        election::campaign(Arc::new(self.clone()), election, candidate, ttl).await
    }
}

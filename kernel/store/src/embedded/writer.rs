//! The one thread that writes: gathers what is queued into a batch, has it carried out, answers; ends leases that
//! ran out; and after a fault opens the database again, refusing work meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::{self, Engine, Outcome};
use super::fault::Fault;
use super::medium::Medium;
use super::{Options, Shared};
use crate::{LeaseId, Revision, StoreError, Txn};

/// The most work in one transaction of the database.
const BATCH_WORK: usize = 512;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Pauses between attempts to open the database again, and between attempts to write to a full one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest sleep with nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// Something to be made durable.
#[derive(Debug)]
pub(super) enum Work {
    Commit(Txn),
    Grant {
        lease: LeaseId,
        ttl: Duration,
    },
    /// Ends a lease, revoked or run out.
    End {
        lease: LeaseId,
    },
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Commit(txn) => txn.bytes(),
            Self::Grant { .. } | Self::End { .. } => 0,
        }
    }
}

type Reply = oneshot::Sender<Result<Revision, StoreError>>;

/// What reaches the writer.
#[derive(Debug)]
pub(super) enum Command {
    /// Work, whoever waits for it, and its place in the queue.
    Work { work: Work, reply: Reply, room: OwnedSemaphorePermit },
    /// A reader found that opening number so-and-so of the database is of no use any more.
    Heal(u64),
    /// Look at the clock.
    Wake,
    /// Finish and close.
    Close(oneshot::Sender<()>),
}

/// Whoever waits for a piece of work.
enum Waiting {
    Caller(Reply, OwnedSemaphorePermit),
    /// The writer itself: a lease ran out.
    Expiry(LeaseId),
}

pub(super) struct Writer {
    medium: Arc<dyn Medium>,
    options: Options,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// What is known about the open database; `None` while there is none.
    engine: Option<Engine>,
    /// When to try again what failed, and the pause after that.
    retry_at: Duration,
    pause: Duration,
    /// Why writing is refused until `retry_at` although the database is open: it is full.
    full: Option<StoreError>,
    closing: Vec<oneshot::Sender<()>>,
}

/// Gathered from the queue.
struct Batch {
    work: Vec<Work>,
    waiting: Vec<Waiting>,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(
        medium: Arc<dyn Medium>,
        options: Options,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            medium,
            options,
            shared,
            commands,
            engine: None,
            retry_at: Duration::ZERO,
            pause: FIRST_PAUSE,
            full: None,
            closing: Vec::new(),
        }
    }

    pub(super) fn run(mut self, opened: oneshot::Sender<Result<(), StoreError>>) {
        if let Err(fault) = self.open() {
            let _ = opened.send(Err(self.name(fault, false)));
            return;
        }
        if opened.send(Ok(())).is_ok() {
            while self.turn() {}
        }
        self.shut();
    }

    /// One round; `false` when it was the last.
    fn turn(&mut self) -> bool {
        let mut batch = Batch { work: Vec::new(), waiting: Vec::new(), bytes: 0 };
        let mut open = match self.commands.recv_timeout(self.sleep()) {
            Ok(command) => self.take(command, &mut batch),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        };
        while open && batch.work.len() < BATCH_WORK && batch.bytes < BATCH_BYTES {
            let Ok(command) = self.commands.try_recv() else { break };
            open = self.take(command, &mut batch);
        }
        if self.engine.is_none() && self.now() >= self.retry_at {
            self.reopen();
        }
        if self.engine.is_some() && !self.refusing() {
            for lease in self.shared.leases.lock().take_expired(self.now()) {
                batch.work.push(Work::End { lease });
                batch.waiting.push(Waiting::Expiry(lease));
            }
        }
        if !batch.work.is_empty() {
            self.carry_out(batch);
        }
        open
    }

    fn now(&self) -> Duration {
        self.options.clock.now()
    }

    /// How long there is nothing to do, by the clock.
    fn sleep(&self) -> Duration {
        let next = if self.engine.is_none() || self.full.is_some() {
            Some(self.retry_at)
        } else {
            self.shared.leases.lock().next_deadline()
        };
        next.map_or(IDLE, |at| at.saturating_sub(self.now()).min(IDLE))
    }

    /// Takes a command in; `false` if it was the last.
    fn take(&mut self, command: Command, batch: &mut Batch) -> bool {
        match command {
            // Nobody waits for it any more: not doing it is what the caller hopes for.
            Command::Work { reply, .. } if reply.is_closed() => true,
            Command::Work { work, reply, room } => {
                batch.bytes = batch.bytes.saturating_add(work.bytes());
                batch.work.push(work);
                batch.waiting.push(Waiting::Caller(reply, room));
                true
            }
            Command::Heal(generation) => {
                let current = self.shared.generation.load(Ordering::Acquire);
                if self.engine.is_some() && generation == current {
                    self.give_up(&StoreError::unavailable("reading the file failed"));
                }
                true
            }
            Command::Wake => true,
            Command::Close(done) => {
                self.closing.push(done);
                false
            }
        }
    }

    /// Whether a full medium is given some time before it is written to again.
    fn refusing(&mut self) -> bool {
        if self.full.is_some() && self.now() >= self.retry_at {
            self.full = None;
        }
        self.full.is_some()
    }

    fn carry_out(&mut self, batch: Batch) {
        let Batch { work, waiting, .. } = batch;
        if self.refusing() {
            let error = self.full.clone().unwrap_or_else(|| self.shared.down_error());
            return self.refuse(waiting, &error);
        }
        let now = self.now();
        let Some(engine) = &mut self.engine else {
            let error = self.shared.down_error();
            return self.refuse(waiting, &error);
        };
        let before = engine.revision;
        let outcome = {
            let db = self.shared.db.read();
            let work: Vec<&Work> = work.iter().collect();
            match &*db {
                Some(db) => guarded(|| engine.apply(db, &work, &self.options, now)),
                None => Err(Fault::Io("the database is not open".to_owned())),
            }
        };
        match outcome {
            Ok(outcome) => self.answer(&work, waiting, outcome),
            Err(fault) => self.fail(waiting, fault, before),
        }
    }

    fn answer(&mut self, work: &[Work], waiting: Vec<Waiting>, outcome: Outcome) {
        self.pause = FIRST_PAUSE;
        let now = self.now();
        {
            let mut leases = self.shared.leases.lock();
            for (work, result) in work.iter().zip(&outcome.results) {
                match (work, result) {
                    (Work::Grant { lease, ttl }, Ok(_)) => leases.granted(*lease, *ttl, now),
                    (Work::End { lease }, _) => leases.ended(*lease),
                    _ => {}
                }
            }
        }
        if let Some(last) = outcome.published.last().map(|last| last.revision) {
            let mut ring = self.shared.ring.write();
            for published in outcome.published {
                ring.push(published);
            }
            drop(ring);
            self.shared.progress.send_modify(|progress| progress.revision = last);
        }
        for (waiting, result) in waiting.into_iter().zip(outcome.results) {
            if let Waiting::Caller(reply, _room) = waiting {
                let _ = reply.send(result);
            }
        }
    }

    /// A batch failed: opens the database again, at once, and answers with what is known then.
    fn fail(&mut self, waiting: Vec<Waiting>, fault: Fault, before: u64) {
        tracing::warn!(?fault, store = self.medium.name(), "writing failed; opening the store again");
        let error = self.name(fault, true);
        self.give_up(&error);
        self.reopen();
        // The file as it is now decides: what is not in it has not been carried out.
        let absent = self.engine.as_ref().is_some_and(|engine| engine.revision == before);
        let error = match error {
            StoreError::Full { reason, .. } => StoreError::Full { reason, maybe_applied: !absent },
            StoreError::Unavailable { reason, .. } => {
                StoreError::Unavailable { reason, maybe_applied: !absent }
            }
            other => other,
        };
        if let (StoreError::Full { reason, .. }, true) = (&error, self.engine.is_some()) {
            self.full = Some(StoreError::Full { reason: reason.clone(), maybe_applied: false });
            self.back_off();
        }
        self.refuse(waiting, &error);
    }

    fn refuse(&self, waiting: Vec<Waiting>, error: &StoreError) {
        let retry = self.retry_at.max(self.now());
        for waiting in waiting {
            match waiting {
                Waiting::Caller(reply, _room) => {
                    let _ = reply.send(Err(error.clone()));
                }
                Waiting::Expiry(lease) => self.shared.leases.lock().not_ended(lease, retry),
            }
        }
    }

    fn back_off(&mut self) {
        self.retry_at = self.now().saturating_add(self.pause);
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }

    /// Lets go of a database that is of no use any more.
    fn give_up(&mut self, why: &StoreError) {
        self.engine = None;
        *self.shared.down.write() = Some(why.clone());
        let gone = self.shared.db.write().take();
        // Closing it may fail as well, or worse; nothing of it is needed.
        let _ = guarded(|| {
            drop(gone);
            Ok(())
        });
        self.retry_at = self.now();
    }

    fn reopen(&mut self) {
        if let Err(fault) = self.open() {
            tracing::warn!(?fault, store = self.medium.name(), "the store cannot be opened again yet");
            *self.shared.down.write() = Some(self.name(fault, false));
            self.back_off();
        }
    }

    fn open(&mut self) -> Result<(), Fault> {
        let now = self.now();
        let opened = guarded(|| engine::open(&*self.medium, &self.options, now))?;
        self.shared.leases.lock().reconcile(&opened.leases, now);
        // What a failed batch may have left behind has not gone through the ring.
        self.shared.ring.write().clear();
        let revision = opened.engine.revision;
        self.engine = Some(opened.engine);
        *self.shared.db.write() = Some(opened.db);
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        *self.shared.down.write() = None;
        self.shared.progress.send_modify(|progress| progress.revision = revision);
        Ok(())
    }

    fn name(&self, fault: Fault, maybe_applied: bool) -> StoreError {
        match fault.into_error(maybe_applied) {
            StoreError::InUse { .. } => StoreError::InUse { path: self.medium.name() },
            other => other,
        }
    }

    fn shut(&mut self) {
        self.shared.progress.send_modify(|progress| progress.closed = true);
        self.give_up(&super::closed());
        // Whoever still waits in the queue is told by its reply's end.
        for done in self.closing.drain(..) {
            let _ = done.send(());
        }
    }
}

/// A panic in the database's code must not end the thread that everything waits for.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Fault::corrupt("the database's code panicked; the log has its message")))
}

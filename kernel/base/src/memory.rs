//! How much memory a process keeps that it does not use. The system's allocator keeps an arena for each thread that ever competed for one
//! and hardly ever returns what was freed in the middle of them: after a burst, a role would hold several times what it needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many arenas a process has that [`keep_little`] was called in: one for the thread that decides, one for all that wait for files.
const ARENAS: i32 = 2;

/// How much work makes it worth looking for pages to give back.
const WORTH: u64 = 32;

/// How long nothing must have happened before pages are given back.
const QUIET: Duration = Duration::from_secs(1);

/// For roles that share their machine with others' work: few arenas, whose threads then wait for each other now and then. To be called
/// before threads start. Does nothing where the allocator is another one.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: sets a number in the allocator under its own lock; it has no other precondition.
    let _old_allocators_refuse = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Gives pages that hold nothing back to the system. Takes milliseconds for each hundred MiB and makes allocations wait meanwhile.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: works on the allocator's own books under its locks; it has no precondition.
    let _whether_any = unsafe { libc::malloc_trim(0) };
}

/// Gives memory back once a burst of work is over: never while there is more to do, and never for little.
/// Clones are the same count.
#[derive(Debug, Clone, Default)]
pub struct AfterBursts {
    done: Arc<AtomicU64>,
}

impl AfterBursts {
    /// Notes a piece of work that took and freed memory.
    pub fn note(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks after it until the future is dropped.
    pub async fn watch(&self) {
        let mut looked = self.done.load(Ordering::Relaxed);
        let mut given = looked;
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.done.load(Ordering::Relaxed);
            if now == looked && now.wrapping_sub(given) >= WORTH {
                // Failing means that the process ends.
                let _ = tokio::task::spawn_blocking(give_back).await;
                given = now;
            }
            looked = now;
        }
    }
}

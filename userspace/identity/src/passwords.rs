//! Passwords: hashed and checked off the async threads, a few at a time, at the same cost for everybody, with a brake on guessing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plenum_base::auth::{HashCost, hash_secret, verify_secret};
use tokio::sync::Semaphore;

/// Hashes at once: each takes 19 MiB and tens of milliseconds of a processor.
const AT_ONCE: usize = 2;
/// How long a login waits for its turn.
const QUEUE: Duration = Duration::from_secs(10);
/// Wrong attempts for one uid within [`WINDOW`] before the rest of it is refused unseen.
const ATTEMPTS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Uids remembered; beyond, those whose window is over are forgotten, then all.
const REMEMBERED: usize = 10_000;

/// Why a password was not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many logins at once.
    Busy,
    /// Too many wrong attempts for this uid.
    Brake,
    /// The hash could not be made.
    Failed,
}

/// Hashes and checks passwords.
#[derive(Debug)]
pub(crate) struct Passwords {
    cost: HashCost,
    turns: Arc<Semaphore>,
    /// The hash of nothing anybody knows, for uids that do not exist.
    nobody: String,
    wrong: Mutex<HashMap<String, (Instant, u32)>>,
}

impl Passwords {
    pub(crate) fn new(cost: HashCost) -> Result<Self, String> {
        let unknown: [u8; 32] = rand::random();
        let nobody = hash_secret(&unknown, cost)?;
        Ok(Self { cost, turns: Arc::new(Semaphore::new(AT_ONCE)), nobody, wrong: Mutex::default() })
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let turn = tokio::time::timeout(QUEUE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Refused::Busy) };
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Refused::Failed)
    }

    /// Hashes a password or a framework's secret.
    pub(crate) async fn hash(&self, secret: &str) -> Result<String, Refused> {
        let (cost, secret) = (self.cost, secret.to_owned());
        self.off_thread(move || hash_secret(secret.as_bytes(), cost)).await?.map_err(|_| Refused::Failed)
    }

    /// Checks the password given for `uid`. `hash` is `None` for a uid that does not exist or has no password; the answer is no then,
    /// after the same work.
    pub(crate) async fn check(&self, uid: &str, given: &str, hash: Option<&str>) -> Result<bool, Refused> {
        if self.braked(uid, Instant::now()) {
            return Err(Refused::Brake);
        }
        let exists = hash.is_some();
        let (given, hash) = (given.to_owned(), hash.unwrap_or(&self.nobody).to_owned());
        let good = self.off_thread(move || verify_secret(given.as_bytes(), &hash)).await? && exists;
        self.count(uid, good, Instant::now());
        Ok(good)
    }

    fn braked(&self, uid: &str, now: Instant) -> bool {
        let wrong = self.wrong.lock();
        wrong.get(uid).is_some_and(|(since, count)| *count >= ATTEMPTS && now < *since + WINDOW)
    }

    fn count(&self, uid: &str, good: bool, now: Instant) {
        let mut wrong = self.wrong.lock();
        if good {
            wrong.remove(uid);
            return;
        }
        if wrong.len() >= REMEMBERED && !wrong.contains_key(uid) {
            wrong.retain(|_, (since, _)| now < *since + WINDOW);
            if wrong.len() >= REMEMBERED {
                wrong.clear();
            }
        }
        let (since, count) = wrong.entry(uid.to_owned()).or_insert((now, 0));
        if now >= *since + WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn right_wrong_and_unknown() {
        let passwords = Passwords::new(HashCost::Light).unwrap();
        let hash = passwords.hash("pass").await.unwrap();
        assert_eq!(passwords.check("ann", "pass", Some(&hash)).await, Ok(true));
        assert_eq!(passwords.check("ann", "Pass", Some(&hash)).await, Ok(false));
        assert_eq!(passwords.check("bob", "pass", None).await, Ok(false));
    }

    #[test]
    fn guessing_is_braked_for_the_rest_of_the_window() {
        let passwords = Passwords::new(HashCost::Light).unwrap();
        let start = Instant::now();
        for _ in 0..ATTEMPTS {
            assert!(!passwords.braked("ann", start));
            passwords.count("ann", false, start);
        }
        assert!(passwords.braked("ann", start) && !passwords.braked("bob", start));
        assert!(!passwords.braked("ann", start + WINDOW));
        passwords.count("ann", false, start + WINDOW);
        assert!(!passwords.braked("ann", start + WINDOW), "a new window");
        passwords.count("ann", true, start + WINDOW);
        assert!(passwords.wrong.lock().is_empty());
        for n in 0..REMEMBERED + 10 {
            passwords.count(&n.to_string(), false, start);
        }
        assert!(passwords.wrong.lock().len() <= REMEMBERED);
    }
}

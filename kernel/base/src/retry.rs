//! Waiting between attempts: exponential backoff with jitter. The caller decides what is worth another attempt.

use std::future::Future;
use std::time::{Duration, Instant};

/// Delays that double from `first` to `most`, each drawn at random from its upper half, so that many waiters do not return together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `most`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Self { first, most, next: first }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.most);
        full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Repeats `attempt` until it succeeds, `worth` says that the error is final, or `within` has passed; the last error is returned.
///
/// # Errors
/// The error of the last attempt.
pub async fn within<T, E, F, Fut>(
    within: Duration,
    mut backoff: Backoff,
    worth: impl Fn(&E) -> bool,
    mut attempt: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + within;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let delay = backoff.delay();
        if !worth(&error) || Instant::now() + delay >= end {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_bounds_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(450));
        for full in [100, 200, 400, 450, 450] {
            let delay = backoff.delay();
            assert!(
                delay >= Duration::from_millis(full / 2) && delay <= Duration::from_millis(full),
                "{delay:?}"
            );
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn stops_at_success_at_a_final_error_and_at_the_deadline() {
        let quick = || Backoff::new(Duration::from_millis(1), Duration::from_millis(2));
        let mut left = 3;
        let done = within(
            Duration::from_secs(5),
            quick(),
            |_: &&str| true,
            || {
                left -= 1;
                let now = left;
                async move { if now == 0 { Ok(now) } else { Err("again") } }
            },
        );
        assert_eq!(done.await, Ok(0));
        let mut tries = 0;
        let done = within(
            Duration::from_secs(5),
            quick(),
            |_: &&str| false,
            || {
                tries += 1;
                async { Err::<(), _>("final") }
            },
        );
        assert_eq!(done.await, Err("final"));
        assert_eq!(tries, 1);
        let done =
            within(Duration::from_millis(20), quick(), |_: &&str| true, || async { Err::<(), _>("late") });
        assert_eq!(done.await, Err("late"));
    }
}

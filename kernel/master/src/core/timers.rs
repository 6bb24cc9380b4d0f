//! When the core wants to be woken, and for what.
//!
//! Owns the order of deadlines. What is due is decided by the concern that set the timer: a timer is never cancelled, it is checked against
//! the deadline its owner still has and ignored if that has moved.

use std::collections::BTreeSet;

use plenum_api::Millis;

/// What a deadline is about. Keys may be stale when the timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Free resources are to be offered.
    Allocate,
    /// A framework's stream needs a sign of life.
    Heartbeat(u32),
    /// A framework stayed away longer than it may.
    Failover(u32),
    /// An agent is to be pinged, or has not answered.
    Ping(u32),
    /// An agent without connection has been away too long.
    Away(u32),
    /// Agents known from before the last start have had their time.
    Recovered,
    /// An offer was held too long.
    Offer(u64),
    /// The time that tasks of a draining agent have is over.
    Drain(u32),
    /// Changes of the overlay network are to be told.
    Overlay,
}

/// Deadlines in order.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Millis, Timer)>);

impl Timers {
    /// Wants `timer` at `at`.
    pub fn set(&mut self, at: Millis, timer: Timer) {
        self.0.insert((at, timer));
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Millis> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one timer that is due at `now`, with the deadline it was set for.
    pub fn due(&mut self, now: Millis) -> Option<(Millis, Timer)> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first)
    }
}

//! Bugs that a test switches on, to see that the simulation finds them. Without the feature `deliberate-bugs` none is ever on, and nothing of
//! this is compiled into decisions.

#[cfg(feature = "deliberate-bugs")]
use std::sync::atomic::{AtomicU8, Ordering};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Instances are launched before they are written down.
    LaunchBeforeCommit = 1,
    /// An instance gets the id of one that was there before.
    ReusedId,
    /// Whoever was asked to end once is not asked again.
    KilledOnce,
    /// An instance that was given up with its node is not remembered, and runs on when the node returns.
    ForgottenUnreachable,
    /// Instances that serve are ended although too few others do.
    CapacityIgnored,
}

#[cfg(feature = "deliberate-bugs")]
static ON: AtomicU8 = AtomicU8::new(0);

/// Switches one on for this process, or all off.
#[cfg(feature = "deliberate-bugs")]
pub fn switch(bug: Option<Bug>) {
    ON.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Whether that one is on.
#[cfg(feature = "deliberate-bugs")]
pub(super) fn on(bug: Bug) -> bool {
    ON.load(Ordering::Relaxed) == bug as u8
}

/// None is.
#[cfg(not(feature = "deliberate-bugs"))]
pub(super) const fn on(_: Bug) -> bool {
    false
}

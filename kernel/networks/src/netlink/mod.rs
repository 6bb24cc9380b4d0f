//! Netlink from this process: messages ([`wire`]), links, addresses and routes ([`route`]), elements of nftables maps ([`elements`]), tracked
//! connections ([`flows`]). Nothing
//! here decides anything.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod elements;
pub(crate) mod flows;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod wire;

/// Links are changed by one after the other: the kernel has one lock for them, and threads that meet there spin.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

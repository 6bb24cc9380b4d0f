//! The gateway over real sockets on loopback, in front of components and services that the tests play.

#![allow(clippy::unwrap_used)]

mod callers;
mod fixture;
mod fleet;
mod hostile;
mod leaders;
mod relays;
mod services;

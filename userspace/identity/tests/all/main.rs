//! Identity over real sockets: bootstrap, login, accounts, admission, renewal, crash and restart.

// Also in the helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used)]

mod accounts;
mod admission;
mod bootstrap;
mod crash;
mod etcd;
mod fixture;
mod fleet;
mod joining;
mod login;

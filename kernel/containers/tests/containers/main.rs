//! The native runtime against this machine: real processes, namespaces and control groups; needs root.

// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

mod attach;
mod disk;
mod enter;
mod fetch;
mod fetch_hostile;
mod fetch_kinds;
mod harness;
mod image;
mod isolation;
mod joined;
mod life;
mod limits;
mod logs;
mod numbers;
mod recovery;
mod session;
mod unprivileged;
mod users;
mod volumes;

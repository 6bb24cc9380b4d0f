//! The crate over real sockets and files.

// Also in the helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used)]

mod auth;
mod fixture;
mod renew;
mod resume;
mod serve;

//! The agent as a process of its own: a scripted master over mutual TLS, real containers, its HTTP port.
//! Needs root for containers; without it only what needs none is run.

// Helpers outside of test functions unwrap too: a failure there fails the test that called.
#![allow(clippy::unwrap_used)]

mod attach;
mod devices;
mod drivers;
mod executor;
mod figures;
mod http;
mod life;
mod master;
mod nested;
mod pods;
mod users;
mod volumes;
mod world;

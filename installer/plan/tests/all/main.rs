//! Tests of the crate from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

mod file;
mod findings;
mod steps;
mod world;

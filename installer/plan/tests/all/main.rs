//! Tests of the crate from outside.

mod file;
mod findings;
mod steps;
mod world;

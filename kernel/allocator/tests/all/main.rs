//! Tests of the allocator from outside: golden scripts, and random histories held against the reference.

// The lint spares only functions marked as tests; everything here is one.
#![allow(clippy::unwrap_used)]

mod golden;
mod pair;
mod random;
mod rules;

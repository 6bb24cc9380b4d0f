//! Tests of the allocator from outside: golden scripts, and random histories held against the reference.

mod golden;
mod pair;
mod random;

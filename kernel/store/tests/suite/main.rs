//! The store's promises, held against both implementations, and what is particular to each.

// Everything here is a test, but the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

mod contract;
mod crash;
mod disk;
mod embedded;
mod etcd;
mod etcd_server;
mod full;
mod kill;

//! Members of a real etcd on loopback addresses, with mutual TLS.

#![allow(clippy::unwrap_used)]

mod faults;
mod members;
mod moving;
mod users;
mod world;

//! Members of a real etcd on loopback addresses, with mutual TLS.

mod faults;
mod members;
mod moving;
mod world;

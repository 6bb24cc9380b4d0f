//! The store's promises, held against both implementations, and what is particular to each.

mod contract;
mod crash;
mod disk;
mod embedded;
mod etcd;
mod etcd_server;
mod kill;

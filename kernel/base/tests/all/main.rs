//! The crate over real sockets and files.

mod auth;
mod fixture;
mod renew;
mod serve;

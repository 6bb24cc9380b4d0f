//! What every Plenum process shares: the skeleton of a role, configuration, places on disk, TLS and certificates,
//! HTTP serving and calling, authentication, clocks and frames. Nothing here knows what a role does.

pub mod auth;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod component;
pub mod config;
mod connect;
pub mod files;
pub mod frames;
pub mod http_error;
pub mod leading;
mod logging;
pub mod memory;
mod notify;
pub mod pki;
pub mod places;
pub mod policy;
pub mod policy_feed;
pub mod prefixed;
pub mod resolve;
pub mod retry;
pub mod serve;
pub mod service;
pub mod sockets;
pub mod tls;
pub mod turns;
pub mod users;

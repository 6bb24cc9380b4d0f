//! The master: resource manager of the cluster.
//!
//! [`core`] decides, purely; the rest of the crate is the shell around it: HTTP (`http`), the agents' door, the store, and the one task that
//! owns the state (`shell`). [`run`] is the role; [`start`] is the same without a certificate of one's own to load, for tests and benchmarks.

mod config;
pub mod core;
mod http;
mod shell;

pub use config::Config;
pub use shell::{DEPOSED, MasterError, Running, Setup, run, start};

/// The Mesos release whose interfaces are spoken.
pub const MESOS_VERSION: &str = "1.11.0";

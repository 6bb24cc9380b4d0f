//! The master: resource manager of the cluster.
//!
//! [`core`] decides, purely; the rest of the crate is the shell around it: HTTP, the agents' door, the store, the one task that owns the state.

pub mod core;

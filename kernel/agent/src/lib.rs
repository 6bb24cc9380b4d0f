//! The node agent: registers with the master, launches and watches containers, keeps their status updates until they are
//! acknowledged, and survives its own restarts. See docs/adr/0011-agent.md.

pub mod core;
pub mod disk;
pub mod files;

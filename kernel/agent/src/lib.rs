//! The node agent: registers with the master, launches and watches containers, keeps their status updates until they are
//! acknowledged, and survives its own restarts. See docs/adr/0011-agent.md.

mod config;
pub mod core;
mod devices;
pub mod disk;
mod domain;
pub mod files;
mod http;
pub mod machine;
mod shell;

pub use config::{Config, EngineConfig, EngineUse, ImagesConfig, Parts, TASK_PATH, UsersConfig};
pub use domain::DomainError;
pub use plenum_networks::Settings as NetworksConfig;
pub use shell::{StartError, run};

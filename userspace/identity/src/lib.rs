//! Identity: accounts, tokens, the cluster's certificate authority, admission of nodes, and the policy every other component
//! checks requests with. Checking requests is `plenum_base::auth`; what a permission means is each component's business.

mod api;
mod audit;
mod bootstrap;
mod config;
mod directory;
mod fleet;
mod local;
mod passwords;
mod records;
mod role;
mod tokens;
mod vault;

pub use audit::AUDIT_FILE;
pub use bootstrap::{Admin, Bootstrap, BootstrapError, bootstrap, reset_admin};
pub use config::Config;
pub use directory::{DirectoryError, JOIN_TOKEN_PREFIX, JoinToken, NewJoinToken};
pub use fleet::{First, bootstrap_fleet, carry_over};
pub use role::{RunError, run, run_on};

//! What tests and measurements share: simulated agents ([`simagents`]) and child processes that never outlive their parent ([`process`]).

pub mod process;
pub mod simagents;

//! Putting a plan onto hosts over SSH: `plenum install`, `plenum uninstall`, and nodes that are added, removed and replaced. What is to be done
//! is decided by `installer/plan`, and done on the hosts by `installer/host`; here is what lies between.

pub mod carry;
pub mod edit;
pub mod error;
pub mod gateway;
pub mod lock;
pub mod log;
pub mod look;
pub mod onhost;
pub mod payload;
pub mod progress;
pub mod remote;
pub mod secrets;
pub mod ssh;
pub mod work;

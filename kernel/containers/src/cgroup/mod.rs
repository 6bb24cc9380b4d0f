//! Control groups: which hierarchies this machine has ([`layout`]), what a container's groups are ([`plan`]), making
//! the common parents ([`prepare`]), reading what is used ([`usage`]). The shim makes and removes a container's own.

pub mod folder;
pub mod layout;
pub mod plan;
pub mod prepare;
pub mod stats;
pub mod usage;

pub use folder::machine;
pub use layout::{Hierarchy, Layout};
pub use prepare::Prepared;

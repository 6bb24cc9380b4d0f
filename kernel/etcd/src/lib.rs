//! One master's member of the cluster's store: `plenum etcd`. It runs etcd as its child, brings it into the cluster or takes it out, and
//! cares for it: members that leave, alarms, fragmentation, users, what is wrong. What is kept in etcd is the components' own.
//!
//! Decisions are pure ([`join`], [`care`], [`users`]); processes, files and etcd are reached from [`member`], [`caretaker`], [`granting`] and [`admin`].

mod admin;
mod care;
mod caretaker;
pub mod command;
mod config;
mod folder;
mod granting;
mod join;
mod member;
mod metrics;
mod moving;
mod process;
mod recover;
mod status;
mod users;

pub use config::Config;
pub use member::{MemberError, run};
pub use moving::{MoveError, Moved, Target, backup, move_store, restore};
pub use recover::{RecoverError, Recovered, recover};
pub use status::{MemberStatus, Phase, Status};

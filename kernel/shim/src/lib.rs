//! The launcher, supervisor and PID 1 of a single container.
//!
//! A machine runs a thousand of these, so this crate has no async runtime, no threads and no dependency beyond the
//! system-call wrappers. Decisions (which limits, which groups, which user) are made by `plenum-containers` and arrive
//! here as data; this crate carries them out in order and says precisely which step failed.
//!
//! The library half exists so that `plenum-containers` speaks the same [`wire`] format and reads the same [`proc`] facts.

pub mod beneath;
pub mod cgroup;
pub mod channel;
pub mod devices;
pub mod exec;
pub mod failure;
pub mod files;
pub mod ids;
pub mod init;
pub mod join;
pub mod launch;
pub mod logs;
pub mod mounts;
pub mod overlay;
pub mod proc;
pub mod session;
pub mod supervise;
pub mod sys;
pub mod task;
pub mod wire;

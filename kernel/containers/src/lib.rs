//! Container runtimes behind one trait, and the fetcher that fills sandboxes.
//!
//! The [`Runtime`] trait is what the agent sees. [`native::NativeRuntime`] is the implementation with namespaces and
//! control groups, carried out by one `plenum-shim` process a container (ADR 9), so that containers outlive the agent.
//! [`fetch`] downloads and unpacks what a task asks for. Decisions are pure functions ([`cgroup::plan`], [`user`],
//! [`capabilities`], [`spec`]); processes, sockets and files are in [`native`] and [`fetch`].

pub mod capabilities;
pub mod cgroup;
pub mod fetch;
pub mod ids;
pub mod inside;
pub mod isolation;
pub mod measure;
pub mod native;
pub mod oom;
pub mod quota;
pub mod rlimits;
pub mod runtime;
pub mod seccomp;
pub mod session;
pub mod spec;
pub mod traffic;
pub mod tree;
pub mod user;

pub use ids::UserNamespaces;
pub use inside::{Device, Mount, Seccomp, Source};
pub use isolation::{Feature, Isolation};
pub use native::{NativeRuntime, RuntimeConfig};
pub use oom::OutOfMemory;
pub use plenum_shim::wire::Rlimit;
pub use quota::Projects;
pub use runtime::{
    DeviceIo, DiskUse, Enter, Entered, Exit, ExitReason, ExitStatus, Launched, Probe, Probed, Recovered,
    RecoveredState, Runtime, RuntimeError, Stall, Statistics, Usage,
};
pub use session::{Hold, Input, Open, Output, Session, Size};
pub use spec::{Command, ContainerSpec, DiskLimit, Limits, LogBudget, Network, Root, Share, SpecError};
pub use traffic::Traffic;
pub use tree::remove_tree;

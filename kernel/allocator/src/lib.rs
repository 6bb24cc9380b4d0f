//! Who is offered what: hierarchical roles, dominant resource fairness, weights, limits, reservations,
//! filters, and why not.
//!
//! Pure: events and the time go in, grants and the next moment to ask come out. Owns the ledger of what is
//! free on every agent and the decision who may have it. Leaves to the master what an offer is, who may
//! call, and everything durable. `docs/adr/0008-allocator.md` defines what a cycle offers; [`reference`] is
//! the same definition in plain loops.

mod bag;
mod bits;
mod cycle;
mod explain;
mod filters;
mod frameworks;
mod judge;
mod kinds;
mod ledger;
mod options;
pub mod reference;
mod report;
mod share;
mod slab;
mod state;
mod tree;

pub use explain::{Explanation, Rule, Verdict};
pub use filters::LONGEST as LONGEST_FILTER;
pub use options::{
    AgentSpec, Allocation, AllocatorError, Capabilities, FrameworkSpec, Grant, Holding, Options, Stats,
};
pub use report::{AgentReport, HoldingReport, RoleReport};
pub use state::Allocator;

//! The verbs of the command line that talk to a cluster's gateway.
pub mod api;
pub mod context;
pub mod error;
pub mod table;
pub mod text;

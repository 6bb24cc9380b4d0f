//! What an installation wants and what stands between: `cluster.yaml` as types, what hosts report of themselves, findings, and the ordered
//! steps with their reasons. Pure: no files, sockets or clocks. `installer/provision` carries steps out, `installer/host` is what they run.

pub mod cluster;
pub mod facts;
pub mod spec;

pub use cluster::Cluster;
pub use facts::Facts;
pub use spec::HostSpec;

//! What an installation wants and what stands between: `cluster.yaml` as types, what hosts report of themselves, findings, and the ordered
//! steps with their reasons. Pure: no files, sockets or clocks. `installer/provision` carries steps out, `installer/host` is what they run.

pub mod check;
pub mod cluster;
pub mod dcos;
pub mod facts;
pub mod findings;
pub mod init;
pub mod nearest;
pub mod ports;
pub mod rules;
pub mod schema;
pub mod settings;
pub mod spec;
pub mod steps;
pub mod tree;
pub mod ways;

pub use cluster::Cluster;
pub use facts::Facts;
pub use spec::HostSpec;
pub use steps::plan;

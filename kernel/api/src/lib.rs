//! The system-call interface of Plenum as types: Mesos v1 messages in both encodings, the private agent protocol,
//! the resources algebra, RecordIO, time and ids.
//!
//! Owns names, shapes and encodings; leaves every decision about them to the other crates. No I/O and no clock.

mod generated;
mod json;

pub mod codec;
pub mod ids;
pub mod recordio;
pub mod resources;
mod scalar;
pub mod schema;
mod time;

pub use generated::google::protobuf;
pub use generated::mesos::v1 as mesos;
pub use generated::mesos::v1::{agent, allocator, executor, maintenance, master, quota, scheduler};
pub use generated::plenum::internal;
pub use ids::IdSource;
pub use json::WireEnum;
pub use time::{Millis, Now};

//! Long-running services: Marathon's v2 API over the Mesos v1 scheduler API, as an ordinary client of the kernel.
//!
//! [`core`] decides; the rest carries out: the store, the driver, HTTP.

pub mod core;
pub mod wire;

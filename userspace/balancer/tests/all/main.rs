//! Tests of the balancer: plans by script, and real packets in network namespaces that the tests make.
#![allow(clippy::unwrap_used)]

mod kernel;
mod namespace;
mod plans;

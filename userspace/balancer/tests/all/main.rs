//! Tests of the balancer: plans by script, and real packets in network namespaces that the tests make.

mod kernel;
mod namespace;
mod plans;

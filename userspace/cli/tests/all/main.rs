//! The verbs as they are typed, against a gateway on loopback that answers by script.

#![allow(clippy::unwrap_used)]

mod apps;
mod errors;
mod inside;
mod login;
mod logs;
mod nodes;
mod packages;
mod services;
mod tokens;
mod world;

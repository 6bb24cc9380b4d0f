//! The verbs as they are typed, against a gateway on loopback that answers by script.

mod apps;
mod errors;
mod login;
mod logs;
mod packages;
mod world;

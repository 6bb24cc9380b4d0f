//! The whole scheduler over loopback: HTTP in front, a scripted master behind, an embedded store below.
#![allow(clippy::unwrap_used)] // A test ends where something unexpected happens.

mod flow;

//! Tests of discovery: scripts of events, DNS over real sockets, a publisher on a real stream.
#![allow(clippy::unwrap_used)]

mod dns;
mod events;
mod fleet;
mod publisher;
mod role;
mod stream;

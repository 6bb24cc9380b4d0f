//! Tests of discovery: scripts of events, DNS over real sockets, a publisher on a real stream.

mod dns;
mod events;
mod publisher;
mod stream;

//! The master over real sockets on loopback: HTTP in both encodings, a scripted agent behind mutual TLS, restarts, hostile input.

mod by_hand;
mod fixture;
mod fleet;
mod flow;
mod hostile;

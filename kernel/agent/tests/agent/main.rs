//! The agent as a process of its own: a scripted master over mutual TLS, real containers, its HTTP port.
//! Needs root for containers; without it only what needs none is run.

mod executor;
mod http;
mod life;
mod master;
mod world;

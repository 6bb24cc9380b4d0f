//! The Cosmos API: media types, bodies, refusals and what is answered.

pub mod bodies;
pub mod error;
pub mod media;
pub mod packages;

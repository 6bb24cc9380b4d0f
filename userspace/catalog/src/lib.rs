//! The package catalog: the Cosmos API over repositories in Universe format.

pub mod api;
pub mod definition;
pub mod index;
pub mod options;
pub mod render;
pub mod template;

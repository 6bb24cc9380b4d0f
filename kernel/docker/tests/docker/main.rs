//! The runtime against a real engine. Skipped, with the reason, where there is none.
#![allow(clippy::unwrap_used)]

mod both;
mod faults;
mod images;
mod inside;
mod life;
mod output;
mod restart;
mod world;

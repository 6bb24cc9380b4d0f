//! The runtime against a real engine. Skipped, with the reason, where there is none.

mod faults;
mod inside;
mod life;
mod output;
mod restart;
mod world;

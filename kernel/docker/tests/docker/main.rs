//! The runtime against a real engine. Skipped, with the reason, where there is none.

mod life;
mod world;

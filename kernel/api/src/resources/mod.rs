//! The resources algebra: sums, differences and comparisons of what agents have and tasks use.
//!
//! [`Resources`] is a normalised collection: two items that may be one are one, nothing is empty, scalars are fixed
//! point with three decimals, ranges are coalesced, and reservations are a stack (the post-refinement form), whatever
//! form they came in. Wire messages come in through [`Resources::from_mesos`], which validates, and leave through
//! [`Resources::to_mesos`]. Owns no policy: who may have what is for the allocator and the master.

mod amount;
mod apply;
mod checkpoint;
mod collection;
mod convert;
mod item;
mod meta;
mod quantities;
mod ranges;
pub mod role;
#[cfg(test)]
mod tests;
mod text;
mod validate;

pub use amount::Amount;
pub use apply::ApplyError;
pub use checkpoint::{allocated, resources_of, unallocated};
pub use collection::Resources;
pub use convert::Format;
pub use item::{Item, Name, Value};
pub use meta::{Meta, Reservation};
pub use quantities::Quantities;
pub use ranges::Ranges;
pub use text::ParseError;
pub use validate::{ResourceError, validate};

//! Images against a registry of the tests' own with faults, hostile layers, and Debian's registry. Needs root, as overlayfs' own files do.

// Also in the helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used)]

mod collecting;
mod faults;
mod fixture;
mod hostile;
mod pulls;
mod real;
mod registry;

//! Images against a registry of the tests' own with faults, hostile layers, and Debian's registry. Needs root, as overlayfs' own files do.

mod collecting;
mod faults;
mod fixture;
mod hostile;
mod pulls;
mod real;
mod registry;

//! The resources algebra.

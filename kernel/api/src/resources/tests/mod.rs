//! Tests of the algebra.

mod cases;
mod laws;
mod operations;

//! Tests of both encodings.

mod generate;
mod golden;
mod round_trip;

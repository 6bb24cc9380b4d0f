//! The core by scripts: events in, effects out.

mod command;
mod custom;
mod gpus;
mod operations;
mod pods;
mod restart;
mod script;
mod updates;

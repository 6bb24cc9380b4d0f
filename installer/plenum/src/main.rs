//! `plenum`: one binary with every role of the datacenter, the supervisor of a single machine, and the verbs of the command line.

mod supervise;

fn main() {}

//! The whole scheduler over loopback: HTTP in front, a scripted master behind, an embedded store below.

mod flow;

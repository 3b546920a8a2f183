//! Whole reviews: golden cases, the corpus, and invariants of every reply.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod caller;
mod corpus;
mod golden;
mod hostile;
mod property;
mod support;
mod tenant;
mod workload;

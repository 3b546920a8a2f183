//! Forms of what a command prints. Pure.

use clap::ValueEnum;

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs: every field, times in RFC 3339.
    Json,
}

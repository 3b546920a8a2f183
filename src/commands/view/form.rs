//! Forms of what a command prints. Pure.

use clap::ValueEnum;

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Table for people
    Table,
    /// JSON for programs: all fields, times in RFC 3339
    Json,
}

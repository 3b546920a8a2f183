//! `sidescale config`: prints the configuration file's JSON Schema, and validates files. I/O of files only.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use sidescale_webhook::profile::Config;

use crate::cluster::chain;
use crate::config;

/// Arguments of `sidescale config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub what: What,
}

/// Subcommands of `sidescale config`.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Print the JSON Schema (draft-07), for editors and CI
    Schema,
    /// Check files as `serve` does; exits with 1 if one is refused
    Validate {
        /// Configuration files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// A file is not accepted, or the answer cannot be written.
pub fn run(args: ConfigArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let ConfigArgs { what } = args;
    match what {
        What::Schema => out
            .write_all(schema().as_bytes())
            .context("write the schema"),
        What::Validate { files } => {
            let mut wrong = Vec::new();
            for file in &files {
                match config::load(file) {
                    Ok(policy) => {
                        writeln!(out, "{}: ok", file.display())?;
                        for remark in policy.remarks() {
                            writeln!(out, "{}: warning: {remark}", file.display())?;
                        }
                    }
                    Err(error) => wrong.push(format!("{}: {}", file.display(), chain(&error))),
                }
            }
            anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            Ok(())
        }
    }
}

/// Returns the schema as text.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", Config::schema())
}

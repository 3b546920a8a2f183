//! The `sidescale` binary.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    sidescale::app::run(sidescale::args::Args::parse())
}

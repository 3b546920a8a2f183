//! The command line of `sidescale`. Pure.

use clap::{Parser, Subcommand};

use crate::commands::apikey_manager::ApikeyManagerArgs;
use crate::commands::check::CheckArgs;
use crate::commands::cleanup::CleanupArgs;
use crate::commands::config::ConfigArgs;
use crate::commands::demo::DemoArgs;
use crate::commands::rotate::RotateArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::status::StatusArgs;

/// Gets annotated Kubernetes pods into a tailnet, and keeps their keys fresh
#[derive(Debug, Parser)]
#[command(name = "sidescale", version, about, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that `sidescale` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the webhook and the rotation of keys
    Serve(Box<ServeArgs>),
    /// Keep Headscale's API key fresh, from beside Headscale
    ApikeyManager(Box<ApikeyManagerArgs>),
    /// Show every key: whose, how old, when renewed, who uses it, what is wrong
    Status(StatusArgs),
    /// Say why a pod is, or is not, a node of the tailnet, and what to type next
    Check(CheckArgs),
    /// Have keys replaced now, and the old ones ended at once if they have leaked
    Rotate(RotateArgs),
    /// Show, or remove, what nothing uses any more at the control planes
    Cleanup(CleanupArgs),
    /// Print the configuration file's JSON Schema, or say what is wrong with a file
    Config(ConfigArgs),
    /// Show it all on this machine, with nothing installed; takes some seconds
    Demo(DemoArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_flag_is_well_formed_and_has_help_and_a_variable() {
        let mut command = Args::command();
        command.build();
        command.clone().debug_assert();
        for sub in command
            .get_subcommands()
            .filter(|sub| matches!(sub.get_name(), "serve" | "apikey-manager"))
        {
            for arg in sub
                .get_arguments()
                .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
            {
                assert!(arg.get_help().is_some(), "--{} has no help", arg.get_id());
                assert!(
                    arg.get_env().is_some(),
                    "--{} has no variable",
                    arg.get_id()
                );
            }
        }
    }
}

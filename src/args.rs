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

/// Adds annotated Kubernetes pods to a tailnet, and renews their keys
#[derive(Debug, Parser)]
#[command(name = "sidescale", version, about, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `sidescale`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the webhook and key rotation
    Serve(Box<ServeArgs>),
    /// Create and renew Headscale's API key over its Unix socket
    ApikeyManager(Box<ApikeyManagerArgs>),
    /// Show every key: user, age, expiration, next renewal, pods, problems
    Status(StatusArgs),
    /// Show why a pod is, or is not, a node of the tailnet, and the command to type next
    Check(CheckArgs),
    /// Replace keys now, and expire the old ones at once if they have leaked
    Rotate(RotateArgs),
    /// Show or remove unused keys, nodes and users at the control planes
    Cleanup(CleanupArgs),
    /// Print the configuration file's JSON Schema, or validate files
    Config(ConfigArgs),
    /// Demonstrate Sidescale on this machine, with nothing installed; takes a few seconds
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

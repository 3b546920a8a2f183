//! Runs the command from the command line: runtime, log, signals, exit code.

use std::io::stdout;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::args::{Args, Command};
use crate::commands::{apikey_manager, check, cleanup, config, demo, rotate, serve, status};
use crate::telemetry;

/// Runs a command to its end: 0 success, 1 failure. Bad usage (2) has exited before.
pub fn run(args: Args) -> ExitCode {
    let Args { command } = args;
    if let Command::ApikeyManager(args) = &command
        && let Err(problem) = args.checked()
    {
        let error = Args::command().error(ErrorKind::ValueValidation, problem);
        let _ = error.print();
        return ExitCode::from(2);
    }
    // It fails only if a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.into());
            return ExitCode::FAILURE;
        }
    };
    let result = match command {
        Command::Serve(args) => {
            telemetry::init(&args.log);
            let result = runtime.block_on(with_signals(|shutdown| serve::run(*args, shutdown)));
            if let Err(error) = &result {
                error!(error = format!("{error:#}"), "Stopped");
            }
            result.is_ok()
        }
        Command::ApikeyManager(args) => {
            telemetry::init(&args.log);
            let managed = with_signals(|shutdown| apikey_manager::run(*args, shutdown));
            let result = runtime.block_on(managed);
            if let Err(error) = &result {
                error!(error = format!("{error:#}"), "Stopped");
            }
            result.is_ok()
        }
        Command::Status(args) => {
            let typed = with_signals(|shutdown| {
                until_stopped(shutdown, async { status::run(args, &mut stdout()).await })
            });
            told(runtime.block_on(typed))
        }
        Command::Check(args) => {
            let typed = with_signals(|shutdown| {
                until_stopped(shutdown, async { check::run(args, &mut stdout()).await })
            });
            told(runtime.block_on(typed))
        }
        Command::Rotate(args) => {
            let typed = with_signals(|shutdown| {
                until_stopped(shutdown, async { rotate::run(args, &mut stdout()).await })
            });
            told(runtime.block_on(typed))
        }
        Command::Cleanup(args) => {
            let typed = with_signals(|shutdown| {
                until_stopped(shutdown, async { cleanup::run(args, &mut stdout()).await })
            });
            told(runtime.block_on(typed))
        }
        Command::Config(args) => told(config::run(args, &mut stdout())),
        Command::Demo(args) => {
            let result = runtime.block_on(with_signals(|shutdown| demo::run(args, shutdown)));
            if let Err(error) = &result {
                complain(error);
            }
            result.is_ok()
        }
    };
    // Tasks that hang must not block the process.
    runtime.shutdown_background();
    if result {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a command that may be stopped at any point.
async fn until_stopped(
    shutdown: CancellationToken,
    command: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        result = command => result,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("stopped before it had finished")),
    }
}

/// Returns whether the command succeeded; prints the error if not.
fn told(result: anyhow::Result<()>) -> bool {
    if let Err(error) = &result {
        complain(error);
    }
    result.is_ok()
}

/// Runs a command that stops cleanly on the first SIGTERM or SIGINT, and at once on the second.
async fn with_signals<F>(command: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let signals = async {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "Stopping");
            if first {
                shutdown.cancel();
            }
        }
    };
    tokio::select! {
        result = command(shutdown.clone()) => result,
        () = signals => Err(anyhow::anyhow!("received a second signal before shutdown was complete")),
    }
}

/// Prints on standard error why a command failed.
#[expect(
    clippy::print_stderr,
    reason = "a command's failure is for the person who typed it"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("sidescale: {error:#}");
}

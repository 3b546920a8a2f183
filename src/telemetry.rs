//! Logs: one line per outcome, as JSON or for people. I/O: standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The Kubernetes client writes a line for each failed call; whoever made the call says it better, and once.
const QUIET: &str = "kube_client=off,kube_runtime=off";

/// Flags of the log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Form of the log
    #[arg(long, env = "SIDESCALE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,kube=debug`
    #[arg(long, env = "SIDESCALE_LOG_LEVEL", default_value = "info", value_name = "FILTER", value_parser = filter)]
    pub log_level: String,
}

/// Names the form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// Lines for people
    Human,
}

/// Sends every log line of the process to standard error from now on. A second call changes nothing.
pub fn init(args: &LogArgs) {
    let LogArgs {
        log_format,
        log_level,
    } = args;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{QUIET},{log_level}")))
        .with_writer(std::io::stderr)
        .with_target(false);
    // Its only error is that somebody else has set a log, and then there is one.
    let _ = match log_format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        LogFormat::Human => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
}

fn filter(text: &str) -> Result<String, ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}

//! Logs: one line per outcome, as JSON or for people. I/O: standard error.

use std::io::IsTerminal;

use tracing::{Dispatch, Metadata};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The Kubernetes client logs each failed call; the caller reports it better, and once.
const QUIET: &str = "kube_client=off,kube_runtime=off";

/// Logs whole answers of the API server that do not parse: for a Secret these include every key.
const LEAKY: &str = "kube_client";

/// Flags of the log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Log format
    #[arg(long, env = "SIDESCALE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Log level, or a filter such as `info,sidescale=debug`; kube_client is always off
    #[arg(long, env = "SIDESCALE_LOG_LEVEL", default_value = "info", value_name = "FILTER", value_parser = filter)]
    pub log_level: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line
    Json,
    /// Human-readable lines
    Human,
}

/// Sends every log line of the process to standard error from now on. A second call changes nothing.
pub fn init(args: &LogArgs) {
    let log = log(args, std::io::stderr, std::io::stderr().is_terminal());
    // It fails only if a log is already set.
    let _ = tracing::dispatcher::set_global_default(log);
}

fn log<W>(args: &LogArgs, writer: W, ansi: bool) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let LogArgs {
        log_format,
        log_level,
    } = args;
    let lines = layer().with_writer(writer).with_target(false);
    let lines = match log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
        LogFormat::Human => lines.with_ansi(ansi).boxed(),
    };
    let filter = EnvFilter::new(format!("{QUIET},{log_level}"));
    Dispatch::new(
        tracing_subscriber::registry()
            // No filter of the flag can bypass this one: a longer target, or a span's name, would bypass QUIET.
            .with(filter_fn(is_safe))
            .with(filter)
            .with(lines),
    )
}

fn is_safe(metadata: &Metadata<'_>) -> bool {
    !is_leaky(metadata.target())
}

fn is_leaky(target: &str) -> bool {
    target
        .strip_prefix(LEAKY)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn filter(text: &str) -> Result<String, String> {
    for directive in text.split(',').map(str::trim) {
        let (target, level) = directive.split_once('=').unwrap_or((directive, ""));
        let target = target.split('[').next().unwrap_or_default();
        if is_leaky(target.trim()) && level.parse().ok() != Some(LevelFilter::OFF) {
            return Err(format!(
                "{directive:?} would log the API server's answers, including keys: omit it, kube_client is always off"
            ));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[test]
    fn takes_no_filter_that_names_the_client() {
        for taken in [
            "info",
            "warn,sidescale=debug",
            "kube_client=off,debug",
            "trace,kube_client=OFF",
            "kube_clients=debug",
            "[request]=debug",
        ] {
            assert_eq!(filter(taken), Ok(taken.to_owned()));
        }
        for refused in [
            "kube_client",
            "kube_client=debug",
            "info, kube_client=warn",
            "kube_client::client=error",
            "kube_client::client",
            "kube_client[HTTP]=trace",
            "kube_client[HTTP{url}]",
            "kube_client=nonsense",
        ] {
            let error = filter(refused).unwrap_err();
            assert!(error.contains("omit it"), "{refused}: {error}");
        }
        assert!(filter("sidescale=loud").is_err());
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_client_stays_silent_whatever_the_filter() {
        for format in [LogFormat::Json, LogFormat::Human] {
            for level in [
                "trace",
                "kube=trace",
                "[HTTP]=trace",
                "kube_client=trace",
                "kube_client::client=trace",
                "trace,kube_client[HTTP]=trace",
            ] {
                let lines = Lines::default();
                let written = lines.clone();
                let args = LogArgs {
                    log_format: format,
                    log_level: format!("sidescale=info,{level}"),
                };
                let log = log(&args, move || written.clone(), false);
                tracing::dispatcher::with_default(&log, || {
                    let span = tracing::info_span!(target: "kube_client::client::builder", "HTTP");
                    let _entered = span.enter();
                    tracing::warn!(target: "kube_client", "whole answer");
                    tracing::warn!(target: "kube_client::client", "whole answer");
                    let own = tracing::info_span!(target: "sidescale", "HTTP");
                    let _entered = own.enter();
                    tracing::warn!(target: "kube_client::client", "whole answer");
                    tracing::info!(target: "sidescale", "own line");
                });
                let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
                assert!(text.contains("own line"), "{level}: {text}");
                assert!(!text.contains("whole answer"), "{level}: {text}");
            }
        }
    }
}

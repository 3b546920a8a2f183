//! Progress of long work: a spinner on a terminal, plain lines elsewhere. Writes to standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// Progress of the current work.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Starts; shows nothing until [`Progress::doing`].
    pub(crate) fn start() -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let bar = ProgressBar::new_spinner();
        Self(Some(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }))
    }

    /// Shows the current step.
    pub(crate) fn doing(&self, what: &str) {
        match &self.0 {
            Some(bar) => {
                bar.enable_steady_tick(TICK);
                bar.set_message(what.to_owned());
            }
            None => line(what),
        }
    }

    /// Prints a finished step permanently.
    pub(crate) fn done(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| line(what)),
            None => line(what),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    // Standard error may be closed, and the work continues.
    let _ = writeln!(stderr(), "{text}");
}

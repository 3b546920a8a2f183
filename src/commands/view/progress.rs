//! How far long work has come: a spinner on a terminal, plain lines elsewhere. Writes to standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// Tells of work that is under way.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins; nothing is shown until [`Progress::doing`].
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

    /// Says what is being done now.
    pub(crate) fn doing(&self, what: &str) {
        match &self.0 {
            Some(bar) => {
                bar.enable_steady_tick(TICK);
                bar.set_message(what.to_owned());
            }
            None => line(what),
        }
    }

    /// Says what was done, for good.
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
    // Nobody may be reading any more, and the work goes on.
    let _ = writeln!(stderr(), "{text}");
}

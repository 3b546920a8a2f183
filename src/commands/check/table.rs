//! Findings as lines for people. Pure.

use std::fmt::Write;

use sidescale_core::quote::printable;

use super::facts::{CheckFinding, Level};

/// Renders a line per finding, what to do next below it, and a summary line.
pub(super) fn render(pod: &str, findings: &[CheckFinding]) -> String {
    let mut text = format!("pod {}\n", printable(pod));
    let width = findings.iter().map(|finding| finding.check.len());
    let width = width.max().unwrap_or_default();
    for finding in findings {
        let CheckFinding {
            result,
            check,
            text: said,
            next,
        } = finding;
        let said = printable(said);
        let _ = writeln!(text, "{:4}  {check:width$}  {said}", result.as_str());
        if let Some(next) = next {
            let next = printable(next);
            let _ = writeln!(text, "      {:width$}  next: {next}", "");
        }
    }
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.result == level)
            .count()
    };
    let checks = findings.len();
    let _ = match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => writeln!(text, "\n{checks} checks passed"),
        (failed, warned) => writeln!(
            text,
            "\n{checks} checks: {failed} failed, {warned} warning{}",
            if warned == 1 { "" } else { "s" }
        ),
    };
    text
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

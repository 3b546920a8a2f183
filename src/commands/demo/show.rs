//! Output of the demo: steps, diffs, lines; colours only on a terminal. I/O by its writer.

use std::io::{self, Write};

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

/// Writer of output for people.
pub(super) struct Show<'a> {
    out: &'a mut (dyn Write + Send),
    colour: bool,
}

impl<'a> Show<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), colour: bool) -> Self {
        Self { out, colour }
    }

    /// Prints the title of a step.
    pub(super) fn step(&mut self, title: &str) -> io::Result<()> {
        let title = self.painted("1", title);
        writeln!(self.out, "\n{title}")?;
        self.out.flush()
    }

    /// Prints a verified fact.
    pub(super) fn seen(&mut self, text: &str) -> io::Result<()> {
        let mark = self.painted("32", "ok");
        writeln!(self.out, "  {mark}  {text}")?;
        self.out.flush()
    }

    /// Prints a line unchanged.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "      {text}")
    }

    /// Prints what a patch changes, as YAML, with a line around each change.
    pub(super) fn diff(&mut self, before: &Value, after: &Value) -> io::Result<()> {
        let (before, after) = (yaml(before), yaml(after));
        let diff = TextDiff::from_lines(&before, &after);
        for (index, group) in diff.grouped_ops(1).iter().enumerate() {
            if index > 0 {
                self.line("…")?;
            }
            for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
                let (sign, colour) = match change.tag() {
                    ChangeTag::Delete => ("-", "31"),
                    ChangeTag::Insert => ("+", "32"),
                    ChangeTag::Equal => (" ", "2"),
                };
                let line = format!("{sign} {}", change.value().trim_end());
                let line = self.painted(colour, &line);
                self.line(&line)?;
            }
        }
        Ok(())
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string())
}

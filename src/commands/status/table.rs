//! A report as a table for people. Pure.

use std::fmt::Write;

use jiff::Timestamp;
use sidescale_core::quote::printable;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::quote;

use super::report::StatusReport;
use super::row::StatusRow;
use crate::commands::view::span::span;

const HEAD: [&str; 13] = [
    "NAMESPACE",
    "SERVICE",
    "CONTROL PLANE",
    "USER",
    "KEY",
    "AGE",
    "EXPIRES",
    "NEXT",
    "STATE",
    "OWNER",
    "PODS",
    "NODES",
    "SEEN",
];

/// Placeholder of an empty cell.
const NOTHING: &str = "-";

/// Renders the complete text: the table, the problems, and a summary line.
pub(super) fn render(now: Timestamp, report: &StatusReport) -> String {
    let mut text = String::new();
    if report.keys.is_empty() {
        text.push_str("No keys: no pod requests one yet, and no Secret contains any.\n");
        return text;
    }
    // Other people choose the contents of Secrets and the names of nodes.
    let plain = |cells: [String; 13]| cells.map(|cell| quote::line(&cell));
    let rows = report.keys.iter().map(|key| plain(cells(now, key)));
    let rows: Vec<[String; 13]> = rows.collect();
    let widths: [usize; 13] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    });
    line(&mut text, &HEAD.map(str::to_owned), &widths);
    for row in &rows {
        line(&mut text, row, &widths);
    }
    let troubled: Vec<_> = report
        .keys
        .iter()
        .filter(|key| !key.problems.is_empty())
        .collect();
    for key in &troubled {
        for problem in &key.problems {
            let (key, problem_text) = (name(key), printable(&problem.text));
            let _ = write!(text, "\n{}: {problem_text}\n", printable(&key));
            if let Some(fix) = &problem.fix {
                let _ = writeln!(text, "  fix: {}", printable(fix));
            }
        }
    }
    let all = report.keys.iter().map(|key| key.keys.max(1)).sum();
    let _ = write!(text, "\n{}", count(all, "key"));
    match troubled.len() {
        0 => text.push_str(", no problems\n"),
        some => {
            let _ = writeln!(text, ", {some} with problems");
        }
    }
    text
}

fn cells(now: Timestamp, key: &StatusRow) -> [String; 13] {
    let ago = |at: Option<Timestamp>| {
        at.map_or_else(|| NOTHING.to_owned(), |at| span(now.duration_since(at)))
    };
    let next = match (key.pending, key.next_rotation) {
        (Some(why), _) => format!("now ({})", why.replace('_', " ")),
        (None, at) => at.map_or_else(|| NOTHING.to_owned(), |at| when(now, at)),
    };
    let id = match key.key_id {
        None if key.secret == POD_SECRET && key.keys > 0 => Some(count(key.keys, "key")),
        id => id.map(|id| id.0.to_string()),
    };
    let nodes = key
        .nodes_online
        .map(|online| format!("{online} of {}", key.pods));
    let text = |text: &str| {
        if text.is_empty() {
            NOTHING.to_owned()
        } else {
            printable(text).into_owned()
        }
    };
    [
        text(&key.namespace),
        text(&key.service),
        text(&key.control_plane),
        text(key.user.as_deref().unwrap_or_default()),
        text(&id.unwrap_or_default()),
        ago(key.created),
        key.expires
            .map_or_else(|| NOTHING.to_owned(), |at| when(now, at)),
        next,
        text(&key.state),
        text(&Vec::from_iter(key.owners.iter().map(String::as_str)).join(",")),
        key.pods.to_string(),
        text(&nodes.unwrap_or_default()),
        text(&seen(now, key)),
    ]
}

/// Returns when one of its nodes was last online.
fn seen(now: Timestamp, key: &StatusRow) -> String {
    match (key.nodes_online, key.last_seen) {
        (Some(1..), _) => "now".to_owned(),
        (_, Some(at)) => format!("{} ago", span(now.duration_since(at))),
        (_, None) => String::new(),
    }
}

fn when(now: Timestamp, at: Timestamp) -> String {
    let away = at.duration_since(now);
    if away.is_negative() {
        format!("{} ago", span(away))
    } else {
        format!("in {}", span(away))
    }
}

fn name(key: &StatusRow) -> String {
    if key.service.is_empty() {
        format!("{}/{}", key.namespace, key.secret)
    } else {
        format!("{}/{}", key.namespace, key.service)
    }
}

fn count(number: usize, of: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {of}{plural}")
}

fn line(text: &mut String, cells: &[String; 13], widths: &[usize; 13]) {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:width$}  ");
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

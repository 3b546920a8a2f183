//! Counts allocations with divan's profiler, in a second process: counting slows the measured code. I/O.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{bodies, handlers};

/// Argument of the counting process.
pub(crate) const MODE: &str = "--allocations";

/// Counts, and prints divan's table.
pub(crate) fn run() {
    divan::Divan::default()
        .sample_count(20)
        .sample_size(20)
        .run_benches();
}

#[divan::bench(args = ["1k", "7k", "60k"])]
fn ours(bencher: divan::Bencher<'_, '_>, name: &str) {
    // A size that cannot be built has no row, which the reader of the table reports.
    let Ok(bodies) = bodies::all() else { return };
    let Some(body) = bodies.iter().find(|body| body.name == name) else {
        return;
    };
    bencher.bench(|| handlers::ours(black_box(&body.bytes)));
}

/// Runs the other process and reads the table: size -> allocations of one call.
pub(crate) fn measure() -> Result<BTreeMap<String, u64>> {
    let output = Command::new(std::env::current_exe()?).arg(MODE).output()?;
    ensure!(
        output.status.success(),
        "the counting process ended with {}",
        output.status
    );
    parse(&String::from_utf8(output.stdout)?)
}

/// divan shows a row for each size, and below it kinds of allocations, each with a row of counts: fastest, slowest,
/// median, mean. A vector that grows counts as often as it moves.
fn parse(table: &str) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::<String, u64>::new();
    let mut size = None;
    let mut lines = table.lines();
    while let Some(line) = lines.next() {
        let first = line
            .split([' ', '│', '├', '╰', '─'])
            .find(|word| !word.is_empty());
        match first {
            Some(name @ ("1k" | "7k" | "60k")) => size = Some(name.to_owned()),
            Some("alloc:" | "grow:") => {
                let row = lines
                    .next()
                    .context("divan's table ends before its counts")?;
                let mut cells = row
                    .split('│')
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty());
                let median = cells
                    .nth(2)
                    .context("divan's row of counts has no median")?;
                let name = size
                    .clone()
                    .context("divan counts before it names a size")?;
                *counts.entry(name).or_default() += median.parse::<f64>()?.round() as u64;
            }
            _ => {}
        }
    }
    Ok(counts)
}

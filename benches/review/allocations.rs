//! Counts allocations with divan's profiler, in a second process: a count slows what it counts. I/O.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{bodies, handlers};

/// Argument of the process that counts.
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
    let body = bodies::all()
        .unwrap_or_default()
        .into_iter()
        .find(|body| body.name == name);
    let bytes = body.map(|body| body.bytes).unwrap_or_default();
    bencher.bench(|| handlers::ours(black_box(&bytes)));
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

/// divan shows a row for each size, below it `alloc:` and a row of counts: fastest, slowest, median, mean.
fn parse(table: &str) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let mut size = None;
    let mut lines = table.lines();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line
            .split([' ', '│', '├', '╰', '─'])
            .filter(|word| !word.is_empty())
            .collect();
        match words.first() {
            Some(&name @ ("1k" | "7k" | "60k")) => size = Some(name.to_owned()),
            Some(&"alloc:") => {
                let row = lines.next().context("divan's table ends after alloc:")?;
                let median = row
                    .split('│')
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .nth(2);
                let count = median
                    .context("divan's row of counts has no median")?
                    .parse::<f64>()?;
                let name = size.take().context("divan counts before it names a size")?;
                counts.insert(name, count as u64);
            }
            _ => {}
        }
    }
    Ok(counts)
}

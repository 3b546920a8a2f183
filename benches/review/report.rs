//! Prints the figures beside their bars, and writes them. I/O.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::load::Shot;
use crate::pure::Pure;

/// Everything about one size.
pub(crate) struct Row {
    pub(crate) bytes: usize,
    pub(crate) floor: Shot,
    pub(crate) ours: Shot,
    pub(crate) pure: Pure,
    pub(crate) allocations: u64,
}

#[derive(Serialize)]
struct Report {
    sizes: Vec<Figures>,
}

#[derive(Serialize)]
struct Figures {
    bytes: usize,
    floor_cpu_us: f64,
    ours_cpu_us: f64,
    ratio: f64,
    floor_rps: f64,
    ours_rps: f64,
    pure_ns: f64,
    ignored_any_ns: f64,
    typed_ns: f64,
    allocations: u64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.floor.cpu_us / self.ours.cpu_us
    }
}

/// Prints a table.
pub(crate) fn print(rows: &[Row]) {
    println!();
    println!(
        "{:>6} {:>6} {:>10} {:>9} {:>8} {:>8} {:>6}",
        "bytes", "", "cpu us/req", "req/s", "p50 us", "p99 us", "ratio"
    );
    for row in rows {
        for (name, shot) in [("floor", &row.floor), ("ours", &row.ours)] {
            let ratio = if name == "ours" {
                format!("{:.2}", row.ratio())
            } else {
                String::new()
            };
            println!(
                "{:>6} {name:>6} {:>10.1} {:>9.0} {:>8} {:>8} {ratio:>6}",
                row.bytes, shot.cpu_us, shot.rps, shot.p50_us, shot.p99_us
            );
        }
    }
    println!();
    println!(
        "{:>6} {:>8} {:>8} {:>9} {:>11} {:>12} {:>11}",
        "bytes", "pure ns", "scan ns", "typed ns", "pure / scan", "typed / pure", "allocations"
    );
    for Row {
        bytes,
        pure,
        allocations,
        ..
    } in rows
    {
        println!(
            "{bytes:>6} {:>8.0} {:>8.0} {:>9.0} {:>11.2} {:>12.2} {allocations:>11}",
            pure.ours,
            pure.scan,
            pure.typed,
            pure.ours / pure.scan,
            pure.typed / pure.ours
        );
    }
    println!(
        "at 7 KB the bars are: ratio >= 0.35, pure / scan <= 2.5, typed / pure >= 4, allocations <= 32"
    );
}

/// Writes `target/bench.json`.
pub(crate) fn write(rows: &[Row]) -> Result<()> {
    let sizes = rows.iter().map(figures).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let text = serde_json::to_string(&Report { sizes })?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn figures(row: &Row) -> Figures {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    Figures {
        bytes: row.bytes,
        floor_cpu_us: round(row.floor.cpu_us),
        ours_cpu_us: round(row.ours.cpu_us),
        ratio: round(row.ratio()),
        floor_rps: row.floor.rps.round(),
        ours_rps: row.ours.rps.round(),
        pure_ns: row.pure.ours.round(),
        ignored_any_ns: row.pure.scan.round(),
        typed_ns: row.pure.typed.round(),
        allocations: row.allocations,
    }
}

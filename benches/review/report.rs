//! Prints the figures beside their limits, and writes them. I/O.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::load::Shot;
use crate::pure::Pure;

/// All figures of one size.
pub(crate) struct Row {
    pub(crate) bytes: usize,
    pub(crate) floor: Shot,
    pub(crate) ours: Shot,
    pub(crate) pure: Pure,
    pub(crate) allocations: u64,
}

/// A review used only to time the pure functions.
pub(crate) struct Long {
    pub(crate) bytes: usize,
    pub(crate) pure: Pure,
}

#[derive(Serialize)]
struct Report {
    sizes: Vec<Figures>,
    many_variables: PerByte,
}

#[derive(Serialize)]
struct PerByte {
    bytes: usize,
    pure_ns: f64,
    pure_ns_per_byte: f64,
    /// Ratio to the same figure of the largest size above.
    ratio: f64,
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

impl Long {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a review is far below 2^52 bytes"
    )]
    fn per_byte(&self, rows: &[Row]) -> PerByte {
        let own = self.pure.ours / self.bytes as f64;
        let largest = rows.iter().max_by_key(|row| row.bytes);
        let theirs = largest.map_or(f64::NAN, |row| row.pure.ours / row.bytes as f64);
        PerByte {
            bytes: self.bytes,
            pure_ns: self.pure.ours.round(),
            pure_ns_per_byte: rounded(own),
            ratio: rounded(own / theirs),
        }
    }
}

impl Row {
    fn ratio(&self) -> f64 {
        self.floor.cpu_us / self.ours.cpu_us
    }
}

/// Prints a table.
pub(crate) fn print(rows: &[Row], many: &Long) {
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
        "at 7 KB the bars are: ratio >= 0.45, pure / scan <= 2.2, typed / pure >= 4, allocations <= 24"
    );
    let PerByte {
        bytes,
        pure_ns,
        pure_ns_per_byte,
        ratio,
    } = many.per_byte(rows);
    println!(
        "2,000 variables, {bytes} bytes: {pure_ns:.0} ns, {pure_ns_per_byte} ns/byte, {ratio} of the largest size's; the bar is <= 1"
    );
}

/// Writes `target/bench.json`.
pub(crate) fn write(rows: &[Row], many: &Long) -> Result<()> {
    let report = Report {
        sizes: rows.iter().map(figures).collect(),
        many_variables: many.per_byte(rows),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let text = serde_json::to_string(&report)?;
    // Cargo's own folder may be elsewhere.
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn figures(row: &Row) -> Figures {
    Figures {
        bytes: row.bytes,
        floor_cpu_us: rounded(row.floor.cpu_us),
        ours_cpu_us: rounded(row.ours.cpu_us),
        ratio: rounded(row.ratio()),
        floor_rps: row.floor.rps.round(),
        ours_rps: row.ours.rps.round(),
        pure_ns: row.pure.ours.round(),
        ignored_any_ns: row.pure.scan.round(),
        typed_ns: row.pure.typed.round(),
        allocations: row.allocations,
    }
}

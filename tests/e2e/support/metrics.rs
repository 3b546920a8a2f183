//! Reads a metrics page. Pure.

use anyhow::{Context as _, Result};

/// Returns the sum of a metric's samples whose line contains all these pieces; 0 if there is none yet.
pub(crate) fn sum(page: &str, name: &str, pieces: &[&str]) -> Result<f64> {
    let samples = page.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && pieces.iter().all(|piece| line.contains(piece))
    });
    samples
        .map(|sample| {
            let value = sample.rsplit(' ').next();
            Ok(value.context("a sample without a value")?.parse::<f64>()?)
        })
        .sum()
}

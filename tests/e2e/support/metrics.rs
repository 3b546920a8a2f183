//! Reads what a metrics page says. Pure.

use anyhow::{Context as _, Result};

/// The sum of a metric's samples whose line holds all these pieces; 0 where there is none yet.
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

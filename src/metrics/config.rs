//! Metrics of the configuration file. State, no I/O.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::register::{counters, int_gauge};

/// Metrics of the configuration file.
#[derive(Debug)]
pub struct ConfigMetrics {
    /// 1 while the current file is in force.
    pub in_force: IntGauge,
    /// Edits of the file.
    pub reloads: IntCounterVec,
}

impl ConfigMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            in_force: int_gauge(
                registry,
                "sidescale_config_in_force",
                "1 while the current configuration file is in force; 0 while an older one is",
            )?,
            reloads: counters(
                registry,
                "sidescale_config_reloads_total",
                "Changes of the configuration file, by result",
                &["result"],
            )?,
        })
    }
}

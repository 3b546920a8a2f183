//! Metrics of Events and of dropped alerts. State, no I/O.

use prometheus::{IntCounterVec, Registry};

use super::register::counters;

/// Why an Event was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The queue was full.
    QueueFull,
    /// The API server refused it, or did not answer in time.
    Failed,
    /// The process stopped first.
    Stopped,
}

impl Dropped {
    /// Returns the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Metrics of Events.
#[derive(Debug)]
pub struct EventMetrics {
    dropped: IntCounterVec,
    over_budget: IntCounterVec,
}

impl EventMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            dropped: counters(
                registry,
                "sidescale_events_dropped_total",
                "Events that were not published, by reason",
                &["reason"],
            )?,
            over_budget: counters(
                registry,
                "sidescale_alerts_over_budget_total",
                "Events and log lines suppressed because their namespace had reached its limit",
                &["kind"],
            )?,
        })
    }

    /// Counts Events that were not published.
    pub fn dropped(&self, why: Dropped, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let counter = self.dropped.with_label_values(&[why.as_str()]);
        counter.inc_by(count);
    }

    /// Counts an Event (or else a log line) beyond its namespace's budget.
    pub fn over_budget(&self, is_event: bool) {
        let kind = if is_event { "event" } else { "line" };
        self.over_budget.with_label_values(&[kind]).inc();
    }
}

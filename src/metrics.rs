//! Every metric, in one struct with its own registry. State, no I/O.

use prometheus::{
    Encoder, Gauge, Histogram, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

mod config;
mod connections;
mod events;
mod register;
mod rotation;

pub use config::ConfigMetrics;
pub use connections::ConnectionMetrics;
pub use events::{Dropped, EventMetrics};
pub use rotation::{RotationMetrics, RotationResult, WakeResult};

use register::{counters, gauge, histogram, int_gauge, int_gauges};

/// Result of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It succeeded.
    Ok,
    /// The caller does not trust our certificate: its caBundle is not ours.
    Distrusted,
    /// It failed for another reason.
    Failed,
    /// The caller closed the connection, or never spoke TLS.
    Broken,
    /// It timed out.
    TimedOut,
}

impl Handshake {
    /// Returns the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Distrusted => "distrusted",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
        }
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answered reviews.
    pub reviews: IntCounterVec,
    /// Reviews of workloads, by the verdict on their pods.
    pub workload_reviews: IntCounterVec,
    /// Time to answer a review that has arrived completely.
    pub review_seconds: Histogram,
    pub patch_bytes: Histogram,
    pub connections: ConnectionMetrics,
    /// Expiration of the serving certificate.
    pub leaf_not_after: Gauge,
    /// Expiration of the webhook's authority.
    pub authority_not_after: Gauge,
    /// Start of validity of the webhook's authority.
    pub authority_not_before: Gauge,
    /// 1 while every entry of our webhook configuration has our trust list.
    pub ca_bundle_in_sync: IntGauge,
    /// Writes of the caBundle into our webhook configuration.
    pub ca_bundle_writes: IntCounterVec,
    pub config: ConfigMetrics,
    pub events: EventMetrics,
    /// 1 while a policy does not refuse what our own account must not do.
    pub fence_open: IntGaugeVec,
    pub rotation: RotationMetrics,
    rejections: IntCounterVec,
    handshakes: IntCounterVec,
}

impl Metrics {
    /// Creates every metric, at zero.
    ///
    /// # Errors
    ///
    /// Two metrics have the same name, which is a bug that the first start shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            reviews: counters(
                &registry,
                "sidescale_reviews_total",
                "Answered admission reviews",
                &["verdict", "reason", "sidecar"],
            )?,
            workload_reviews: counters(
                &registry,
                "sidescale_workload_reviews_total",
                "Answered reviews of workloads, by the verdict that their pods will get",
                &["verdict", "reason"],
            )?,
            review_seconds: histogram(
                &registry,
                "sidescale_review_duration_seconds",
                "Time to answer a review after its last byte",
                // An answer takes some tens of microseconds; the API server waits 5 s.
                vec![
                    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 1.0,
                ],
            )?,
            patch_bytes: histogram(
                &registry,
                "sidescale_patch_bytes",
                "Size of patches before base64 encoding",
                vec![512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0],
            )?,
            connections: ConnectionMetrics::new(&registry)?,
            leaf_not_after: gauge(
                &registry,
                "sidescale_serving_certificate_expiry_timestamp_seconds",
                "Expiration of the serving certificate, in Unix time",
            )?,
            authority_not_after: gauge(
                &registry,
                "sidescale_ca_expiry_timestamp_seconds",
                "Expiration of the webhook's certificate authority, in Unix time",
            )?,
            authority_not_before: gauge(
                &registry,
                "sidescale_ca_not_before_seconds",
                "Start of validity of the webhook's certificate authority, in Unix time",
            )?,
            ca_bundle_in_sync: int_gauge(
                &registry,
                "sidescale_ca_bundle_in_sync",
                "1 while every entry of the webhook configuration has Sidescale's caBundle",
            )?,
            ca_bundle_writes: counters(
                &registry,
                "sidescale_ca_bundle_writes_total",
                "Writes of the caBundle to the webhook configuration",
                &["result"],
            )?,
            config: ConfigMetrics::new(&registry)?,
            events: EventMetrics::new(&registry)?,
            fence_open: fence_open(&registry)?,
            rejections: counters(
                &registry,
                "sidescale_requests_rejected_total",
                "Webhook requests that were not answered with a review",
                &["reason"],
            )?,
            handshakes: counters(
                &registry,
                "sidescale_tls_handshakes_total",
                "TLS handshakes of the webhook",
                &["result"],
            )?,
            rotation: RotationMetrics::new(&registry)?,
            registry,
        };
        Ok(metrics)
    }

    /// Returns the counter of handshakes with this `result`.
    pub fn handshakes(&self, result: Handshake) -> prometheus::IntCounter {
        self.handshakes.with_label_values(&[result.as_str()])
    }

    /// Counts a request that was not answered with a review.
    pub fn rejected(&self, reason: &'static str) {
        self.rejections.with_label_values(&[reason]).inc();
    }

    /// Returns all metrics in Prometheus' text form.
    ///
    /// # Errors
    ///
    /// A metric cannot be written as text.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn fence_open(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    int_gauges(
        registry,
        "sidescale_fence_open",
        "1 while a policy does not deny what Sidescale's own account must not do",
        &["fence"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.handshakes(Handshake::Distrusted).inc();
        metrics.rejected("too_large");
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(
            text.contains("sidescale_tls_handshakes_total{result=\"distrusted\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("sidescale_requests_rejected_total{reason=\"too_large\"} 1"),
            "{text}"
        );
    }
}

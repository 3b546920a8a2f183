//! Metrics of the connections of both ports. State, no I/O.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counters, int_gauges};

/// Metrics of connections.
#[derive(Debug)]
pub struct ConnectionMetrics {
    /// Connections that were closed to make room for others.
    pub evicted: IntCounterVec,
    open: IntGaugeVec,
    client_certificates: IntCounterVec,
}

impl ConnectionMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            evicted: counters(
                registry,
                "sidescale_connections_evicted_total",
                "Idle or half-open connections closed to make room for others, by phase",
                &["port", "phase"],
            )?,
            open: int_gauges(
                registry,
                "sidescale_connections",
                "Open connections",
                &["port"],
            )?,
            client_certificates: counters(
                registry,
                "sidescale_client_certificates_total",
                "TLS handshakes of the webhook, by the caller's client certificate; only with --client-ca",
                &["result"],
            )?,
        })
    }

    /// Returns the gauge of a port's open connections.
    pub fn open(&self, port: &'static str) -> IntGauge {
        self.open.with_label_values(&[port])
    }

    /// Counts what a caller presented; `None` if no certificate is requested.
    pub fn client_certificate(&self, result: Option<&'static str>) {
        if let Some(result) = result {
            self.client_certificates.with_label_values(&[result]).inc();
        }
    }
}

//! Metrics of rotation. State, no I/O.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counters, gauges, histograms, int_gauge, int_gauges};

/// Result of an operation on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationResult {
    /// A first key is in its Secret.
    Minted,
    /// A renewed key is in its Secret.
    Renewed,
    /// An old key was expired.
    Expired,
    /// Another writer came first; our own key was expired.
    LostRace,
    /// It failed, and will be retried.
    Failed,
}

impl RotationResult {
    /// Returns the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Renewed => "renewed",
            Self::Expired => "expired",
            Self::LostRace => "lost_race",
            Self::Failed => "failed",
        }
    }
}

/// Result of waking the kubelet of a pod that waits for its key, for a metric.
#[derive(Clone, Copy, Debug)]
pub enum WakeResult {
    /// The pod was annotated.
    Woken,
    /// The pod did not exist any more.
    Gone,
    /// It was refused, or not answered.
    Refused,
    /// The policy on pods is not known to hold.
    Unfenced,
    /// Too many were waiting; counts keys.
    Dropped,
}

impl WakeResult {
    /// Returns the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Woken => "woken",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unfenced => "unfenced",
            Self::Dropped => "dropped",
        }
    }
}

/// Metrics of rotation.
#[derive(Debug)]
pub struct RotationMetrics {
    /// Needed keys by state.
    pub keys: IntGaugeVec,
    /// When the keys that expire soonest do so.
    pub expiry: GaugeVec,
    /// When the same keys are due for renewal.
    pub due: GaugeVec,
    /// 1 while this replica leads.
    pub leader: IntGauge,
    /// State of each control plane: 1 for the current one.
    pub control_planes: IntGaugeVec,
    /// Pods, and nodes without a pod, by their state in the tailnet.
    pub nodes: IntGaugeVec,
    /// Calls to control planes.
    pub calls: IntCounterVec,
    /// Duration of those calls.
    pub call_seconds: HistogramVec,
    results: IntCounterVec,
    wakes: IntCounterVec,
}

impl RotationMetrics {
    /// Creates every metric, at zero.
    ///
    /// # Errors
    ///
    /// Two metrics have the same name.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            keys: int_gauges(
                registry,
                "sidescale_keys",
                "Keys that pods need, by state",
                &["state"],
            )?,
            expiry: gauges(
                registry,
                "sidescale_key_expiry_timestamp_seconds",
                "Expiration of a key, in Unix time, to the minute, as last confirmed by its control plane; the 500 keys that expire soonest, at most 50 per namespace",
                &["namespace", "secret", "key"],
            )?,
            due: gauges(
                registry,
                "sidescale_key_due_timestamp_seconds",
                "Time when a key that pods need is due for renewal, in Unix time, to the minute; only keys whose expiration is shown",
                &["namespace", "secret", "key"],
            )?,
            leader: int_gauge(
                registry,
                "sidescale_leader",
                "1 in the replica that rotates keys",
            )?,
            control_planes: int_gauges(
                registry,
                "sidescale_control_plane_state",
                "1 for the current state of a control plane",
                &["control_plane", "state"],
            )?,
            nodes: int_gauges(
                registry,
                "sidescale_nodes",
                "Injected pods, by the state of their node; Uninvited: nodes that joined with Sidescale's keys and exceed the number of pods",
                &["state"],
            )?,
            calls: counters(
                registry,
                "sidescale_control_plane_calls_total",
                "Calls to control planes",
                &["control_plane", "call", "result"],
            )?,
            call_seconds: histograms(
                registry,
                "sidescale_control_plane_call_duration_seconds",
                "Duration of calls to control planes",
                &["call"],
            )?,
            results: counters(
                registry,
                "sidescale_rotations_total",
                "Key operations by result",
                &["result"],
            )?,
            wakes: counters(
                registry,
                "sidescale_pod_wakes_total",
                "Pods that waited for a key and were woken by an annotation, by result",
                &["result"],
            )?,
        })
    }

    /// Counts the result of waking a pod.
    pub fn count_wake(&self, result: WakeResult) {
        self.wakes.with_label_values(&[result.as_str()]).inc();
    }

    /// Counts the result of an operation on a key.
    pub fn count(&self, result: RotationResult) {
        self.results.with_label_values(&[result.as_str()]).inc();
    }
}

//! The steps of the demo, and the failure of one. Pure.

use std::time::Duration;

/// Time limit for one observation; it takes some milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// A step of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoStep {
    /// The manifests are read.
    Manifests,
    /// The embedded Headscale answers our client.
    ControlPlane,
    /// The webhook answers over TLS.
    Webhook,
    /// The pods are patched as their annotations say.
    Patch,
    /// A patched pod is left alone.
    Unchanged,
    /// A key is created for each service.
    Mint,
    /// The keys are in files that other users cannot read.
    Files,
    /// A key stays until it is due; then it is renewed.
    Rotate,
    /// The old key stays valid for the overlap.
    Overlap,
    /// Then it is expired, and the new one stays valid.
    Expire,
    /// The metrics count what was seen.
    Metrics,
}

impl DemoStep {
    /// All steps in order.
    pub const ALL: [Self; 11] = [
        Self::Manifests,
        Self::ControlPlane,
        Self::Webhook,
        Self::Patch,
        Self::Unchanged,
        Self::Mint,
        Self::Files,
        Self::Rotate,
        Self::Overlap,
        Self::Expire,
        Self::Metrics,
    ];

    /// Returns its name, as in its failure.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "read the manifests",
            Self::ControlPlane => "start Headscale",
            Self::Webhook => "start the webhook",
            Self::Patch => "patch the pods",
            Self::Unchanged => "leave patched pods alone",
            Self::Mint => "create the keys",
            Self::Files => "store the keys in files",
            Self::Rotate => "renew the keys when they are due",
            Self::Overlap => "keep the old keys for the overlap",
            Self::Expire => "expire the old keys",
            Self::Metrics => "count it all",
        }
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("step \"{}\": {problem}", step.as_str())]
pub struct Failed {
    pub step: DemoStep,
    /// What was seen instead.
    pub problem: String,
}

/// A step that is broken on purpose, so that a test sees it fail, and how long the demo waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Spoilt {
    /// The step that cannot succeed.
    pub step: DemoStep,
    pub patience: Duration,
}

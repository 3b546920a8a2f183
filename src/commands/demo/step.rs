//! The steps of the demo, and one that was not seen to work. Pure.

use std::time::Duration;

/// Time for one thing to be seen; it takes some milliseconds.
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
    /// A key is minted for each service.
    Mint,
    /// The keys are in files that nobody else may read.
    Files,
    /// Before its time a key stays; then it is renewed.
    Rotate,
    /// The old key is still good for the overlap.
    Overlap,
    /// Then it is expired, and the new one stays good.
    Expire,
    /// The metrics count what was seen.
    Metrics,
}

impl DemoStep {
    /// All of them, in their order.
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

    /// Its name, as its failure says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "read the manifests",
            Self::ControlPlane => "start Headscale",
            Self::Webhook => "start the webhook",
            Self::Patch => "patch the pods",
            Self::Unchanged => "leave patched pods alone",
            Self::Mint => "mint the keys",
            Self::Files => "keep the keys in files",
            Self::Rotate => "rotate the keys when they are due",
            Self::Overlap => "keep the old keys for the overlap",
            Self::Expire => "expire the old keys",
            Self::Metrics => "count it all",
        }
    }
}

/// A step that was not seen to work.
#[derive(Debug, thiserror::Error)]
#[error("step \"{}\": {problem}", step.as_str())]
pub struct Failed {
    /// The step.
    pub step: DemoStep,
    /// What was seen instead.
    pub problem: String,
}

/// Something spoilt on purpose, so that a test sees the step fail, and how long the demo waits for what will not come.
#[derive(Clone, Copy, Debug)]
pub struct Spoilt {
    /// The step that cannot work.
    pub step: DemoStep,
    /// The wait.
    pub patience: Duration,
}

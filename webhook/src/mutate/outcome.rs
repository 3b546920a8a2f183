//! What became of a pod, and the answer that says so. Pure.

use crate::annotations::{DenyReason, Kinds, SkipReason};

/// Says which entry of the webhook configuration a review came through, which its path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptIn {
    /// `/mutate/namespace`: the namespace's label asks for a sidecar in every pod.
    Namespace,
    /// `/mutate/pod`: the pod has an annotation of ours.
    Pod,
}

/// Sums up what became of a pod; counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The author has to mend something.
    Deny(DenyReason),
    /// Patched.
    Inject,
    /// Left alone.
    Skip(SkipReason),
}

/// Holds the answer to one review, and what a log line and the metrics need of it.
#[derive(Clone, Debug)]
pub struct ReviewOutcome {
    /// The AdmissionReview to send, as JSON.
    pub reply: Vec<u8>,
    /// What became of the pod.
    pub verdict: Verdict,
    /// What was put into it.
    pub kinds: Kinds,
    /// Bytes of the patch before base64; 0 where there is none.
    pub patch_bytes: usize,
    /// The request's namespace.
    pub namespace: String,
    /// The pod's name, or its `generateName`.
    pub pod: String,
    /// The service, where one was found.
    pub service: Option<String>,
    /// The profile, where the pod was injected.
    pub profile: Option<String>,
    /// What the author of a denied pod is told.
    pub message: Option<String>,
    /// The reason of a denial, for the log alone, where its author is told less.
    pub withheld: Option<String>,
    /// One remark for each key under our prefix that nothing knows, with the nearest that something does.
    pub unknown: Vec<String>,
    /// What the pod's creator is warned of, those remarks first.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// The bounded label `verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny(_) => "deny",
            Self::Inject => "inject",
            Self::Skip(_) => "skip",
        }
    }

    /// The bounded label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Deny(reason) => reason.as_str(),
            Self::Inject => "requested",
            Self::Skip(reason) => reason.as_str(),
        }
    }
}

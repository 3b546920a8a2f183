//! Outcome for a pod, and its answer. Pure.

use crate::annotations::{DenyReason, Kinds, SkipReason};

/// Entry of the webhook configuration that a review came through, known from its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptIn {
    /// `/mutate/namespace`: the namespace's label asks for a sidecar in every pod.
    Namespace,
    /// `/mutate/pod`: the pod has an annotation of Sidescale.
    Pod,
}

/// Outcome for a pod; counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Denied: the author has to correct something.
    Deny(DenyReason),
    /// Patched.
    Inject,
    /// Skipped.
    Skip(SkipReason),
}

/// Answer to one review, with what a log line and the metrics need.
#[derive(Clone, Debug)]
pub struct ReviewOutcome {
    /// The AdmissionReview to send, as JSON.
    pub reply: Vec<u8>,
    /// Outcome for the pod.
    pub verdict: Verdict,
    /// Kinds injected into it.
    pub kinds: Kinds,
    /// Bytes of the patch before base64; 0 if there is none.
    pub patch_bytes: usize,
    /// The request's namespace.
    pub namespace: String,
    /// The pod's name, or its `generateName`.
    pub pod: String,
    /// The service, if one was found.
    pub service: Option<String>,
    /// The profile, if the pod was injected.
    pub profile: Option<String>,
    /// Message for the author of a denied pod.
    pub message: Option<String>,
    /// Reason of a denial, only for the log, if its author is shown less.
    pub withheld: Option<String>,
    /// One remark for each unknown key under our prefix, with the nearest known one.
    pub unknown: Vec<String>,
    /// Warnings for the pod's creator, those remarks first.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Returns the bounded label `verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny(_) => "deny",
            Self::Inject => "inject",
            Self::Skip(_) => "skip",
        }
    }

    /// Returns the bounded label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Deny(reason) => reason.as_str(),
            Self::Inject => "requested",
            Self::Skip(reason) => reason.as_str(),
        }
    }
}

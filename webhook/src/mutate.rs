//! One AdmissionReview in, one out: parsed, decided, patched, answered. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::annotations::{DenyReason, NamespaceMetadata, SkipReason};
use crate::profile::Policy;

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
pub struct Outcome {
    /// The AdmissionReview to send, as JSON.
    pub reply: Vec<u8>,
    /// What became of the pod.
    pub verdict: Verdict,
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
    /// One remark for each key under our prefix that nothing knows, with the nearest that something does.
    pub unknown: Vec<String>,
}

/// Says why a body is no AdmissionReview that can be answered: HTTP 400.
#[derive(Debug, Error)]
pub enum Undecodable {
    /// Not JSON, or not of the form.
    #[error("the body is not an admission.k8s.io/v1 AdmissionReview with a request")]
    Form(#[source] serde_json::Error),
    /// Another kind or version.
    #[error(
        "the body is {kind:?} of {api_version:?}: want AdmissionReview of \"admission.k8s.io/v1\""
    )]
    Kind {
        /// `apiVersion` as sent.
        api_version: String,
        /// `kind` as sent.
        kind: String,
    },
    /// Nothing to echo.
    #[error("request.uid is empty: an answer without it would be refused")]
    NoUid,
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

/// Answers one review.
///
/// `namespaces` gives what the index holds of a namespace: `None` where it has not seen it yet.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn mutate(
    body: &[u8],
    _opt_in: OptIn,
    _namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    _policy: &Policy,
) -> Result<Outcome, Undecodable> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Review {
        api_version: String,
        kind: String,
        request: Request,
    }
    #[derive(Deserialize)]
    struct Request {
        uid: String,
        #[serde(default)]
        namespace: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reply<'a> {
        api_version: &'a str,
        kind: &'a str,
        response: Response<'a>,
    }
    #[derive(Serialize)]
    struct Response<'a> {
        uid: &'a str,
        allowed: bool,
    }
    let Review {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body).map_err(Undecodable::Form)?;
    if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
        return Err(Undecodable::Kind { api_version, kind });
    }
    if request.uid.is_empty() {
        return Err(Undecodable::NoUid);
    }
    let reply = Reply {
        api_version: &api_version,
        kind: &kind,
        response: Response {
            uid: &request.uid,
            allowed: true,
        },
    };
    Ok(Outcome {
        reply: serde_json::to_vec(&reply).map_err(Undecodable::Form)?,
        verdict: Verdict::Skip(SkipReason::NotRequested),
        patch_bytes: 0,
        namespace: request.namespace,
        pod: String::new(),
        service: None,
        profile: None,
        message: None,
        unknown: Vec::new(),
    })
}

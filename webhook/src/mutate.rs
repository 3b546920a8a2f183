//! One AdmissionReview in, one out: parsed, decided, patched, answered. Pure.

use std::sync::Arc;

use thiserror::Error;

mod fit;
mod hostname;
mod incoming;
mod source;
mod told;

pub(crate) use fit::{Fit, PullSecrets};
pub(crate) use incoming::Incoming;
pub(crate) use source::{Source, Template};

use crate::annotations::{Caller, DenyReason, Kinds, NamespaceMetadata, SkipReason};
use crate::pod::Pod;
use crate::profile::Policy;
use crate::quote;
use crate::review::{API_VERSION, AnyReview, KIND, PodReview, Reply, Response, Review, read};
use crate::text::Name;

/// Is the longest uid that is echoed; an API server's has 36 bytes.
const LONGEST_UID: usize = 256;

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
    /// Too long to echo.
    #[error("request.uid has {0} bytes, and an answer echoes it: want at most {LONGEST_UID} bytes")]
    LongUid(usize),
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
/// `namespaces` gives what the index holds of a namespace: `None` where it has not seen it yet. What only its annotations
/// say, and which profiles and control planes it alone may name, is told to a verified caller only.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn mutate(
    body: &[u8],
    opt_in: OptIn,
    caller: Caller,
    namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    policy: &Policy,
) -> Result<Outcome, Undecodable> {
    let review: PodReview<'_> = match read(body) {
        Ok(review) => review,
        Err(error) => return not_a_pod(body, error),
    };
    check(&review)?;
    let request = review.request;
    let uid = &*request.uid;
    if !request.is_pod_create() {
        return Ok(untouched(uid, request.namespace, SkipReason::NotAPodCreate));
    }
    let Some(Pod {
        metadata: Some(metadata),
        spec: Some(spec),
    }) = request.object
    else {
        return Ok(untouched(uid, request.namespace, SkipReason::NotAPodCreate));
    };
    let namespace = request.namespace.unwrap_or_default();
    let known = namespaces(&namespace);
    let pod = Incoming {
        source: Source::Review(body),
        uid,
        namespace: &namespace,
        metadata,
        spec,
        namespace_metadata: known.as_deref(),
        opt_in,
        caller,
        hostnames: None,
        told: None,
        says_all: false,
    };
    pod.answer(policy).map_err(Undecodable::Form)
}

/// A review that cannot be read as a pod's is answered all the same, if it is of something else.
fn not_a_pod(body: &[u8], error: serde_json::Error) -> Result<Outcome, Undecodable> {
    let Ok(review) = read::<AnyReview<'_>>(body) else {
        return Err(Undecodable::Form(error));
    };
    check(&review)?;
    let request = review.request;
    if request.is_pod_create() {
        return Err(Undecodable::Form(error));
    }
    Ok(untouched(
        &request.uid,
        request.namespace,
        SkipReason::NotAPodCreate,
    ))
}

pub(crate) fn check<O>(review: &Review<'_, O>) -> Result<(), Undecodable> {
    let Review {
        api_version,
        kind,
        request,
    } = review;
    if &**api_version != API_VERSION || &**kind != KIND {
        return Err(Undecodable::Kind {
            api_version: quote::line(api_version),
            kind: quote::line(kind),
        });
    }
    match request.uid.len() {
        0 => Err(Undecodable::NoUid),
        length if length > LONGEST_UID => Err(Undecodable::LongUid(length)),
        _ => Ok(()),
    }
}

fn untouched(uid: &str, namespace: Option<Name<'_>>, reason: SkipReason) -> Outcome {
    let response = Response {
        allowed: true,
        ..Response::to(uid)
    };
    Outcome {
        reply: reply(response, None),
        verdict: Verdict::Skip(reason),
        kinds: Kinds::default(),
        patch_bytes: 0,
        namespace: quote::line(&namespace.unwrap_or_default()),
        pod: String::new(),
        service: None,
        profile: None,
        message: None,
        withheld: None,
        unknown: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn reply(response: Response<'_>, patch: Option<&[u8]>) -> Vec<u8> {
    Reply {
        api_version: API_VERSION,
        kind: KIND,
        response,
    }
    .to_json(patch)
}

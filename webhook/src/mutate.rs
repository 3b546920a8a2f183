//! One AdmissionReview in, one out: parses, decides, patches, answers. Pure.

use std::sync::Arc;

use thiserror::Error;

mod fit;
mod hostname;
mod incoming;
mod outcome;
mod public_reply;
mod source;

pub(crate) use fit::{PullSecrets, SidecarPlacement};
pub(crate) use incoming::Incoming;
pub use outcome::{OptIn, ReviewOutcome, Verdict};
pub(crate) use source::{Source, Template};

use crate::annotations::{Caller, Kinds, NamespaceMetadata, SkipReason};
use crate::pod::Pod;
use crate::profile::Policy;
use crate::quote;
use crate::review::{API_VERSION, AnyReview, KIND, PodReview, Response, Review, read, reply};
use crate::text::Name;

/// Longest uid that is echoed; an API server's has 36 bytes.
const LONGEST_UID: usize = 256;

/// Reason why a body is no AdmissionReview that can be answered: HTTP 400.
#[derive(Debug, Error)]
pub enum Undecodable {
    /// Not JSON, or not of this form.
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
    /// No uid to echo.
    #[error("request.uid is empty: the API server would reject an answer without it")]
    NoUid,
    /// Uid too long to echo.
    #[error(
        "request.uid has {0} bytes, and the answer repeats it: want at most {LONGEST_UID} bytes"
    )]
    LongUid(usize),
}

/// Answers one review.
///
/// `namespaces` returns what the index stores of a namespace: `None` if it has not seen it yet. Only a verified caller is
/// shown what depends on its annotations, and the profiles and control planes that only this namespace may name.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn mutate(
    body: &[u8],
    opt_in: OptIn,
    caller: Caller,
    namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    policy: &Policy,
) -> Result<ReviewOutcome, Undecodable> {
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

/// Answers a review that cannot be parsed as a pod's, if it is of another resource.
fn not_a_pod(body: &[u8], error: serde_json::Error) -> Result<ReviewOutcome, Undecodable> {
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

fn untouched(uid: &str, namespace: Option<Name<'_>>, reason: SkipReason) -> ReviewOutcome {
    let response = Response {
        allowed: true,
        ..Response::to(uid)
    };
    ReviewOutcome {
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

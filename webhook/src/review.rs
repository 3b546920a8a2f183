//! AdmissionReview in and out: only the fields we need, borrowed; the patch goes out as base64. Pure.

use base64_simd::STANDARD;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::bounded::parse;
use crate::json::write;
use crate::pod::Pod;
use crate::text::{Name, Text};

/// The only supported version.
pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";
/// Kind of every body.
pub(crate) const KIND: &str = "AdmissionReview";

/// A review whose object is read as `O`.
#[derive(Debug, Deserialize)]
#[serde(
    rename_all = "camelCase",
    expecting = "an AdmissionReview",
    bound(deserialize = "O: Deserialize<'de>, 'de: 'a")
)]
pub(crate) struct Review<'a, O> {
    #[serde(default, borrow)]
    pub(crate) api_version: Name<'a>,
    #[serde(default, borrow)]
    pub(crate) kind: Name<'a>,
    pub(crate) request: Request<'a, O>,
}

#[derive(Debug, Deserialize)]
#[serde(
    rename_all = "camelCase",
    expecting = "a request",
    bound(deserialize = "O: Deserialize<'de>, 'de: 'a")
)]
pub(crate) struct Request<'a, O> {
    #[serde(default, borrow)]
    pub(crate) uid: Text<'a>,
    #[serde(default, borrow)]
    resource: Resource<'a>,
    #[serde(default, borrow)]
    sub_resource: Option<Text<'a>>,
    #[serde(default, borrow)]
    operation: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(crate) namespace: Option<Name<'a>>,
    #[serde(default = "none")]
    pub(crate) object: Option<O>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resource<'a> {
    #[serde(borrow)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    resource: Option<Text<'a>>,
}

/// A review of a pod.
pub(crate) type PodReview<'a> = Review<'a, Pod<'a>>;
/// A review of anything, whose object is skipped.
pub(crate) type AnyReview<'a> = Review<'a, IgnoredAny>;

/// Parses a body as `T`.
///
/// # Errors
/// If the body is not JSON of that form.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    // As a whole, which is faster than each string separately.
    let text = std::str::from_utf8(body).map_err(serde_json::Error::custom)?;
    parse(text)
}

fn none<O>() -> Option<O> {
    None
}

impl<O> Request<'_, O> {
    /// Returns whether a pod is being created.
    pub(crate) fn is_pod_create(&self) -> bool {
        let Resource { group, resource } = &self.resource;
        group.as_deref().unwrap_or_default().is_empty()
            && resource.as_deref() == Some("pods")
            && self.sub_resource.as_deref().unwrap_or_default().is_empty()
            && self.operation.as_deref() == Some("CREATE")
    }
}

/// The answer; the API server refuses one whose version, kind or uid differs from the request's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reply<'a> {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response<'a> {
    pub(crate) uid: &'a str,
    pub(crate) allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audit_annotations: Option<AuditAnnotations<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) warnings: &'a [String],
}

impl<'a> Response<'a> {
    /// Returns a denial without a message; the rest is filled in by struct update.
    pub(crate) fn to(uid: &'a str) -> Self {
        Self {
            uid,
            allowed: false,
            status: None,
            audit_annotations: None,
            warnings: &[],
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Status<'a> {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: &'a str,
}

#[derive(Serialize)]
pub(crate) struct AuditAnnotations<'a> {
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<&'a str>,
}

impl Reply<'_> {
    /// Writes the answer; a patch goes in as base64, straight from its bytes.
    pub(crate) fn to_json(&self, patch: Option<&[u8]>) -> Vec<u8> {
        // Version, uid, audit annotations and the names of fields take some 350 bytes.
        let encoded = patch.map_or(0, |patch| STANDARD.encoded_length(patch.len()));
        let mut json = Vec::with_capacity(768 + encoded);
        write(&mut json, self);
        if let Some(patch) = patch {
            // Back over the closing braces of `response` and of the review, into `response`.
            json.truncate(json.len() - 2);
            json.extend_from_slice(br#","patchType":"JSONPatch","patch":""#);
            STANDARD.encode_append(patch, &mut json);
            json.extend_from_slice(b"\"}}");
        }
        json
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

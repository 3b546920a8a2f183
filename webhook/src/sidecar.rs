//! What is put into a pod: the sidecar itself, and the receipt that says so. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub(crate) mod tailscale;

use crate::annotations::{Injection, Key, SkipReason};

/// Is the version that receipts name.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Says on the pod what was done to it and why, in the annotation `sidescale.io/status`. It never holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt<'a> {
    /// Version of Sidescale that wrote it.
    #[serde(borrow)]
    pub version: Cow<'a, str>,
    /// Injected or skipped.
    pub decision: Done,
    /// Why the pod was skipped.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// What was injected.
    #[serde(flatten, borrow, skip_serializing_if = "Option::is_none")]
    pub injected: Option<Injected<'a>>,
    /// Whether the namespace was not known yet, so that none of its annotations were seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub namespace_unknown: bool,
    /// A remark on each key under our prefix that nothing reads.
    #[serde(borrow, default, skip_serializing_if = "<[_]>::is_empty")]
    pub unknown: Cow<'a, [String]>,
}

/// Says what was done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Done {
    /// A sidecar was added.
    Inject,
    /// It was left alone.
    Skip,
}

/// Names what an injected pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected<'a> {
    /// Profile that was used.
    #[serde(borrow)]
    pub profile: Cow<'a, str>,
    /// Hash of the profile at that time.
    #[serde(borrow)]
    pub profile_hash: Cow<'a, str>,
    /// The identity.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// Name of the control plane.
    #[serde(borrow)]
    pub control_plane: Cow<'a, str>,
    /// Secret with the key.
    #[serde(borrow)]
    pub secret: Cow<'a, str>,
    /// Data key in it.
    #[serde(borrow)]
    pub data_key: Cow<'a, str>,
    /// Whether that key is the author's own, which rotation leaves alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_key: bool,
}

impl<'a> Receipt<'a> {
    /// Reads the annotation's value.
    ///
    /// # Errors
    /// If it is no receipt of ours.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    pub(crate) fn of_injection(
        injection: &'a Injection<'_>,
        namespace_unknown: bool,
        unknown: &'a [String],
    ) -> Self {
        let (secret, data_key, own_key) = match &injection.key {
            Key::Managed(key) => (&key.secret, &key.data_key, false),
            Key::Given { secret, data_key } => (secret, data_key, true),
        };
        let injected = Injected {
            profile: Cow::Borrowed(injection.profile),
            profile_hash: Cow::Borrowed(injection.profile_hash),
            service: Cow::Borrowed(&injection.service),
            control_plane: Cow::Borrowed(&injection.control_plane),
            secret: Cow::Borrowed(secret),
            data_key: Cow::Borrowed(data_key),
            own_key,
        };
        Self {
            version: Cow::Borrowed(VERSION),
            decision: Done::Inject,
            reason: None,
            injected: Some(injected),
            namespace_unknown,
            unknown: Cow::Borrowed(unknown),
        }
    }

    pub(crate) fn of_skip(
        reason: SkipReason,
        namespace_unknown: bool,
        unknown: &'a [String],
    ) -> Self {
        Self {
            version: Cow::Borrowed(VERSION),
            decision: Done::Skip,
            reason: Some(Cow::Borrowed(reason.as_str())),
            injected: None,
            namespace_unknown,
            unknown: Cow::Borrowed(unknown),
        }
    }
}

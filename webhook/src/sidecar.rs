//! What is injected into a pod: the sidecar itself, and its receipt. Pure.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

pub(crate) mod apikey_manager;
pub(crate) mod mode;
pub(crate) mod proxy_env;
pub(crate) mod rendered;
pub(crate) mod restricted;
pub(crate) mod server_keys;
pub(crate) mod shapes;
pub(crate) mod tailscale;

use crate::annotations::{AuthKeyRef, Injection, SkipReason, Tailscale};
use crate::{forms, identity};

// Exactly this text: with a slash at the end the token is mounted anyway.
pub(crate) const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Longest word of a receipt that is not a name: versions, reasons and hashes are far shorter.
const LONGEST_WORD: usize = 64;

/// Version that receipts name.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Receipt on the pod of what was done to it and why, in the annotation `sidescale.io/status`. It never contains a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt<'a> {
    /// Version of Sidescale that wrote it.
    #[serde(borrow)]
    pub version: Cow<'a, str>,
    /// Whether the pod was injected or skipped.
    pub decision: Done,
    /// Why the pod was skipped.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// Name of the profile used.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Cow<'a, str>>,
    /// Hash of the profile at that time.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub profile_hash: Option<Cow<'a, str>>,
    /// The key that the Tailscale sidecar refers to.
    #[serde(flatten, borrow, skip_serializing_if = "Option::is_none")]
    pub injected: Option<Injected<'a>>,
    /// Secret in which the manager stores Headscale's API key.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret: Option<Cow<'a, str>>,
    /// Secret that Headscale's own keys are mounted from.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub server_keys_secret: Option<Cow<'a, str>>,
    /// Whether the namespace was not known yet, which means that none of its annotations were seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub namespace_unknown: bool,
    /// A remark on each unknown key under our prefix.
    #[serde(borrow, default, skip_serializing_if = "<[_]>::is_empty")]
    pub unknown: Cow<'a, [String]>,
}

/// What was done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Done {
    /// A sidecar was added.
    Inject,
    /// The pod was skipped.
    Skip,
}

/// The key that a Tailscale sidecar refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected<'a> {
    /// Service, the pod's identity.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// Name of the control plane.
    #[serde(borrow)]
    pub control_plane: Cow<'a, str>,
    /// Secret with the key.
    #[serde(borrow)]
    pub secret: Cow<'a, str>,
    /// Data key in that Secret.
    #[serde(borrow)]
    pub data_key: Cow<'a, str>,
    /// Whether the key is the author's own, which rotation leaves alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_key: bool,
}

impl<'a> Receipt<'a> {
    /// Parses the annotation's value. Anyone who may write a pod can forge it: every name in it has the form of such names,
    /// and is safe in an Event or in a command to paste.
    ///
    /// # Errors
    /// If it is not a receipt of Sidescale.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        let receipt: Self = serde_json::from_str(text)?;
        if receipt.has_the_form() {
            Ok(receipt)
        } else {
            Err(serde_json::Error::custom("a name without its form"))
        }
    }

    fn has_the_form(&self) -> bool {
        let Self {
            version,
            decision: _,
            reason,
            profile,
            profile_hash,
            injected,
            api_key_secret,
            server_keys_secret,
            namespace_unknown: _,
            unknown,
        } = self;
        let fits = |b: u8| b == b' ' || b.is_ascii_graphic();
        let word = |text: &str| text.len() <= LONGEST_WORD && text.bytes().all(fits);
        let secret = |name: &str| forms::is_dns_subdomain(name, 253);
        word(version)
            && reason.as_deref().is_none_or(word)
            && profile.as_deref().is_none_or(forms::is_dns_label)
            && profile_hash.as_deref().is_none_or(word)
            && injected.as_ref().is_none_or(Injected::has_the_form)
            && api_key_secret.as_deref().is_none_or(secret)
            && server_keys_secret.as_deref().is_none_or(secret)
            && !unknown
                .iter()
                .any(|remark| remark.contains(char::is_control))
    }

    pub(crate) fn of_injection(
        injection: &'a Injection<'_>,
        namespace_unknown: bool,
        unknown: &'a [String],
    ) -> Self {
        let manager = injection.apikey_manager.as_ref();
        let keys = injection.server_keys.as_ref();
        Self {
            profile: Some(Cow::Borrowed(injection.profile)),
            profile_hash: Some(Cow::Borrowed(injection.profile_hash)),
            injected: injection.tailscale.as_ref().map(Injected::of),
            api_key_secret: manager.map(|manager| Cow::Borrowed(manager.secret)),
            server_keys_secret: keys.map(|keys| Cow::Borrowed(keys.secret)),
            ..Self::of(Done::Inject, namespace_unknown, unknown)
        }
    }

    pub(crate) fn of_skip(
        reason: SkipReason,
        namespace_unknown: bool,
        unknown: &'a [String],
    ) -> Self {
        Self {
            reason: Some(Cow::Borrowed(reason.as_str())),
            ..Self::of(Done::Skip, namespace_unknown, unknown)
        }
    }

    fn of(decision: Done, namespace_unknown: bool, unknown: &'a [String]) -> Self {
        Self {
            version: Cow::Borrowed(VERSION),
            decision,
            reason: None,
            profile: None,
            profile_hash: None,
            injected: None,
            api_key_secret: None,
            server_keys_secret: None,
            namespace_unknown,
            unknown: Cow::Borrowed(unknown),
        }
    }
}

impl<'a> Injected<'a> {
    fn has_the_form(&self) -> bool {
        let Self {
            service,
            control_plane,
            secret,
            data_key,
            own_key: _,
        } = self;
        identity::is_service(service)
            && forms::is_dns_label(control_plane)
            && forms::is_dns_subdomain(secret, 253)
            && forms::is_data_key(data_key)
    }

    fn of(sidecar: &'a Tailscale<'_>) -> Self {
        let (secret, data_key, own_key) = match &sidecar.key {
            AuthKeyRef::Managed(key) => (&key.secret, &key.data_key, false),
            AuthKeyRef::Given { secret, data_key } => (secret, data_key, true),
        };
        Self {
            service: Cow::Borrowed(sidecar.service),
            control_plane: Cow::Borrowed(sidecar.control_plane),
            secret: Cow::Borrowed(secret),
            data_key: Cow::Borrowed(data_key),
            own_key,
        }
    }
}

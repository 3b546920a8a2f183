//! Whether and how a pod is injected: everything that is needed for it, parsed and allowed. Pure.

use super::headscale::{ApikeyManager, ServerKeys};
use super::key::AuthKeyRef;
use super::kinds::Kinds;
use super::reason::{Refusal, SkipReason};
use super::state::StateStorage;
use crate::identity::Hostname;
use crate::profile::{Delivery, Overlay, Resources};

/// Holds everything that one injection needs, parsed and allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection<'a> {
    /// Profile that was used.
    pub profile: &'a str,
    /// Its hash.
    pub profile_hash: &'a str,
    /// The Tailscale sidecar.
    pub tailscale: Option<Tailscale<'a>>,
    /// The manager of Headscale's API key.
    pub apikey_manager: Option<ApikeyManager<'a>>,
    /// Headscale's own keys.
    pub server_keys: Option<ServerKeys<'a>>,
    /// Secrets that images are pulled with.
    pub pull_secrets: &'a [String],
    /// What the author is warned of, although it is done as asked.
    pub remarks: Vec<String>,
}

/// Holds everything that a Tailscale sidecar needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tailscale<'a> {
    /// Control plane's name.
    pub control_plane: &'a str,
    /// Its login server.
    pub login_server: &'a str,
    /// Whether a private authority signs its certificate, which then stands beside the key as `ca.crt`.
    pub private_ca: bool,
    /// The identity: names key, user and host.
    pub service: &'a str,
    /// Name in the tailnet, which the pod's own name or node may complete.
    pub hostname: Hostname<'a>,
    /// Where the key stands and what it may do.
    pub key: AuthKeyRef,
    /// How the key reaches the sidecar.
    pub delivery: Delivery,
    /// Whether the pod itself asks for that delivery.
    pub delivery_asked: bool,
    /// Where the node keeps who it is.
    pub state: StateStorage<'a>,
    /// Whether it is a native sidecar, or else an ordinary container.
    pub native: bool,
    /// Whether the app waits until the node is up.
    pub wait: bool,
    /// Whether the node takes the tailnet's names.
    pub accept_dns: bool,
    /// Whether the node takes the routes of others.
    pub accept_routes: bool,
    /// More arguments for `tailscale up`.
    pub extra_args: &'a str,
    /// Port of a SOCKS5 and HTTP proxy on the pod's loopback.
    pub proxy: Option<u16>,
    /// Whether the app's containers are told of the proxy.
    pub proxy_env: bool,
    /// The sidecar's image.
    pub image: &'a str,
    /// The sidecar's requests and limits.
    pub resources: Resources<'a>,
    /// What the operator lays over the container.
    pub overlay: &'a Overlay,
}

/// Says whether and how a pod is injected, from metadata alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// The author has to mend something.
    Deny(Refusal),
    /// Injected as described.
    Inject(Box<Injection<'a>>),
    /// Left alone.
    Skip(SkipReason),
    /// Left alone although the author has to mend something: the profile says `onInvalid: warn`.
    Warn(Refusal),
}

impl Injection<'_> {
    /// What is injected.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds {
            tailscale: self.tailscale.is_some(),
            apikey_manager: self.apikey_manager.is_some(),
            server_keys: self.server_keys.is_some(),
        }
    }

    /// Whether more of the pod has to be looked at: its containers, its group, or the names of its volumes.
    pub(crate) fn needs_details(&self) -> bool {
        let touches = |sidecar: &Tailscale<'_>| {
            sidecar.proxy.is_some()
                || matches!(sidecar.state, StateStorage::Volume(_))
                || sidecar.delivery == Delivery::File
                || !sidecar.overlay.volume_mounts.is_empty()
        };
        self.apikey_manager.is_some()
            || self.server_keys.is_some()
            || !self.pull_secrets.is_empty()
            || self.tailscale.as_ref().is_some_and(touches)
    }
}

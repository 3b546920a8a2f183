//! Whether and how a pod is injected: all settings, parsed and allowed. Pure.

use super::headscale::{ApikeyManager, ServerKeys};
use super::key::AuthKeyRef;
use super::kinds::Kinds;
use super::reason::{Refusal, SkipReason};
use super::state::StateStorage;
use crate::identity::Hostname;
use crate::profile::{Delivery, Overlay, Resources};

/// All settings of one injection, parsed and allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection<'a> {
    /// Name of the profile used.
    pub profile: &'a str,
    /// Hash of the profile.
    pub profile_hash: &'a str,
    /// The Tailscale sidecar.
    pub tailscale: Option<Tailscale<'a>>,
    /// The manager of Headscale's API key.
    pub apikey_manager: Option<ApikeyManager<'a>>,
    /// Headscale's own keys.
    pub server_keys: Option<ServerKeys<'a>>,
    /// Secrets that images are pulled with.
    pub pull_secrets: &'a [String],
    /// Warnings for the author about settings that are applied as asked.
    pub remarks: Vec<String>,
}

/// All settings of a Tailscale sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Tailscale<'a> {
    /// Name of the control plane.
    pub control_plane: &'a str,
    /// Login server of the control plane.
    pub login_server: &'a str,
    /// Whether a private authority signs its certificate; the authority's certificate is then mounted beside the key as `ca.crt`.
    pub private_ca: bool,
    /// Service, the pod's identity: key, user and hostname are named after it.
    pub service: &'a str,
    /// Hostname in the tailnet, which may still need the name of the pod or its Kubernetes node.
    pub hostname: Hostname<'a>,
    /// Location and properties of the key.
    pub key: AuthKeyRef,
    /// How the key reaches the sidecar.
    pub delivery: Delivery,
    /// Whether the pod itself asks for this delivery.
    pub delivery_asked: bool,
    /// Where the node stores its identity.
    pub state: StateStorage<'a>,
    /// Whether it is a native sidecar; otherwise an ordinary container.
    pub native: bool,
    /// Whether the app waits until the node is up.
    pub wait: bool,
    /// Whether the node uses the tailnet's DNS.
    pub accept_dns: bool,
    /// Whether the node accepts subnet routes.
    pub accept_routes: bool,
    /// Additional arguments for `tailscale up`.
    pub extra_args: &'a str,
    /// Port of a SOCKS5 and HTTP proxy on the pod's loopback.
    pub proxy: Option<u16>,
    /// Whether the app's containers get the proxy's environment variables.
    pub proxy_env: bool,
    /// The sidecar's image.
    pub image: &'a str,
    /// The sidecar's requests and limits.
    pub resources: Resources<'a>,
    /// The operator's override of the container.
    pub overlay: &'a Overlay,
}

/// Decision on whether and how a pod is injected, from metadata alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// Denied: the author has to correct something.
    Deny(Refusal),
    /// Injected as described.
    Inject(Box<Injection<'a>>),
    /// Skipped.
    Skip(SkipReason),
    /// Skipped although the author has to correct something: the profile says `onInvalid: warn`.
    Warn(Refusal),
}

impl Injection<'_> {
    /// Returns the kinds that are injected.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds {
            tailscale: self.tailscale.is_some(),
            apikey_manager: self.apikey_manager.is_some(),
            server_keys: self.server_keys.is_some(),
        }
    }

    /// Returns whether more of the pod has to be read: its containers, its group, or the names of its volumes.
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

//! Every key, its form, its default: metadata and policy -> Injection, or an error its author can act on. Pure.

use std::time::Duration;

mod asked;
mod choose;
mod decide;
mod headscale;
mod key;
mod kinds;
mod life;
mod network;
mod read;
mod reason;
mod state;

use crate::identity::{Hostname, Owner};
use crate::profile::{Delivery, Overlay, Resources};

pub(crate) use asked::{Defaults, KNOWN, Support, is_known};
pub(crate) use decide::check_defaults;
pub(crate) use network::{is_argument, of_ours};

pub use asked::{deciding, unknown};
pub use decide::decide;
pub use headscale::{ApikeyManager, ServerKeys};
pub use key::{Key, ManagedKey};
pub use kinds::Kinds;
pub use reason::{DenyReason, Refusal, SkipReason};
pub use state::State;

/// Is the shortest life of a key that anybody can choose: a mint and its retries have to fit in.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(30);

/// Holds what decides an injection: metadata alone, so that rotation can decide the same from a metadata watch.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name; empty where `generateName` is still to be filled in.
    pub name: &'a str,
    /// Every annotation of the pod, or at least those under [`crate::keys::PREFIX`].
    pub annotations: &'a dyn Lookup,
    /// Labels of the pod.
    pub labels: &'a dyn Lookup,
    /// The controller, if the pod has one.
    pub owner: Option<Owner<'a>>,
    /// What is known of the namespace; `None` if it was not seen yet.
    pub namespace_metadata: Option<&'a NamespaceMetadata>,
    /// Whether the namespace's own label opts in, which the request's path says at admission.
    pub namespace_opted_in: bool,
    /// Profile that the receipt names, where a pod is looked at again; it takes the place of choosing one.
    pub profile: Option<&'a str>,
    /// Who reads what is said of it.
    pub caller: Caller,
    /// Uid of the request that makes the pod, or the digits of it that the name of the pod's own key holds.
    pub request: &'a str,
}

/// Says who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The API server, by its client certificate; or nobody but ourselves.
    Verified,
    /// Anybody in the pod network: no text tells what depends on the namespace that the request names.
    Unverified,
}

/// Finds a value by its key in a borrowed map.
pub trait Lookup: std::fmt::Debug {
    /// The value of `key`.
    fn value(&self, key: &str) -> Option<&str>;
    /// All entries whose key begins with [`crate::keys::PREFIX`].
    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_>;
}

/// Holds what the index keeps of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceMetadata {
    /// Value of the label `sidescale.io/inject`.
    pub inject: Option<String>,
    /// All its labels, which may open a profile or a control plane to it.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Annotations under [`crate::keys::PREFIX`].
    pub annotations: std::collections::BTreeMap<String, String>,
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
                || matches!(sidecar.state, State::Volume(_))
                || sidecar.delivery == Delivery::File
                || !sidecar.overlay.volume_mounts.is_empty()
        };
        self.apikey_manager.is_some()
            || self.server_keys.is_some()
            || !self.pull_secrets.is_empty()
            || self.tailscale.as_ref().is_some_and(touches)
    }
}

impl Lookup for NamespaceMetadata {
    fn value(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let entries = self.annotations.iter();
        Box::new(entries.map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

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
    pub key: Key,
    /// How the key reaches the sidecar.
    pub delivery: Delivery,
    /// Whether the pod itself asks for that delivery.
    pub delivery_asked: bool,
    /// Where the node keeps who it is.
    pub state: State<'a>,
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

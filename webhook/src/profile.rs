//! What the operator allows and defaults, after the configuration file was checked. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod check;
mod config;
mod error;
mod fields;
mod overlay;
mod resources;
mod scope;
mod unknown_key;

pub use config::{
    Config, ContainerOverride, ControlPlaneConfig, NamespacesConfig, ProfileConfig,
    RequirementConfig, RotationConfig, SecretConfig, SelectorConfig, WebhookConfig,
};
pub use error::PolicyError;
pub use overlay::Overlay;
pub use resources::Resources;
pub use scope::{NamespaceScope, Operator, Requirement, Selector};

use crate::annotations::Defaults;
use crate::identity::POD_SECRET;

/// Shortest lifetime of a key that can be configured: creating it, with retries, has to fit in.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(30);

/// Name of the default control plane and of the default profile.
pub const DEFAULT: &str = "default";
/// Default image of the sidecar.
pub const IMAGE: &str = "docker.io/tailscale/tailscale:v1.102.3";
/// Default for Sidescale's own image, as `make image` builds it.
pub const OWN_IMAGE: &str = concat!("sidescale:", env!("CARGO_PKG_VERSION"));
/// Default user name template of a control plane.
pub const USER_TEMPLATE: &str = "{namespace}.{service}";

/// The whole configuration, parsed and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Control planes by name; `default` always exists.
    pub control_planes: BTreeMap<String, ControlPlaneSettings>,
    /// Profiles by name; `default` always exists.
    pub profiles: BTreeMap<String, Profile>,
    /// Where rotation differs from its defaults.
    pub rotation: Rotation,
    /// Whether pods are injected at all; rotation continues for the keys of existing pods.
    pub inject: bool,
    /// Sidescale's own image, which the manager of the API key runs beside Headscale.
    pub image: String,
    /// Mark of the Headscale users that this release creates; `None`: kube-system's uid and the release's name.
    pub installation: Option<String>,
    /// Earlier marks that count as well.
    pub former_installations: Vec<String>,
    /// Services that hostnames in the tailnet are reserved for, by hostname.
    pub reserved_hostnames: BTreeMap<String, HostnameOwner>,
}

/// Service that a hostname in the tailnet is reserved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameOwner {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
}

/// Settings of one Headscale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneSettings {
    /// URL given to sidecars as `--login-server`.
    pub login_server: String,
    /// URL for our own calls; defaults to the login server.
    pub api_url: String,
    /// Namespace of the Secret with the API key; default `headscale`.
    pub api_key_namespace: String,
    /// Name of the Secret with the API key; default `headscale-api-key`.
    pub api_key_secret: String,
    /// Data key of the API key there; default `api-key`.
    pub api_key_data_key: String,
    /// Whether plain `http://` is accepted for `api_url`.
    pub allow_insecure: bool,
    /// PEM of a private authority that signs the control plane's certificate.
    pub ca_bundle: Option<String>,
    /// User name template; default `{namespace}.{service}`.
    pub user_template: String,
    /// Users that Sidescale did not create and may use anyway.
    pub adopt_users: Vec<String>,
    /// Namespaces whose pods may name it; `None`: all for the default one, none for others.
    pub namespaces: Option<NamespaceScope>,
}

/// Defaults and limits of a profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// First digits of a hash of all fields below, for the receipt.
    pub hash: String,
    /// Tailscale image of the sidecar.
    pub image: String,
    /// Tags that an annotation may name.
    pub allowed_tags: Vec<String>,
    /// Images that an annotation may name; one that ends with `*`, after `/`, `:` or `@`, is a prefix.
    pub allowed_images: Vec<String>,
    /// Arguments of `tailscale up` that an annotation may name, without dashes.
    pub allowed_extra_args: Vec<String>,
    /// Longest lifetime of a pre-auth key; default 8760h.
    pub max_auth_key_expiration: Duration,
    /// Name of the Secret with the pre-auth keys of a namespace; default `headscale-auth-keys`.
    pub auth_key_secret_name: String,
    /// Secrets that images are pulled with, added to the pod's own.
    pub image_pull_secrets: Vec<String>,
    /// Namespaces whose pods may name it; `None`: all for the default one, none for others.
    pub namespaces: Option<NamespaceScope>,
    /// Pods of opted-in namespaces that get it without an annotation.
    pub pod_selector: Option<Selector>,
    /// Effect of a mistake in an annotation.
    pub on_invalid: OnInvalid,
    /// Override of the Tailscale container.
    pub overlay: Overlay,
    /// Annotations that apply if neither pod nor namespace sets them.
    pub(crate) defaults: Defaults,
}

impl Profile {
    /// Returns its default for an annotation, by the annotation's name without the prefix.
    #[must_use]
    pub fn default_of(&self, name: &str) -> Option<&str> {
        self.defaults.get(name)
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            hash: String::new(),
            image: IMAGE.to_owned(),
            allowed_tags: Vec::new(),
            allowed_images: Vec::new(),
            allowed_extra_args: Vec::new(),
            max_auth_key_expiration: Duration::from_secs(8760 * 3600),
            auth_key_secret_name: "headscale-auth-keys".to_owned(),
            image_pull_secrets: Vec::new(),
            namespaces: None,
            pod_selector: None,
            on_invalid: OnInvalid::Deny,
            overlay: Overlay::default(),
            defaults: Defaults::default(),
        }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            overlap: Duration::from_secs(3600),
            paused: false,
            max_services_per_namespace: 200,
            min_auth_key_expiration: Duration::from_secs(3600),
            min_pod_auth_key_expiration: Duration::from_secs(300),
            min_auth_key_renewal_gap: Duration::from_secs(3600),
            keys_per_service: 12,
            keys_per_service_per_hour: 6,
            new_keys_per_namespace: 600,
            new_keys_per_namespace_per_hour: 200,
            pod_keys_per_namespace: 2000,
            pod_keys_per_namespace_per_hour: 1000,
            max_control_plane_rows: 20_000,
            unused_keys_after: Duration::from_secs(7 * 24 * 3600),
            orphaned_keys_after: Duration::from_secs(600),
            unused_users_after: Duration::from_secs(30 * 24 * 3600),
            on_lost: OnLost::Report,
            wake_pods: true,
            users: UserPolicy::Manage,
        }
    }
}

impl Policy {
    /// Returns whether a pod of this profile starts despite a mistake.
    pub(crate) fn tolerates(&self, profile: &str) -> bool {
        let profile = self.profiles.get(profile);
        profile.is_some_and(|profile| profile.on_invalid == OnInvalid::Warn)
    }

    /// Returns whether a profile is selected by a pod's labels.
    pub(crate) fn has_pod_selectors(&self) -> bool {
        let mut profiles = self.profiles.values();
        profiles.any(|profile| profile.pod_selector.is_some())
    }

    /// Returns the labels of a pod that may select its profile.
    #[must_use]
    pub fn pod_labels(&self) -> BTreeSet<&str> {
        let profiles = self.profiles.values();
        let selectors = profiles.filter_map(|profile| profile.pod_selector.as_ref());
        selectors.flat_map(Selector::keys).collect()
    }

    /// Returns what an operator should know about an accepted configuration.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let open = |profile: &Profile| {
            profile.pod_selector.is_some()
                && profile.namespaces.is_none()
                && !(profile.allowed_tags.is_empty() && profile.default_of("tags").is_none())
        };
        let profiles = self.profiles.iter().filter(|(_, profile)| open(profile));
        let remarks = profiles.map(|(name, _)| format!(
            "profiles.{name} has tags and a podSelector, but no namespaces: anyone who may create a pod in an opted-in namespace can set that label and get the tags. List the namespaces that may have them in profiles.{name}.namespaces"
        ));
        remarks.collect()
    }

    /// Returns the labels of a namespace that may open a profile or a control plane to it.
    #[must_use]
    pub fn namespace_labels(&self) -> BTreeSet<&str> {
        let profiles = self.profiles.values().map(|profile| &profile.namespaces);
        let planes = self.control_planes.values().map(|plane| &plane.namespaces);
        let selectors = profiles.chain(planes).filter_map(|open| match open {
            Some(NamespaceScope::Labels(selector)) => Some(selector),
            Some(NamespaceScope::Names(_)) | None => None,
        });
        selectors.flat_map(Selector::keys).collect()
    }

    /// Returns the names of the Secrets that hold pre-auth keys, in any namespace with pods.
    #[must_use]
    pub fn auth_key_secrets(&self) -> BTreeSet<&str> {
        let profiles = self.profiles.values();
        let shared = profiles.map(|profile| profile.auth_key_secret_name.as_str());
        shared.chain([POD_SECRET]).collect()
    }
}

/// Effect of a mistake in an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    /// The pod is denied.
    Deny,
    /// The pod starts without a sidecar, and its creator is warned.
    Warn,
}

/// How the auth key reaches the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `TS_AUTHKEY` from a `secretKeyRef`.
    Env,
    /// A Secret volume and `TS_AUTHKEY=file:…`.
    File,
}

impl Delivery {
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text {
            "env" => Some(Self::Env),
            "file" => Some(Self::File),
            _ => None,
        }
    }
}

/// Settings of the rotation module.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// How long an old pre-auth key stays valid after its successor was written; default 1h.
    pub overlap: Duration,
    /// Stops creating and expiring keys.
    pub paused: bool,
    /// Most services that one namespace may have; default 200.
    pub max_services_per_namespace: usize,
    /// Shortest lifetime of a key that pods share; default 1h.
    pub min_auth_key_expiration: Duration,
    /// Shortest lifetime of a per-pod key; default 5m.
    pub min_pod_auth_key_expiration: Duration,
    /// Shortest time between a key and its renewal, or a third of its lifetime if that is less; default 1h.
    pub min_auth_key_renewal_gap: Duration,
    /// Most keys that one service gets at once; default 12.
    pub keys_per_service: u32,
    /// How many more it gets in each hour; default 6.
    pub keys_per_service_per_hour: u32,
    /// Most shared keys that one namespace gets at once; default three times [`Self::max_services_per_namespace`].
    pub new_keys_per_namespace: u32,
    /// How many more it gets in each hour; default [`Self::max_services_per_namespace`].
    pub new_keys_per_namespace_per_hour: u32,
    /// Most per-pod keys that one namespace gets at once; default 2000.
    pub pod_keys_per_namespace: u32,
    /// How many more it gets in each hour; default 1000.
    pub pod_keys_per_namespace_per_hour: u32,
    /// Most rows of keys at one control plane before the namespaces with most of them are refused; default 20000.
    pub max_control_plane_rows: u32,
    /// How long a key is kept after the last pod that needs it; default 7d.
    pub unused_keys_after: Duration,
    /// Minimum age of a live key that no Secret contains before it is expired; default 10m.
    pub orphaned_keys_after: Duration,
    /// How long after its last key expires a user without nodes is deleted; default 30d.
    pub unused_users_after: Duration,
    /// What happens to a pod that lost its node; default [`OnLost::Report`].
    pub on_lost: OnLost,
    /// Whether pods that wait for a key are woken by an annotation; default true.
    pub wake_pods: bool,
    /// Who creates Headscale users; default [`UserPolicy::Manage`].
    pub users: UserPolicy,
}

/// Who creates and deletes the Headscale users that keys are created for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserPolicy {
    /// Sidescale does.
    #[default]
    Manage,
    /// People do: a missing user is reported, and none is deleted.
    Never,
}

/// What happens to a pod that lost its node, which only a restart of its container repairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLost {
    /// The pod is reported.
    #[default]
    Report,
    /// The pod is evicted as well.
    Evict,
}

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

/// Is the shortest life of a key that anybody can choose: a mint and its retries have to fit in.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(30);

/// Is the name of the control plane and of the profile that are used where nothing else is asked for.
pub const DEFAULT: &str = "default";
/// Is the sidecar's image where no profile names another.
pub const IMAGE: &str = "docker.io/tailscale/tailscale:v1.102.3";
/// Is our own image where the configuration names no other, as `make image` builds it.
pub const OWN_IMAGE: &str = concat!("sidescale:", env!("CARGO_PKG_VERSION"));
/// Is the user name template where no control plane names another.
pub const USER_TEMPLATE: &str = "{namespace}.{service}";

/// Holds the whole configuration after it was read and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Control planes by name; `default` always exists.
    pub control_planes: BTreeMap<String, ControlPlaneSettings>,
    /// Profiles by name; `default` always exists.
    pub profiles: BTreeMap<String, Profile>,
    /// Where rotation differs from its defaults.
    pub rotation: Rotation,
    /// Whether pods are injected at all; keys of those that are there live on.
    pub inject: bool,
    /// Our own image, which the manager of the API key runs beside Headscale.
    pub image: String,
    /// What marks the Headscale users that this release makes; `None`: kube-system's uid and the release's name.
    pub installation: Option<String>,
    /// Marks of earlier times that count as well.
    pub former_installations: Vec<String>,
    /// Which service alone may have a name in the tailnet, by that name.
    pub reserved_hostnames: BTreeMap<String, HostnameOwner>,
}

/// Service that a name in the tailnet is reserved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameOwner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
}

/// Names one Headscale.
#[derive(Clone, Debug)]
pub struct ControlPlaneSettings {
    /// URL given to sidecars as `--login-server`.
    pub login_server: String,
    /// URL for our own calls; the login server where the file names none.
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
    /// Users that were not made by us and may be used all the same.
    pub adopt_users: Vec<String>,
    /// Namespaces whose pods may name it; `None`: all for the default one, none for others.
    pub namespaces: Option<NamespaceScope>,
}

/// Holds what a profile defaults and allows.
#[derive(Clone, Debug)]
pub struct Profile {
    /// First digits of a hash of all that is below, for the receipt.
    pub hash: String,
    /// Tailscale image of the sidecar.
    pub image: String,
    /// Tags that an annotation may name.
    pub allowed_tags: Vec<String>,
    /// Images that an annotation may name; one that ends with `*`, behind `/`, `:` or `@`, is a beginning.
    pub allowed_images: Vec<String>,
    /// Arguments of `tailscale up` that an annotation may name, without dashes.
    pub allowed_extra_args: Vec<String>,
    /// Longest life of a pre-auth key; default 8760h.
    pub max_auth_key_expiration: Duration,
    /// Name of the Secret with the pre-auth keys of a namespace; default `headscale-auth-keys`.
    pub auth_key_secret_name: String,
    /// Secrets that images are pulled with, added to the pod's own.
    pub image_pull_secrets: Vec<String>,
    /// Namespaces whose pods may name it; `None`: all for the default one, none for others.
    pub namespaces: Option<NamespaceScope>,
    /// Pods of opted-in namespaces that get it without an annotation.
    pub pod_selector: Option<Selector>,
    /// What a mistake in an annotation leads to.
    pub on_invalid: OnInvalid,
    /// What is laid over the Tailscale container.
    pub overlay: Overlay,
    /// What annotations say where neither pod nor namespace does.
    pub(crate) defaults: Defaults,
}

impl Profile {
    /// What it says in place of an annotation that nobody wrote, by its name without the prefix.
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
            users: UserPolicy::Manage,
        }
    }
}

impl Policy {
    /// Whether a pod of this profile starts in spite of a mistake.
    pub(crate) fn tolerates(&self, profile: &str) -> bool {
        let profile = self.profiles.get(profile);
        profile.is_some_and(|profile| profile.on_invalid == OnInvalid::Warn)
    }

    /// Whether a profile is chosen by a pod's labels.
    pub(crate) fn has_pod_selectors(&self) -> bool {
        let mut profiles = self.profiles.values();
        profiles.any(|profile| profile.pod_selector.is_some())
    }

    /// The labels of a pod that may choose its profile.
    #[must_use]
    pub fn pod_labels(&self) -> BTreeSet<&str> {
        let profiles = self.profiles.values();
        let selectors = profiles.filter_map(|profile| profile.pod_selector.as_ref());
        selectors.flat_map(Selector::keys).collect()
    }

    /// What an operator should know of a configuration that is accepted.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let open = |profile: &Profile| {
            profile.pod_selector.is_some()
                && profile.namespaces.is_none()
                && !(profile.allowed_tags.is_empty() && profile.default_of("tags").is_none())
        };
        let profiles = self.profiles.iter().filter(|(_, profile)| open(profile));
        let remarks = profiles.map(|(name, _)| format!(
            "profiles.{name} has tags behind a podSelector and no namespaces: whoever may create a pod in an opted-in namespace sets that label, and gets the tags. List the namespaces that may have them in profiles.{name}.namespaces"
        ));
        remarks.collect()
    }

    /// The labels of a namespace that may open a profile or a control plane to it.
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

    /// Names of the Secrets that hold pre-auth keys, in whatever namespace there are pods.
    #[must_use]
    pub fn auth_key_secrets(&self) -> BTreeSet<&str> {
        let profiles = self.profiles.values();
        let shared = profiles.map(|profile| profile.auth_key_secret_name.as_str());
        shared.chain([POD_SECRET]).collect()
    }
}

/// What a mistake in an annotation leads to.
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

/// Holds the numbers of the rotation module.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// How long an old pre-auth key stays valid after its successor was written; default 1h.
    pub overlap: Duration,
    /// Stops all minting and expiring.
    pub paused: bool,
    /// Most services that one namespace may have; default 200.
    pub max_services_per_namespace: usize,
    /// Shortest life of a key that pods share; default 1h.
    pub min_auth_key_expiration: Duration,
    /// Shortest life of a key of a single pod; default 5m.
    pub min_pod_auth_key_expiration: Duration,
    /// Shortest time between a key and its renewal, or a third of its life where that is less; default 1h.
    pub min_auth_key_renewal_gap: Duration,
    /// Most keys that one service gets at once; default 12.
    pub keys_per_service: u32,
    /// How many more it gets in each hour; default 6.
    pub keys_per_service_per_hour: u32,
    /// Most shared keys that one namespace gets at once; default three times [`Self::max_services_per_namespace`].
    pub new_keys_per_namespace: u32,
    /// How many more it gets in each hour; default [`Self::max_services_per_namespace`].
    pub new_keys_per_namespace_per_hour: u32,
    /// Most keys of single pods that one namespace gets at once; default 2000.
    pub pod_keys_per_namespace: u32,
    /// How many more it gets in each hour; default 1000.
    pub pod_keys_per_namespace_per_hour: u32,
    /// Most rows of keys at one control plane before the namespaces with most of them are refused; default 20000.
    pub max_control_plane_rows: u32,
    /// How long a key is kept that no pod needs; default 7d.
    pub unused_keys_after: Duration,
    /// How old a live key that no Secret knows has to be before it is ended; default 10m.
    pub orphaned_keys_after: Duration,
    /// How long after its last key's end a user without nodes is removed; default 30d.
    pub unused_users_after: Duration,
    /// What happens to a pod that lost its node; default [`OnLost::Report`].
    pub on_lost: OnLost,
    /// Who makes Headscale users; default [`UserPolicy::Manage`].
    pub users: UserPolicy,
}

/// Who makes and removes the Headscale users that keys are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserPolicy {
    /// We do.
    #[default]
    Manage,
    /// People do: a user that is missing is asked for, and none is removed.
    Never,
}

/// What happens to a pod that lost its node, which nothing but a restart of its container mends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLost {
    /// People are told.
    #[default]
    Report,
    /// The pod is evicted as well.
    Evict,
}

//! What the operator allows and defaults: the configuration file's types. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Holds the whole configuration after it was read and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Control planes by name; `default` always exists.
    pub control_planes: BTreeMap<String, ControlPlane>,
    /// Profiles by name; `default` always exists.
    pub profiles: BTreeMap<String, Profile>,
    /// Where rotation differs from its defaults.
    pub rotation: Rotation,
}

/// Names one Headscale.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// URL given to sidecars as `--login-server`.
    pub login_server: String,
    /// URL for our own calls; the login server where the file names none.
    pub api_url: String,
    /// Namespace of the Secret with the API key; default `headscale`.
    pub api_key_namespace: String,
    /// Name of the Secret with the API key; default `headscale-api-key`. Its data key is `api-key`.
    pub api_key_secret: String,
    /// Whether plain `http://` is accepted for `api_url`.
    pub allow_insecure: bool,
    /// PEM of a private authority that signs the control plane's certificate.
    pub ca_bundle: Option<String>,
    /// User name template; default `{namespace}.{service}`.
    pub user_template: String,
    /// Users that were not made by us and may be used all the same.
    pub adopt_users: Vec<String>,
}

/// Holds what a profile defaults and allows.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Tailscale image of the sidecar.
    pub image: String,
    /// Tags that an annotation may name.
    pub allowed_tags: Vec<String>,
    /// Tags of pods that name none.
    pub tags: Vec<String>,
    /// Whether keys may be used more than once.
    pub reusable: bool,
    /// Life of a pre-auth key; default 2160h.
    pub auth_key_expiration: Duration,
    /// How long before its end a key is renewed; default 240h.
    pub auth_key_rotation_buffer: Duration,
    /// How the key reaches the sidecar; default `env`.
    pub auth_key_delivery: Delivery,
    /// Name of the Secret with the pre-auth keys of a namespace; default `headscale-auth-keys`.
    pub auth_key_secret_name: String,
    /// Whether the app waits until the node is up; default false.
    pub wait: bool,
    /// Requests and limits of the sidecar.
    pub resources: Resources<'static>,
}

/// How the auth key reaches the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `TS_AUTHKEY` from a `secretKeyRef`.
    Env,
    /// A Secret volume and `TS_AUTHKEY=file:…`.
    File,
}

/// Kubernetes quantities, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources<'a> {
    /// For example `50m`.
    pub cpu_request: Cow<'a, str>,
    /// For example `200m`.
    pub cpu_limit: Cow<'a, str>,
    /// For example `128Mi`.
    pub memory_request: Cow<'a, str>,
    /// For example `256Mi`.
    pub memory_limit: Cow<'a, str>,
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
}

//! The configuration file as written; keys without a field here are stored, to be refused by name. Pure.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::annotations::{KNOWN, Support};

/// Keys that no field takes.
pub(crate) type UnknownKeys = BTreeMap<String, IgnoredAny>;

/// Holds the whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// Name of this cluster, where several share one Headscale.
    pub cluster_name: Option<String>,
    /// What marks the Headscale users that this release makes; default the uid of kube-system and the release's name.
    pub installation: Option<String>,
    /// Marks of earlier times that count as well, such as `<uid of kube-system> <release>`.
    pub former_installations: Vec<String>,
    /// Names in the tailnet that one service alone may have: hostname to `<namespace>/<service>`.
    pub reserved_hostnames: BTreeMap<String, String>,
    /// Control planes by name.
    pub control_planes: BTreeMap<String, ControlPlaneConfig>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, ProfileConfig>,
    /// Numbers of the rotation module.
    pub rotation: RotationConfig,
    /// What the webhook itself needs.
    pub webhook: WebhookConfig,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

impl Config {
    /// Returns the JSON Schema (draft-07) of the file.
    #[must_use]
    pub fn schema() -> Value {
        let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Self>();
        schema.insert("title".to_owned(), "Configuration of Sidescale".into());
        schema.to_value()
    }
}

/// Returns the schema of the annotations that a profile may set; YAML's own `true` and `5` are accepted as text.
fn annotations(_: &mut SchemaGenerator) -> Schema {
    let sayable = KNOWN
        .iter()
        .filter(|(name, support)| *support != Support::Ours && !NOT_OF_A_PROFILE.contains(name));
    let scalar = || json_schema!({"type": ["string", "boolean", "number"]});
    let properties: Map<String, Value> = sayable
        .map(|(name, _)| ((*name).to_owned(), scalar().to_value()))
        .collect();
    json_schema!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Annotations that no profile can set.
pub(super) const NOT_OF_A_PROFILE: [&str; 3] = ["inject", "service", "profile"];

/// Names one Headscale.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlPlaneConfig {
    /// URL given to sidecars; required.
    pub login_server: Option<String>,
    /// URL for our own calls; default the login server.
    pub api_url: Option<String>,
    /// Where the API key stands; default `api-key` of `headscale/headscale-api-key`.
    pub api_key_secret: SecretConfig,
    /// Whether `apiUrl` may be plain `http://`.
    pub allow_insecure: bool,
    /// PEM of a private authority.
    pub ca_bundle: Option<String>,
    /// User name template; default `{namespace}.{service}`.
    pub user_template: Option<String>,
    /// Users not made by us that may be used all the same.
    pub adopt_users: Vec<String>,
    /// Namespaces whose pods may name it; absent: all for the default one, none for others.
    pub namespaces: Option<NamespacesConfig>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Names a Secret.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretConfig {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its data key; default `api-key`.
    pub key: Option<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Holds what a profile defaults and allows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileConfig {
    /// Tailscale image.
    pub image: Option<String>,
    /// Tags that an annotation may name.
    pub allowed_tags: Vec<String>,
    /// Images that an annotation may name; one that ends with `*`, behind `/`, `:` or `@`, is a beginning.
    pub allowed_images: Vec<String>,
    /// Arguments of `tailscale up` that an annotation may name, such as `--shields-up`.
    pub allowed_extra_args: Vec<String>,
    /// Longest life of a pre-auth key that an annotation may ask for; default `8760h`.
    pub max_auth_key_expiration: Option<String>,
    /// Name of the Secret with the pre-auth keys of a namespace.
    pub auth_key_secret_name: Option<String>,
    /// Secrets that the sidecars' images are pulled with.
    pub image_pull_secrets: Vec<String>,
    /// Namespaces whose pods may name it; absent: all for the default one, none for others.
    pub namespaces: Option<NamespacesConfig>,
    /// Pods of opted-in namespaces that get it without an annotation.
    pub pod_selector: Option<SelectorConfig>,
    /// `deny` or `warn`: what a mistake in an annotation leads to.
    #[schemars(extend("enum" = ["deny", "warn"]))]
    pub on_invalid: Option<String>,
    /// What is laid over the Tailscale container.
    pub container_override: ContainerOverride,
    /// Default value of annotations, by their name without our prefix.
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Holds the numbers of the rotation module.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct RotationConfig {
    /// How long an old pre-auth key outlives its successor's arrival, such as `1h`.
    pub overlap: Option<String>,
    /// Stops all minting and expiring.
    pub paused: bool,
    /// Most services that one namespace may have.
    pub max_services_per_namespace: Option<usize>,
    /// Shortest life of a pre-auth key that pods share; default `1h`.
    pub min_auth_key_expiration: Option<String>,
    /// Shortest life of a pre-auth key of a single pod; default `5m`.
    pub min_pod_auth_key_expiration: Option<String>,
    /// Shortest time between a pre-auth key and its renewal, a third of its life where that is less; default `1h`.
    pub min_auth_key_renewal_gap: Option<String>,
    /// Most keys that one service gets at once; default 12.
    pub keys_per_service: Option<u32>,
    /// How many more it gets in each hour; default 6.
    pub keys_per_service_per_hour: Option<u32>,
    /// Most shared keys that one namespace gets at once; default three times `maxServicesPerNamespace`.
    pub new_keys_per_namespace: Option<u32>,
    /// How many more it gets in each hour; default `maxServicesPerNamespace`.
    pub new_keys_per_namespace_per_hour: Option<u32>,
    /// Most keys of single pods that one namespace gets at once; default 2000.
    pub pod_keys_per_namespace: Option<u32>,
    /// How many more it gets in each hour; default 1000.
    pub pod_keys_per_namespace_per_hour: Option<u32>,
    /// Most rows of keys at one control plane before namespaces with most of them are refused; default 20000.
    pub max_control_plane_rows: Option<u32>,
    /// How long a key is kept that no pod needs, such as `7d`.
    pub unused_keys_after: Option<String>,
    /// How old a live key that no Secret knows has to be before it is ended, such as `10m`.
    pub orphaned_keys_after: Option<String>,
    /// How long after its last key's end a user without nodes is removed, such as `30d`.
    pub unused_users_after: Option<String>,
    /// What happens to a pod that lost its node: `report` or `evict`.
    #[schemars(extend("enum" = ["report", "evict"]))]
    pub on_lost: Option<String>,
    /// Whether Headscale users are made and removed: `manage` or `never`.
    #[schemars(extend("enum" = ["manage", "never"]))]
    pub users: Option<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Holds what the webhook itself needs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookConfig {
    /// Our own image, for the manager of Headscale's API key.
    pub image: Option<String>,
    /// `false` stops all injection.
    pub inject: Option<bool>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Is laid over the Tailscale container: Kubernetes' own forms.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerOverride {
    /// More variables.
    pub env: Vec<Value>,
    /// More mounts, of volumes that the pod has.
    pub volume_mounts: Vec<Value>,
    /// A liveness probe.
    pub liveness_probe: Option<Value>,
    /// A readiness probe.
    pub readiness_probe: Option<Value>,
    /// Fields that take the place of ours.
    pub security_context: Option<Map<String, Value>>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Names namespaces, or the labels that they have.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "want a list of namespaces, or a selector with matchLabels and matchExpressions"
)]
pub enum NamespacesConfig {
    /// By name.
    Names(Vec<String>),
    /// By labels.
    Labels(SelectorConfig),
}

/// Selects by labels, as in Kubernetes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorConfig {
    /// Labels and their values.
    pub match_labels: BTreeMap<String, String>,
    /// What else has to be true of labels.
    pub match_expressions: Vec<RequirementConfig>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

/// Says what has to be true of one label.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct RequirementConfig {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// The values that are meant.
    pub values: Vec<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) rest: UnknownKeys,
}

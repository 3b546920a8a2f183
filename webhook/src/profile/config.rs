//! The configuration file as written; `unknown_key` finds a key that no field here has. Pure.

use std::collections::BTreeMap;
use std::fmt;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::PolicyError;
use crate::annotations::{KNOWN, Support};

/// Configuration file of Sidescale.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Config {
    /// Name of this cluster, if several clusters share one Headscale.
    pub cluster_name: Option<String>,
    /// Owner tag of the Headscale users that this release creates; default the uid of kube-system and the release's name.
    pub installation: Option<String>,
    /// Earlier owner tags whose users remain Sidescale's own, such as `<uid of kube-system> <release>`.
    pub former_installations: Vec<String>,
    /// Hostnames reserved for one service each: hostname to `<namespace>/<service>`.
    pub reserved_hostnames: BTreeMap<String, String>,
    /// Control planes by name.
    pub control_planes: BTreeMap<String, ControlPlaneConfig>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, ProfileConfig>,
    /// Settings of key rotation.
    pub rotation: RotationConfig,
    /// Settings of the webhook.
    pub webhook: WebhookConfig,
    /// Error of the first key without a field.
    #[serde(skip)]
    pub(super) unknown_key: Option<PolicyError>,
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

/// Settings of one Headscale.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlPlaneConfig {
    /// URL that sidecars log in to; required.
    pub login_server: Option<String>,
    /// URL for Sidescale's own calls; default the login server.
    pub api_url: Option<String>,
    /// Secret with the API key, and its data key; default `api-key` of `headscale/headscale-api-key`.
    pub api_key_secret: SecretConfig,
    /// Whether `apiUrl` may be plain `http://`.
    pub allow_insecure: bool,
    /// PEM of a private certificate authority.
    pub ca_bundle: Option<String>,
    /// User name template; default `{namespace}.{service}`.
    pub user_template: Option<String>,
    /// Users that Sidescale did not create and may use anyway.
    pub adopt_users: Vec<String>,
    /// Namespaces whose pods may select it; if absent, all for the default one, none for others.
    pub namespaces: Option<NamespacesConfig>,
}

/// Reference to a Secret.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretConfig {
    /// Namespace of the Secret.
    pub namespace: Option<String>,
    /// Name of the Secret.
    pub name: Option<String>,
    /// Data key in the Secret; default `api-key`.
    pub key: Option<String>,
}

/// Defaults and limits of a profile.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileConfig {
    /// Tailscale image of the sidecar.
    pub image: Option<String>,
    /// Tags that an annotation may name.
    pub allowed_tags: Vec<String>,
    /// Images that an annotation may name; one that ends with `*`, after `/`, `:` or `@`, is a prefix.
    pub allowed_images: Vec<String>,
    /// Arguments of `tailscale up` that an annotation may name, such as `--shields-up`.
    pub allowed_extra_args: Vec<String>,
    /// Longest lifetime of a pre-auth key that an annotation may ask for; default `8760h`.
    pub max_auth_key_expiration: Option<String>,
    /// Name of the Secret with the pre-auth keys of a namespace.
    pub auth_key_secret_name: Option<String>,
    /// Image pull Secrets in the pod's namespace, added to the pod's own.
    pub image_pull_secrets: Vec<String>,
    /// Namespaces whose pods may select it; if absent, all for the default one, none for others.
    pub namespaces: Option<NamespacesConfig>,
    /// Pods of opted-in namespaces that get this profile without an annotation.
    pub pod_selector: Option<SelectorConfig>,
    /// Effect of an invalid annotation: `deny` or `warn`.
    #[schemars(extend("enum" = ["deny", "warn"]))]
    pub on_invalid: Option<String>,
    /// Override of the Tailscale container.
    pub container_override: ContainerOverride,
    /// Default values of annotations, by their name without the prefix.
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// Settings of key rotation.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct RotationConfig {
    /// How long an old pre-auth key stays valid after its successor is in the Secret, such as `1h`.
    pub overlap: Option<String>,
    /// Whether to stop creating and expiring keys.
    pub paused: bool,
    /// Maximum number of services per namespace.
    pub max_services_per_namespace: Option<usize>,
    /// Shortest lifetime of a pre-auth key that pods share; default `1h`.
    pub min_auth_key_expiration: Option<String>,
    /// Shortest lifetime of a pre-auth key of a single pod; default `5m`.
    pub min_pod_auth_key_expiration: Option<String>,
    /// Shortest time between a pre-auth key's creation and its renewal, or a third of its lifetime if that is less; default `1h`.
    pub min_auth_key_renewal_gap: Option<String>,
    /// Maximum number of keys that one service gets at once; default 12.
    pub keys_per_service: Option<u32>,
    /// Number of further keys that one service gets per hour; default 6.
    pub keys_per_service_per_hour: Option<u32>,
    /// Maximum number of shared keys that one namespace gets at once; default three times `maxServicesPerNamespace`.
    pub new_keys_per_namespace: Option<u32>,
    /// Number of further shared keys that one namespace gets per hour; default `maxServicesPerNamespace`.
    pub new_keys_per_namespace_per_hour: Option<u32>,
    /// Maximum number of keys of single pods that one namespace gets at once; default 2000.
    pub pod_keys_per_namespace: Option<u32>,
    /// Number of further keys of single pods that one namespace gets per hour; default 1000.
    pub pod_keys_per_namespace_per_hour: Option<u32>,
    /// Number of rows of keys at one control plane above which namespaces with most of them get no new keys; default 20000.
    pub max_control_plane_rows: Option<u32>,
    /// How long a key stays that no pod needs, such as `7d`.
    pub unused_keys_after: Option<String>,
    /// Minimum age at which a live key that no Secret records is expired, such as `10m`.
    pub orphaned_keys_after: Option<String>,
    /// How long after its last key expired a user without nodes is deleted, such as `30d`.
    pub unused_users_after: Option<String>,
    /// Action on a pod that lost its node: `report` or `evict`.
    #[schemars(extend("enum" = ["report", "evict"]))]
    pub on_lost: Option<String>,
    /// Whether Sidescale wakes pods that wait for a key, by an annotation of theirs; default `true`.
    pub wake_pods: Option<bool>,
    /// Whether Sidescale creates and deletes Headscale users: `manage` or `never`.
    #[schemars(extend("enum" = ["manage", "never"]))]
    pub users: Option<String>,
}

/// Settings of the webhook.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookConfig {
    /// Sidescale's image for `apikey-manager`.
    pub image: Option<String>,
    /// Whether to inject pods; `false` stops all injection.
    pub inject: Option<bool>,
}

/// Override of the Tailscale container, in Kubernetes' own form.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerOverride {
    /// Additional environment variables.
    pub env: Vec<Value>,
    /// Additional mounts of volumes that the pod has.
    pub volume_mounts: Vec<Value>,
    /// Liveness probe.
    pub liveness_probe: Option<Value>,
    /// Readiness probe.
    pub readiness_probe: Option<Value>,
    /// Fields that replace Sidescale's.
    pub security_context: Option<Map<String, Value>>,
}

/// Namespaces by name or by label.
#[derive(Clone, Debug, JsonSchema)]
#[serde(untagged)]
pub enum NamespacesConfig {
    /// Names of namespaces.
    Names(Vec<String>),
    /// Labels of namespaces.
    Labels(SelectorConfig),
}

/// By hand: what serde derives for an untagged enum hides the unknown keys of a selector.
impl<'de> Deserialize<'de> for NamespacesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesOrLabels)
    }
}

struct NamesOrLabels;

impl<'de> Visitor<'de> for NamesOrLabels {
    type Value = NamespacesConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of namespaces, or a selector with matchLabels and matchExpressions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<NamespacesConfig, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(names)).map(NamespacesConfig::Names)
    }

    fn visit_map<A: MapAccess<'de>>(self, labels: A) -> Result<NamespacesConfig, A::Error> {
        SelectorConfig::deserialize(MapAccessDeserializer::new(labels))
            .map(NamespacesConfig::Labels)
    }
}

/// Label selector, as in Kubernetes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorConfig {
    /// Required labels and their values.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions on labels.
    pub match_expressions: Vec<RequirementConfig>,
}

/// Condition on one label.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(rename_all = "camelCase", default)]
pub struct RequirementConfig {
    /// Key of the label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// Values for `In` and `NotIn`.
    pub values: Vec<String>,
}

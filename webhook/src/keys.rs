//! Names that Sidescale uses on pods and namespaces: annotations, labels, containers and volumes. Pure.

/// Prefix of every annotation and label of Sidescale.
pub const PREFIX: &str = "sidescale.io/";

/// Label with which a namespace opts in, and annotation with which a pod does.
pub const INJECT: &str = "sidescale.io/inject";
/// Annotation with the service of a pod.
pub const SERVICE: &str = "sidescale.io/service";
/// Annotation with the control plane that a pod joins.
pub const CONTROL_PLANE: &str = "sidescale.io/control-plane";
/// Annotation for whether pods share a key.
pub const KEY_MODE: &str = "sidescale.io/key-mode";
/// Annotation with the name of the Headscale container.
pub const HEADSCALE_CONTAINER: &str = "sidescale.io/headscale-container";
/// Annotation of a Secret that a user hands over to Sidescale.
pub const ADOPT: &str = "sidescale.io/adopt";
/// Annotation of a Secret that Sidescale leaves unchanged.
pub const PAUSED: &str = "sidescale.io/paused";

/// Container of the Tailscale sidecar.
pub const CONTAINER: &str = "tailscale";
/// Container that manages Headscale's API key.
pub(crate) const MANAGER: &str = "apikey-manager";
/// Volume with Headscale's own keys.
pub(crate) const SERVER_KEYS: &str = "sidescale-server-keys";
/// Label of an injected pod.
pub const SIDECAR_LABEL: &str = "sidescale.io/sidecar";
/// Annotation with the receipt.
pub const STATUS: &str = "sidescale.io/status";
/// Annotation with the time at which Sidescale wrote the key of a pod that was waiting for it, in Unix seconds. Any change of
/// a pod's annotations makes its kubelet look at the pod at once.
pub const KEY_WRITTEN: &str = "sidescale.io/key-written";
/// Annotation with the volumes that may be lost when the cluster's autoscaler moves the pod.
pub(crate) const SAFE_TO_EVICT: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// Prefix of the names of all volumes that Sidescale adds.
pub(crate) const VOLUME_PREFIX: &str = "sidescale-";

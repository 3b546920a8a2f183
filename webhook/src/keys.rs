//! Names that pods and namespaces bear because of us: annotations, labels, containers and volumes. Pure.

/// Is the prefix of every annotation and label of ours.
pub const PREFIX: &str = "sidescale.io/";

/// Is the label by which a namespace opts in, and the annotation by which a pod does.
pub const INJECT: &str = "sidescale.io/inject";
/// Is the annotation that names a pod's service.
pub const SERVICE: &str = "sidescale.io/service";
/// Is the annotation that names the control plane a pod joins.
pub const CONTROL_PLANE: &str = "sidescale.io/control-plane";
/// Is the annotation that says whether pods share a key.
pub const KEY_MODE: &str = "sidescale.io/key-mode";
/// Is the annotation that names Headscale's own container.
pub const HEADSCALE_CONTAINER: &str = "sidescale.io/headscale-container";
/// Is the annotation of a Secret that a person hands over to us.
pub const ADOPT: &str = "sidescale.io/adopt";
/// Is the annotation of a Secret that is left as it is.
pub const PAUSED: &str = "sidescale.io/paused";

/// Is the Tailscale sidecar.
pub const CONTAINER: &str = "tailscale";
/// Is the container that keeps Headscale's API key.
pub(crate) const MANAGER: &str = "apikey-manager";
/// Is the volume with Headscale's own keys.
pub(crate) const SERVER_KEYS: &str = "sidescale-server-keys";
/// Is the label of an injected pod.
pub const SIDECAR_LABEL: &str = "sidescale.io/sidecar";
/// Is the annotation that holds the receipt.
pub const STATUS: &str = "sidescale.io/status";
/// Names the volumes that may be lost when the cluster's autoscaler moves the pod.
pub(crate) const SAFE_TO_EVICT: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// Begins the name of every volume that we add.
pub(crate) const VOLUME_PREFIX: &str = "sidescale-";

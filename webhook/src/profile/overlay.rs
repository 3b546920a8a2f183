//! What an operator lays over the Tailscale container: checked once, written as it is. Pure.

use serde_json::{Map, Value, json};

/// Begins the names of our volumes.
const VOLUMES: &str = crate::pod::VOLUME_PREFIX;

/// Variables that are ours, or would undo what ours say.
const VARIABLES: [&str; 26] = [
    "NODE_NAME",
    "POD_NAME",
    // tailscaled takes it for its UDP port.
    "PORT",
    "SSL_CERT_DIR",
    "TS_ACCEPT_DNS",
    "TS_AUTHKEY",
    "TS_AUTH_KEY",
    "TS_AUTH_ONCE",
    "TS_BOOT_TIMEOUT",
    "TS_CLIENT_ID",
    "TS_CLIENT_SECRET",
    "TS_ENABLE_HEALTH_CHECK",
    "TS_EXTRA_ARGS",
    "TS_HOSTNAME",
    "TS_ID_TOKEN",
    "TS_KUBE_SECRET",
    "TS_LOCAL_ADDR_PORT",
    "TS_LOGS_DIR",
    "TS_NO_LOGS_NO_SUPPORT",
    "TS_OUTBOUND_HTTP_PROXY_LISTEN",
    "TS_ROUTES",
    "TS_SOCKET",
    "TS_SOCKS5_SERVER",
    "TS_STATE_DIR",
    "TS_TAILSCALED_EXTRA_ARGS",
    "TS_USERSPACE",
];

/// Directories that the sidecar has volumes of its own in.
const DIRECTORIES: [&str; 5] = [
    "/etc/sidescale",
    "/tmp",
    "/var/lib/tailscale",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/var/run/tailscale",
];

/// Holds what an operator lays over the Tailscale container; Kubernetes' own forms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// More variables, none of ours.
    pub env: Vec<Value>,
    /// More mounts, of volumes that the pod has.
    pub volume_mounts: Vec<Value>,
    /// A liveness probe.
    pub liveness_probe: Option<Value>,
    /// A readiness probe.
    pub readiness_probe: Option<Value>,
    /// The whole security context, with ours where it says nothing.
    pub security_context: Option<Value>,
}

/// The fields of a variable.
const VARIABLE: [&str; 3] = ["name", "value", "valueFrom"];

/// The fields of a mount.
const MOUNT: [&str; 7] = [
    "name",
    "mountPath",
    "subPath",
    "subPathExpr",
    "readOnly",
    "recursiveReadOnly",
    "mountPropagation",
];

/// The fields of a container's security context.
const CONTEXT: [&str; 12] = [
    "allowPrivilegeEscalation",
    "appArmorProfile",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seLinuxOptions",
    "seccompProfile",
    "windowsOptions",
];

/// Is what is wrong with an overlay: the key below it, its value, what is accepted.
pub(super) type Wrong = (&'static str, String, String);

impl Overlay {
    /// Checks it.
    pub(super) fn checked(
        env: Vec<Value>,
        volume_mounts: Vec<Value>,
        probes: [Option<Value>; 2],
        security_context: Option<Map<String, Value>>,
    ) -> Result<Self, Wrong> {
        for variable in &env {
            known("env", variable.as_object(), &VARIABLE)?;
            let name = variable["name"].as_str().unwrap_or_default();
            if name.is_empty() || VARIABLES.contains(&name) {
                let want = "want variables with a name that is none of Sidescale's own";
                return Err(("env", name.to_owned(), want.to_owned()));
            }
            let from = &variable["valueFrom"];
            if variable["value"].is_string() == from.is_object() {
                let want = "want a text as value, or valueFrom";
                return Err(("env", name.to_owned(), want.to_owned()));
            }
        }
        for mount in &volume_mounts {
            known("volumeMounts", mount.as_object(), &MOUNT)?;
            let [name, path] =
                ["name", "mountPath"].map(|key| mount[key].as_str().unwrap_or_default());
            let inside = |directory: &str| {
                let rest = path.strip_prefix(directory);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if name.is_empty() || name.starts_with(VOLUMES) {
                let want =
                    format!("want names of the pod's volumes, which do not begin with {VOLUMES}");
                return Err(("volumeMounts", name.to_owned(), want));
            }
            if !path.starts_with('/') || DIRECTORIES.into_iter().any(inside) {
                let want = "want an absolute mountPath outside the sidecar's own directories";
                return Err(("volumeMounts", path.to_owned(), want.to_owned()));
            }
        }
        let [liveness_probe, readiness_probe] = probes;
        for (key, probe) in [
            ("livenessProbe", &liveness_probe),
            ("readinessProbe", &readiness_probe),
        ] {
            if probe.as_ref().is_some_and(|probe| !probe.is_object()) {
                return Err((key, format!("{probe:?}"), "want a probe".to_owned()));
            }
        }
        Ok(Self {
            env,
            volume_mounts,
            liveness_probe,
            readiness_probe,
            security_context: security_context.map(restricted).transpose()?,
        })
    }
}

/// Refuses fields that Kubernetes does not have: the API server would drop them, and what was meant would not be done.
fn known(
    key: &'static str,
    given: Option<&Map<String, Value>>,
    fields: &[&str],
) -> Result<(), Wrong> {
    let mut given = given.into_iter().flat_map(Map::keys);
    let unknown = given.find(|field| !fields.contains(&field.as_str()));
    unknown.map_or(Ok(()), |field| {
        let want = format!("want fields that it has: {}", fields.join(", "));
        Err((key, field.clone(), want))
    })
}

/// Lays a security context over ours; fails if Pod Security's level *restricted* would not take the result.
fn restricted(given: Map<String, Value>) -> Result<Value, Wrong> {
    known("securityContext", Some(&given), &CONTEXT)?;
    let mut context = json!(crate::sidecar::tailscale::security_context());
    if let Some(context) = context.as_object_mut() {
        context.extend(given);
    }
    let wrong = |key: &str, want: &str| {
        let value = context[key].to_string();
        let want = format!("{key}: {want}, as Pod Security's level restricted does");
        Err(("securityContext", value, want))
    };
    if context["allowPrivilegeEscalation"] != false {
        return wrong("allowPrivilegeEscalation", "want false");
    }
    if context["privileged"] == true {
        return wrong("privileged", "want false");
    }
    if context["runAsNonRoot"] != true {
        return wrong("runAsNonRoot", "want true");
    }
    if context["runAsUser"].as_u64().is_none_or(|user| user == 0) {
        return wrong("runAsUser", "want a number above 0");
    }
    let capabilities = &context["capabilities"];
    let added = capabilities["add"].as_array().into_iter().flatten();
    if capabilities["drop"] != json!(["ALL"])
        || !added.into_iter().all(|one| one == "NET_BIND_SERVICE")
    {
        return wrong(
            "capabilities",
            "want drop: [ALL], and NET_BIND_SERVICE at most in add",
        );
    }
    let seccomp = &context["seccompProfile"]["type"];
    if seccomp != "RuntimeDefault" && seccomp != "Localhost" {
        return wrong("seccompProfile", "want RuntimeDefault or Localhost");
    }
    for key in [
        "procMount",
        "seLinuxOptions",
        "windowsOptions",
        "appArmorProfile",
    ] {
        if !context[key].is_null() {
            return wrong(key, "want none");
        }
    }
    Ok(context)
}

//! An operator's override of the Tailscale container: checked once, written as it is. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::error::PolicyError;
use super::fields::{CONTEXT, FieldForm, MOUNT, PROBE, VARIABLE};

/// Prefix of the names of our volumes.
const VOLUMES: &str = crate::keys::VOLUME_PREFIX;

/// Variables that Sidescale sets, or that would undo those.
const VARIABLES: [&str; 29] = [
    "NODE_NAME",
    "POD_NAME",
    // tailscaled uses it as its UDP port.
    "PORT",
    "SSL_CERT_DIR",
    "TS_ACCEPT_DNS",
    "TS_AUTHKEY",
    "TS_AUTH_KEY",
    "TS_AUTH_ONCE",
    "TS_BOOT_TIMEOUT",
    "TS_CLIENT_ID",
    "TS_CLIENT_SECRET",
    "TS_DEBUG_ADDR_PORT",
    "TS_DEBUG_NETSTACK_LOOPBACK_PORT",
    "TS_ENABLE_HEALTH_CHECK",
    "TS_EXTRA_ARGS",
    "TS_HEALTHCHECK_ADDR_PORT",
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

/// Directories in which the sidecar has its own volumes.
const DIRECTORIES: [&str; 5] = [
    "/etc/sidescale",
    "/tmp",
    "/var/lib/tailscale",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/var/run/tailscale",
];

/// An operator's override of the Tailscale container, in Kubernetes' own forms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// More variables, none that Sidescale sets.
    pub env: Vec<Value>,
    /// More mounts, of volumes that the pod has.
    pub volume_mounts: Vec<Value>,
    /// A liveness probe.
    pub liveness_probe: Option<Value>,
    /// A readiness probe.
    pub readiness_probe: Option<Value>,
    /// The whole security context, with our values where the override sets none.
    pub security_context: Option<Value>,
}

impl Overlay {
    /// Returns volume and path of each mount.
    pub(crate) fn mounts<'a>(&'a self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mounts = self.volume_mounts.iter();
        mounts.map(|mount| {
            let [name, path] = ["name", "mountPath"].map(|key| &mount[key]);
            let text = |value: &'a Value| value.as_str().unwrap_or_default();
            (text(name), text(path))
        })
    }

    /// Checks the override; `base` is the path of its keys.
    pub(super) fn checked(
        base: &str,
        env: Vec<Value>,
        volume_mounts: Vec<Value>,
        probes: [Option<Value>; 2],
        security_context: Option<Map<String, Value>>,
    ) -> Result<Self, PolicyError> {
        let probe = |key: &str, given: Option<Value>| {
            let checked = given.map(|given| probe(&format!("{base}{key}"), given));
            checked
                .transpose()?
                .map(|given| kubernetes_takes(base, key, given))
                .transpose()
        };
        let [liveness, readiness] = probes;
        let security_context = security_context
            .map(|given| restricted(format!("{base}securityContext"), given))
            .transpose()?;
        let mounts = format!("{base}volumeMounts");
        let volume_mounts = each(&MOUNT, &mounts, volume_mounts, mount)?;
        once_each(mounts, &volume_mounts)?;
        Ok(Self {
            env: each(&VARIABLE, &format!("{base}env"), env, variable)?,
            volume_mounts,
            liveness_probe: probe("livenessProbe", liveness)?,
            readiness_probe: probe("readinessProbe", readiness)?,
            security_context,
        })
    }
}

/// Checks the form of a value.
fn checked(form: &FieldForm, path: String, mut given: Value) -> Result<Value, PolicyError> {
    form.check(&path, &mut given)?;
    Ok(given)
}

/// Checks the form of each item of a list, and its further rules.
fn each(
    form: &FieldForm,
    path: &str,
    list: Vec<Value>,
    wanted: impl Fn(&Value) -> Result<(), Wrong>,
) -> Result<Vec<Value>, PolicyError> {
    let items = list.into_iter().enumerate().map(|(n, item)| {
        let item = checked(form, format!("{path}[{n}]"), item)?;
        wanted(&item).map_err(|(value, want)| PolicyError::Value {
            path: path.to_owned(),
            value,
            want,
        })?;
        Ok(item)
    });
    items.collect()
}

/// An invalid item: its value, what is accepted.
type Wrong = (String, String);

fn variable(given: &Value) -> Result<(), Wrong> {
    let name = given["name"].as_str().unwrap_or_default();
    if name.is_empty() || VARIABLES.contains(&name) {
        let want = "want variables whose names Sidescale does not use itself";
        return Err((name.to_owned(), want.to_owned()));
    }
    if given["value"].is_string() == given["valueFrom"].is_object() {
        let want = "want a string as value, or valueFrom";
        return Err((name.to_owned(), want.to_owned()));
    }
    Ok(())
}

fn mount(given: &Value) -> Result<(), Wrong> {
    let [name, path] = ["name", "mountPath"].map(|key| given[key].as_str().unwrap_or_default());
    let inside = |directory: &str| {
        let rest = path.strip_prefix(directory);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if name.is_empty() || name.starts_with(VOLUMES) {
        let want = format!("want names of the pod's volumes that do not begin with {VOLUMES}");
        return Err((name.to_owned(), want));
    }
    if !path.starts_with('/') || DIRECTORIES.into_iter().any(inside) {
        let want = "want an absolute mountPath outside the sidecar's own directories";
        return Err((path.to_owned(), want.to_owned()));
    }
    if given["subPath"].is_string() && given["subPathExpr"].is_string() {
        let want = "want subPath or subPathExpr, not both";
        return Err((path.to_owned(), want.to_owned()));
    }
    Ok(())
}

/// Checks that no two mounts have the same path, as Kubernetes does.
fn once_each(path: String, mounts: &[Value]) -> Result<(), PolicyError> {
    let mut paths = BTreeSet::new();
    let again = mounts
        .iter()
        .filter_map(|mount| mount["mountPath"].as_str())
        .find(|path| !paths.insert(*path));
    match again {
        None => Ok(()),
        Some(again) => Err(PolicyError::Value {
            path,
            value: again.to_owned(),
            want: "want each mountPath once".to_owned(),
        }),
    }
}

/// Checks a probe of the pod itself: since Kubernetes 1.34 the level *restricted* lets the kubelet probe no other host.
fn probe(path: &str, given: Value) -> Result<Value, PolicyError> {
    let given = checked(&PROBE, path.to_owned(), given)?;
    for handler in ["httpGet", "tcpSocket"] {
        let host = given[handler]["host"].as_str().unwrap_or_default();
        if !host.is_empty() {
            return Err(PolicyError::Value {
                path: format!("{path}.{handler}.host"),
                value: host.to_owned(),
                want: "want none, as Pod Security's level restricted does".to_owned(),
            });
        }
    }
    Ok(given)
}

/// Refuses what the API server refuses in one of the two probes.
fn kubernetes_takes(base: &str, probe: &str, given: Value) -> Result<Value, PolicyError> {
    let (grace, successes) = (
        &given["terminationGracePeriodSeconds"],
        &given["successThreshold"],
    );
    let wrong = |key: &str, value: &Value, want: &str| {
        Err(PolicyError::Value {
            path: format!("{base}{probe}.{key}"),
            value: value.to_string(),
            want: format!("want {want}, as Kubernetes does"),
        })
    };
    let grace_is = |want| wrong("terminationGracePeriodSeconds", grace, want);
    match probe {
        "livenessProbe" if *grace == 0 => grace_is("a number above 0"),
        "livenessProbe" if !successes.is_null() && *successes != 1 => {
            wrong("successThreshold", successes, "1")
        }
        "readinessProbe" if !grace.is_null() => grace_is("none"),
        _ => Ok(given),
    }
}

/// Applies a security context over ours; fails if Pod Security's level *restricted* does not accept the result.
fn restricted(path: String, given: Map<String, Value>) -> Result<Value, PolicyError> {
    let mut context = json!(crate::sidecar::restricted::security_context());
    if let Some(context) = context.as_object_mut() {
        // A null removes our value.
        context.extend(given);
    }
    CONTEXT.check(&path, &mut context)?;
    let wrong = |key: &str, want: &str| {
        Err(PolicyError::Value {
            path: path.clone(),
            value: context[key].to_string(),
            want: format!("{key}: {want}, as Pod Security's level restricted does"),
        })
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
            "want drop: [ALL], and at most NET_BIND_SERVICE in add",
        );
    }
    let seccomp = &context["seccompProfile"];
    let names_a_file = seccomp["localhostProfile"].is_string();
    match seccomp["type"].as_str() {
        Some("RuntimeDefault") if !names_a_file => {}
        Some("Localhost") if names_a_file => {}
        _ => {
            let want = "want type RuntimeDefault, or Localhost with a localhostProfile";
            return wrong("seccompProfile", want);
        }
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

//! The Secret that a container is missing for its start, from the pod's status. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

/// The kubelet could not create a container's environment.
const CONFIG_ERROR: &str = "CreateContainerConfigError";

/// Not a key: the certificate authority of the control plane, which is mounted from the key's Secret.
const CA: &str = "ca.crt";

/// What a container is missing for its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The Secret does not exist.
    Secret {
        /// Its name.
        secret: String,
    },
    /// The Secret exists without that data key.
    Key {
        /// The Secret's name.
        secret: String,
        key: String,
    },
    /// Volumes or network of the pod are not ready. These are among the volumes; only the kubelet's Events say more.
    Volume {
        secret: String,
        /// Its data keys that the container mounts.
        keys: Vec<String>,
    },
}

impl Lack {
    /// Returns the name of the Secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        match self {
            Self::Secret { secret } | Self::Key { secret, .. } | Self::Volume { secret, .. } => {
                secret
            }
        }
    }
}

/// Returns the status of a pod's container of that name, sidecars included.
#[must_use]
pub fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    all.find(|status| status.name == container)
}

/// Whether the container ran at least once.
#[must_use]
pub fn has_started(status: &ContainerStatus) -> bool {
    let now = status.state.as_ref();
    let waits = now.is_none_or(|state| state.running.is_none() && state.terminated.is_none());
    let before = status.last_state.as_ref();
    let ran = before.is_some_and(|state| state.terminated.is_some());
    !waits || ran || status.restart_count > 0
}

/// Returns what the container is missing; `None` if it has started, or waits for something other than a Secret.
#[must_use]
pub fn lack(pod: &Pod, container: &str) -> Option<Lack> {
    if let Some(status) = status(pod, container) {
        if has_started(status) {
            return None;
        }
        let waiting = status
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        if let Some(waiting) = waiting
            && waiting.reason.as_deref() == Some(CONFIG_ERROR)
        {
            return waiting.message.as_deref().and_then(said);
        }
    }
    if !waits_for_volumes(pod) {
        return None;
    }
    let (secret, keys) = mounted(pod.spec.as_ref()?, container)?;
    Some(Lack::Volume { secret, keys })
}

/// Parses the kubelet's message about an environment with a missing reference.
fn said(message: &str) -> Option<Lack> {
    if let Some(rest) = message.strip_prefix("couldn't find key ") {
        let (key, secret) = rest.split_once(" in Secret ")?;
        let (_, secret) = secret.split_once('/')?;
        return Some(Lack::Key {
            secret: secret.to_owned(),
            key: key.to_owned(),
        });
    }
    let rest = message.strip_prefix("secret \"")?;
    let secret = rest.strip_suffix("\" not found")?;
    Some(Lack::Secret {
        secret: secret.to_owned(),
    })
}

/// Whether the pod has a node, whose kubelet cannot prepare it yet.
fn waits_for_volumes(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let is = |type_: &str, value: &str| {
        let mut all = conditions.into_iter().flatten();
        all.any(|condition| condition.type_ == type_ && condition.status == value)
    };
    is("PodScheduled", "True") && is("PodReadyToStartContainers", "False")
}

/// Returns the Secret that the container mounts its key from, or the authority with it, and its data keys.
fn mounted(spec: &PodSpec, container: &str) -> Option<(String, Vec<String>)> {
    let mut all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let Container { volume_mounts, .. } = all.find(|other| other.name == container)?;
    let mounts = |volume: &str| {
        let mut mounts = volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == volume)
    };
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter(|volume| mounts(&volume.name));
    let secrets = volumes.filter_map(|volume| volume.secret.as_ref());
    let items = secrets.flat_map(|secret| {
        let items = secret.items.iter().flatten();
        items.filter_map(|item| Some((secret.secret_name.as_ref()?, &item.key)))
    });
    let items: Vec<_> = items.collect();
    let key = items.iter().find(|(_, key)| *key != CA);
    let (secret, _) = key.or(items.first())?;
    let of_it = items.iter().filter(|(of, _)| of == secret);
    let keys = of_it.map(|(_, key)| (*key).clone()).collect();
    Some(((*secret).clone(), keys))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: Value, ready: &str) -> Option<Lack> {
        mounting(&["auth-key"], status, ready)
    }

    fn mounting(volumes: &[&str], status: Value, ready: &str) -> Option<Lack> {
        let mounts: Vec<_> = volumes
            .iter()
            .map(|name| json!({"name": format!("sidescale-{name}"), "mountPath": name}))
            .collect();
        let pod = json!({
            "spec": {
                "containers": [{"name": "web"}],
                "initContainers": [{"name": "tailscale", "volumeMounts": mounts}],
                "volumes": [
                    {"name": "of-the-app", "secret": {"secretName": "x", "items": [{"key": "y", "path": "y"}]}},
                    {"name": "sidescale-auth-key", "secret": {"secretName": "keys", "items": [{"key": "web-authkey", "path": "authkey"}]}},
                    {"name": "sidescale-private-ca", "secret": {"secretName": "keys", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ],
            },
            "status": {
                "conditions": [
                    {"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": ready},
                ],
                "initContainerStatuses": [status],
            },
        });
        lack(&serde_json::from_value(pod).unwrap(), "tailscale")
    }

    fn waiting(reason: &str, message: Option<&str>) -> Value {
        json!({
            "name": "tailscale", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        })
    }

    /// The messages are those of a real kubelet, 1.35.
    #[test]
    fn says_what_is_missing_in_the_words_of_the_kubelet() {
        let table = [
            (
                "secret \"headscale-auth-keys\" not found",
                Some(Lack::Secret {
                    secret: "headscale-auth-keys".into(),
                }),
            ),
            (
                "couldn't find key web-authkey in Secret story-0-29-2-apps/headscale-auth-keys",
                Some(Lack::Key {
                    secret: "headscale-auth-keys".into(),
                    key: "web-authkey".into(),
                }),
            ),
            (
                "failed to sync secret cache: timed out waiting for the condition",
                None,
            ),
            ("configmap \"web\" not found", None),
            ("couldn't find key web in ConfigMap shop/web", None),
            (
                "container has runAsNonRoot and image will run as root (pod: \"web-0\", container: tailscale)",
                None,
            ),
        ];
        for (message, lack) in table {
            assert_eq!(
                of(waiting(CONFIG_ERROR, Some(message)), "True"),
                lack,
                "{message}"
            );
            assert_eq!(of(waiting("ImagePullBackOff", Some(message)), "True"), None);
        }
        assert_eq!(of(waiting(CONFIG_ERROR, None), "True"), None);
    }

    #[test]
    fn a_volume_is_named_while_the_pod_cannot_be_prepared() {
        let initializing = waiting("PodInitializing", None);
        // The key in the environment waits for the authority with it.
        let table: [(&[&str], &[&str]); 4] = [
            (&["auth-key"], &["web-authkey"]),
            (&["private-ca"], &["ca.crt"]),
            (&["auth-key", "private-ca"], &["web-authkey", "ca.crt"]),
            (&["state"], &[]),
        ];
        for (volumes, keys) in table {
            let lack = (!keys.is_empty()).then(|| Lack::Volume {
                secret: "keys".into(),
                keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            });
            assert_eq!(mounting(volumes, initializing.clone(), "False"), lack);
        }
        assert_eq!(of(initializing, "True"), None, "its volumes are there");
    }

    #[test]
    fn a_container_that_ran_lacks_nothing() {
        let message = Some("secret \"keys\" not found");
        let mut status = waiting(CONFIG_ERROR, message);
        status["restartCount"] = json!(1);
        assert_eq!(of(status, "False"), None);
        let mut status = waiting("CrashLoopBackOff", None);
        status["lastState"] = json!({"terminated": {"exitCode": 1}});
        assert_eq!(of(status, "False"), None);
        let mut status = waiting("", None);
        status["state"] = json!({"running": {}});
        assert_eq!(of(status, "False"), None);
    }

    #[test]
    fn nothing_is_said_of_what_is_not_there() {
        assert_eq!(lack(&Pod::default(), "tailscale"), None);
        let pod = json!({"spec": {"containers": []}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": "False"},
        ]}});
        assert_eq!(
            lack(&serde_json::from_value(pod).unwrap(), "tailscale"),
            None
        );
    }
}

//! One pod at a time: its state, its eviction, and the annotation that wakes its kubelet. I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Client, Error};
use serde_json::json;
use sidescale_core::secret::FIELD_MANAGER;
use sidescale_webhook::keys::KEY_WRITTEN;
use uuid::Uuid;

use crate::cluster;

pub mod start;

use start::Lack;

/// Time limit of one call.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is known about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodFound {
    /// It does not exist, is being deleted or is finished; or another pod has its name.
    Gone,
    /// It exists.
    There {
        /// Whether a controller would replace it.
        controlled: bool,
        /// State of the container, for people.
        container: String,
        /// Whether the container ran at least once.
        started: bool,
        /// The Secret, or the data key, that is missing for its start.
        lack: Option<Lack>,
    },
    /// The API server did not answer, or there is none.
    Unknown(String),
}

/// Outcome of an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is terminating, or gone.
    Yes,
    /// A disruption budget does not allow it now.
    NotNow,
    /// It was refused, or not answered.
    No(String),
}

/// Outcome of waking a pod's kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The pod was patched.
    Yes,
    /// The pod does not exist any more.
    Gone,
    /// The policy that limits what may be patched is not known to hold, so nothing was sent.
    Unfenced,
    /// It was refused, or not answered.
    No(String),
}

/// Reads, wakes and evicts pods of a cluster, if there is one.
#[derive(Clone)]
pub struct Pods {
    client: Option<Client>,
    /// Whether the policy on patches of pods is known to hold.
    fenced: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pods")
    }
}

impl Pods {
    /// Uses the client's cluster and account; wakes no pods.
    #[must_use]
    pub fn kubernetes(client: Client) -> Self {
        Self {
            client: Some(client),
            fenced: Arc::new(|| false),
        }
    }

    /// Wakes pods while this returns that the policy on patches of pods is known to hold.
    #[must_use]
    pub fn waking(self, fenced: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            fenced: Arc::new(fenced),
            ..self
        }
    }

    /// Returns a reader that knows no pod.
    #[must_use]
    pub fn none() -> Self {
        Self {
            client: None,
            fenced: Arc::new(|| false),
        }
    }

    /// Reads a pod, and the state of its container of that name.
    pub async fn read(&self, namespace: &str, name: &str, uid: u128, container: &str) -> PodFound {
        let Some(client) = &self.client else {
            return PodFound::Unknown("no cluster".to_owned());
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        match cluster::within(DEADLINE, pods.get_opt(name)).await {
            Err(error) => PodFound::Unknown(error.to_string()),
            Ok(None) => PodFound::Gone,
            Ok(Some(pod)) => found(&pod, uid, container),
        }
    }

    /// Evicts a pod, and no other with its name.
    pub async fn evict(&self, namespace: &str, name: &str, uid: u128) -> Evicted {
        let Some(client) = &self.client else {
            return Evicted::No("no cluster".to_owned());
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let eviction = eviction(namespace, name, uid);
        let call = post_eviction(&pods, &eviction, false);
        match cluster::within(DEADLINE, call).await {
            Ok(()) => Evicted::Yes,
            // 409: another pod has the name by now.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Evicted::Yes,
            Err(Error::Api(status)) if status.code == 429 => Evicted::NotNow,
            Err(error) => Evicted::No(error.to_string()),
        }
    }

    /// Makes the kubelet look at a pod at once, and at no other with its name: a Secret that was written wakes nobody.
    ///
    /// The API server's policy lets this annotation change and nothing else; unless that is known to hold, nothing is sent.
    pub async fn wake(&self, namespace: &str, name: &str, uid: u128, now: Timestamp) -> Woken {
        let (Some(client), true) = (&self.client, (self.fenced)()) else {
            return Woken::Unfenced;
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"metadata": {
            "uid": Uuid::from_u128(uid).to_string(),
            "annotations": {KEY_WRITTEN: now.as_second().to_string()},
        }}));
        let call = pods.patch_metadata(name, &params, &patch);
        match cluster::within(DEADLINE, call).await {
            Ok(_) => Woken::Yes,
            // 422: another pod has the name by now, and a uid cannot be changed.
            Err(Error::Api(status)) if matches!(status.code, 404 | 422) => Woken::Gone,
            Err(error) => Woken::No(cluster::chain(&error)),
        }
    }
}

/// Sends an eviction; with `dry_run` the API server changes nothing.
///
/// # Errors
/// It is refused, or not answered.
pub(crate) async fn post_eviction(
    pods: &Api<Pod>,
    eviction: &Eviction,
    dry_run: bool,
) -> Result<(), Error> {
    let params = PostParams {
        dry_run,
        ..PostParams::default()
    };
    let name = eviction.metadata.name.as_deref().unwrap_or_default();
    let posted = pods.create_subresource::<_, Status>("eviction", name, &params, eviction);
    posted.await.map(drop)
}

/// Returns the eviction of exactly one pod. kube's own writes `delete_options`, a field that API servers ignore.
fn eviction(namespace: &str, name: &str, uid: u128) -> Eviction {
    Eviction {
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(Uuid::from_u128(uid).to_string()),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        }),
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
    }
}

fn found(pod: &Pod, uid: u128, container: &str) -> PodFound {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let same = metadata
        .uid
        .as_deref()
        .and_then(|uid| Uuid::parse_str(uid).ok())
        == Some(Uuid::from_u128(uid));
    let phase = status.and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if !same || metadata.deletion_timestamp.is_some() || over {
        return PodFound::Gone;
    }
    let owners = metadata.owner_references.iter().flatten();
    let controlled = owners
        .into_iter()
        .any(|owner| owner.controller == Some(true));
    let status = start::status(pod, container);
    let started = status.is_some_and(start::has_started);
    let lack = start::lack(pod, container);
    let container = match status {
        Some(status) => shown(status),
        None if phase == Some("Pending") => "not scheduled".to_owned(),
        None => "unknown".to_owned(),
    };
    PodFound::There {
        controlled,
        container,
        started,
        lack,
    }
}

fn shown(status: &ContainerStatus) -> String {
    let state = status.state.as_ref();
    let text = match state {
        Some(ContainerState {
            running: Some(_), ..
        }) => "running".to_owned(),
        Some(ContainerState {
            waiting: Some(waiting),
            ..
        }) => format!("waiting: {}", waiting.reason.as_deref().unwrap_or("?")),
        Some(ContainerState {
            terminated: Some(ended),
            ..
        }) => format!("exited with code {}", ended.exit_code),
        Some(_) | None => "unknown".to_owned(),
    };
    match status.restart_count {
        0 => text,
        1 => format!("{text}, restarted once"),
        n => format!("{text}, restarted {n} times"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11";

    #[test]
    fn an_eviction_names_the_pod_by_its_uid() {
        let uid = Uuid::parse_str(UID).unwrap().as_u128();
        let body = serde_json::to_value(eviction("shop", "api-0", uid)).unwrap();
        assert_eq!(body["deleteOptions"]["preconditions"]["uid"], UID);
        assert_eq!(body["kind"], "Eviction");
    }

    fn seen(change: impl FnOnce(&mut serde_json::Value)) -> PodFound {
        let mut pod = json!({
            "metadata": {"name": "api", "uid": UID, "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api", "uid": "x", "controller": true,
            }]},
            "status": {"phase": "Running", "initContainerStatuses": [{
                "name": "tailscale", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}},
            }]},
        });
        change(&mut pod);
        let pod = serde_json::from_value(pod).unwrap();
        found(&pod, Uuid::parse_str(UID).unwrap().as_u128(), "tailscale")
    }

    #[test]
    fn tells_how_the_container_does_and_who_would_replace_the_pod() {
        let there = |controlled, container: &str| PodFound::There {
            controlled,
            container: container.to_owned(),
            started: !container.starts_with("not")
                && container != "waiting: CreateContainerConfigError",
            lack: None,
        };
        assert_eq!(seen(|_| {}), there(true, "running"));
        assert_eq!(
            seen(|pod| pod["metadata"]["ownerReferences"][0]["controller"] = json!(false)),
            there(false, "running")
        );
        let waiting = json!({"waiting": {"reason": "CreateContainerConfigError"}});
        assert_eq!(
            seen(|pod| pod["status"]["initContainerStatuses"][0]["state"] = waiting),
            there(true, "waiting: CreateContainerConfigError")
        );
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff"}});
        assert_eq!(
            seen(|pod| {
                pod["status"]["initContainerStatuses"][0]["state"] = waiting;
                pod["status"]["initContainerStatuses"][0]["restartCount"] = json!(3);
            }),
            there(true, "waiting: ImagePullBackOff, restarted 3 times")
        );
        assert_eq!(
            seen(|pod| {
                let status = pod["status"]["initContainerStatuses"].take();
                pod["status"]["containerStatuses"] = status;
                pod["status"]["containerStatuses"][0]["state"] =
                    json!({"terminated": {"exitCode": 1}});
            }),
            there(true, "exited with code 1")
        );
        assert_eq!(
            seen(|pod| pod["status"] = json!({"phase": "Pending"})),
            there(true, "not scheduled")
        );
    }

    #[test]
    fn a_pod_that_leaves_is_over_or_is_another_one_is_gone() {
        assert_eq!(
            seen(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            PodFound::Gone
        );
        assert_eq!(
            seen(|pod| pod["status"]["phase"] = json!("Succeeded")),
            PodFound::Gone
        );
        let other = json!("00000000-7a38-4a8e-9a53-2d9d0a8f3c11");
        assert_eq!(seen(|pod| pod["metadata"]["uid"] = other), PodFound::Gone);
    }
}

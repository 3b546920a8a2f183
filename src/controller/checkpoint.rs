//! Stores what a process leaves to the next: the state of nodes in an annotation of our Lease, and the owners of hostnames in a
//! ConfigMap, from which every replica's webhook warns. Every replica may write both. I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use sidescale_core::secret::FIELD_MANAGER;
use sidescale_rotation::nodes::NodeCheckpoints;
use tracing::debug;

use crate::cluster;

/// Annotation of the Lease.
const ANNOTATION: &str = "sidescale.io/nodes";

/// Largest annotation: all annotations of an object may have 256 KiB together.
const LONGEST: usize = 200 * 1024;

const DEADLINE: Duration = Duration::from_secs(5);

/// Owners of hostnames, as text, by control plane.
type HostnamesText = BTreeMap<String, String>;

/// Contents of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointContents {
    pub nodes: NodeCheckpoints,
    pub hostnames: HostnamesText,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckpointWrite {
    /// It was written.
    Yes,
    /// The API server is unavailable, which is reported elsewhere.
    Away,
    /// It was refused, for this reason.
    No(String),
}

/// Storage of the checkpoint; clones share it.
#[derive(Clone)]
pub enum Checkpoint {
    /// In memory, as long as the process runs.
    Memory(Arc<Mutex<CheckpointContents>>),
    /// In an existing Lease and an existing ConfigMap.
    Cluster {
        client: Client,
        /// Namespace of both.
        namespace: String,
        /// Name of the Lease.
        lease: String,
        /// Name of the ConfigMap.
        hostnames: String,
    },
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoint")
    }
}

impl Checkpoint {
    /// Reads the checkpoint; none if it is unavailable now, and empty where reading is not permitted.
    pub(super) async fn read(&self) -> Option<CheckpointContents> {
        let (client, namespace, lease, hostnames) = match self {
            Self::Memory(noted) => {
                return Some(noted.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
            Self::Cluster {
                client,
                namespace,
                lease,
                hostnames,
            } => (client, namespace, lease, hostnames),
        };
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let of_nodes = there(api.get_metadata_opt(lease), namespace, lease).await?;
        let of_nodes = of_nodes.and_then(|lease| lease.metadata.annotations?.remove(ANNOTATION));
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let of_hostnames = there(api.get_opt(hostnames), namespace, hostnames).await?;
        Some(CheckpointContents {
            // Unreadable contents count as none, and are overwritten.
            nodes: of_nodes
                .and_then(|noted| serde_json::from_str(&noted).ok())
                .unwrap_or_default(),
            hostnames: of_hostnames.and_then(|map| map.data).unwrap_or_default(),
        })
    }

    /// Writes the state of nodes; returns whether that succeeded.
    pub(super) async fn write_nodes(&self, notes: &NodeCheckpoints) -> bool {
        let (client, namespace, name) = match self {
            Self::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.nodes.clone_from(notes);
                return true;
            }
            Self::Cluster {
                client,
                namespace,
                lease,
                ..
            } => (client, namespace, lease),
        };
        let Ok(text) = serde_json::to_string(notes) else {
            return false;
        };
        if text.len() > LONGEST {
            debug!(
                namespace,
                lease = name,
                bytes = text.len(),
                "Checkpoint too large, not written"
            );
            return false;
        }
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: text}}}));
        let params = params();
        let patched = api.patch_metadata(name, &params, &patch);
        written(patched, namespace, name).await == CheckpointWrite::Yes
    }

    /// Writes the owners of hostnames that differ from those written before.
    pub(super) async fn write_hostnames(
        &self,
        before: &HostnamesText,
        now: &HostnamesText,
    ) -> CheckpointWrite {
        let (client, namespace, name) = match self {
            Self::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.hostnames.clone_from(now);
                return CheckpointWrite::Yes;
            }
            Self::Cluster {
                client,
                namespace,
                hostnames,
                ..
            } => (client, namespace, hostnames),
        };
        let changed = now
            .iter()
            .filter(|(plane, text)| before.get(*plane) != Some(*text));
        let changed = changed.map(|(plane, text)| (plane, Some(text)));
        let gone = before.keys().filter(|plane| !now.contains_key(*plane));
        let data: BTreeMap<_, Option<&String>> =
            changed.chain(gone.map(|plane| (plane, None))).collect();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({ "data": data }));
        let params = params();
        let patched = api.patch(name, &params, &patch);
        written(patched, namespace, name).await
    }
}

/// Reads an object; nothing where reading is not permitted, and none if it is unavailable now.
async fn there<T>(
    read: impl Future<Output = Result<Option<T>, Error>>,
    namespace: &str,
    name: &str,
) -> Option<Option<T>> {
    match cluster::within(DEADLINE, read).await {
        Ok(object) => Some(object),
        Err(Error::Api(status)) if status.code == 403 => Some(None),
        Err(error) => {
            let error = cluster::chain(&error);
            debug!(namespace, name, error, "Failed to read checkpoint");
            None
        }
    }
}

async fn written<T>(
    written: impl Future<Output = Result<T, Error>>,
    namespace: &str,
    name: &str,
) -> CheckpointWrite {
    match cluster::within(DEADLINE, written).await {
        Ok(_) => CheckpointWrite::Yes,
        Err(error) => {
            let is_away = cluster::is_away(&error);
            let error = cluster::chain(&error);
            debug!(namespace, name, error, "Failed to write checkpoint");
            if is_away {
                CheckpointWrite::Away
            } else {
                CheckpointWrite::No(error)
            }
        }
    }
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

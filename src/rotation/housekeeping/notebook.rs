//! Keeps the notes about nodes while no process runs: in an annotation of our Lease, which every replica may write. I/O.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use tracing::debug;

use crate::cluster;
use crate::rotation::nodes::Notes;
use crate::store::FIELD_MANAGER;

/// The annotation of the Lease.
const ANNOTATION: &str = "sidescale.io/nodes";

/// All annotations of an object may have 256 KiB together.
const LONGEST: usize = 200 * 1024;

const DEADLINE: Duration = Duration::from_secs(5);

/// Where notes are kept; clones are one notebook.
#[derive(Clone)]
pub enum Notebook {
    /// In memory, for as long as the program runs.
    Memory(Arc<Mutex<Notes>>),
    /// At a Lease that is there.
    Lease {
        /// The cluster.
        client: Client,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Default for Notebook {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

impl std::fmt::Debug for Notebook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notebook")
    }
}

impl Notebook {
    /// What was noted last; none if that cannot be asked now, and nothing where nobody may ask.
    pub(super) async fn read(&self) -> Option<Notes> {
        let (client, namespace, name) = match self {
            Self::Memory(notes) => {
                return Some(notes.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
            Self::Lease {
                client,
                namespace,
                name,
            } => (client, namespace, name),
        };
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let read = tokio::time::timeout(DEADLINE, api.get_metadata_opt(name)).await;
        let annotations = match read {
            Ok(Ok(lease)) => lease.and_then(|lease| lease.metadata.annotations),
            Ok(Err(Error::Api(status))) if status.code == 403 => None,
            Ok(Err(error)) => {
                let error = cluster::chain(&error);
                debug!(namespace, lease = name, error, "Notes cannot be read");
                return None;
            }
            Err(_) => return None,
        };
        let noted = annotations.and_then(|mut annotations| annotations.remove(ANNOTATION));
        // Notes that cannot be read say nothing, and are written anew.
        let noted = noted.and_then(|noted| serde_json::from_str(&noted).ok());
        Some(noted.unwrap_or_default())
    }

    /// Notes it; says whether that was done.
    pub(super) async fn write(&self, notes: &Notes) -> bool {
        let (client, namespace, name) = match self {
            Self::Memory(kept) => {
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(notes);
                return true;
            }
            Self::Lease {
                client,
                namespace,
                name,
            } => (client, namespace, name),
        };
        let Ok(text) = serde_json::to_string(notes) else {
            return false;
        };
        if text.len() > LONGEST {
            debug!(
                namespace,
                lease = name,
                bytes = text.len(),
                "Too much to note"
            );
            return false;
        }
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: text}}}));
        let written = api.patch_metadata(name, &params, &patch);
        match tokio::time::timeout(DEADLINE, written).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                let error = cluster::chain(&error);
                debug!(namespace, lease = name, error, "Notes were not written");
                false
            }
            Err(_) => false,
        }
    }
}

//! The Secrets of keys in the cluster, and the pods that need them. Read once, for a command. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta};
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::demand::{KeyDemand, NamespaceDemand};
use sidescale_rotation::quota::Quota;
use sidescale_rotation::record::Record;
use sidescale_rotation::workload::Workload;
use sidescale_webhook::keys::{SIDECAR_LABEL, STATUS};
use sidescale_webhook::sidecar::Receipt;

use super::release::{Release, refused};
use crate::watch::{Namespaces, pods};

const PAGE: u32 = 500;

/// The Secrets and pods of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    /// The needs of the pods, by namespace.
    pub(crate) demands: BTreeMap<Arc<str>, Arc<NamespaceDemand>>,
    pub(crate) secrets: BTreeMap<SecretRef, StoredSecret>,
    /// The workloads with pods that use a key, such as `deployment/web`.
    pub(crate) owners: BTreeMap<(SecretRef, String), BTreeSet<String>>,
    /// Rotation's warnings, by Secret; the newest first.
    pub(crate) notes: BTreeMap<SecretRef, Vec<RotationWarning>>,
}

/// A warning from rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RotationWarning {
    /// Name of a state.
    pub(crate) reason: String,
    /// What happened and what to do.
    pub(crate) text: String,
    /// When it was last reported.
    pub(crate) at: Timestamp,
}

impl Inventory {
    /// Reads all namespaces, or one.
    ///
    /// # Errors
    /// The cluster is unavailable or refused.
    pub(crate) async fn read(release: &Release, namespace: Option<&str>) -> Result<Self> {
        let mut found = Self::default();
        for name in release.policy.auth_key_secrets() {
            let secrets = match namespace {
                Some(namespace) => Vec::from_iter(release.store.read(namespace, name).await?),
                None => release.store.list(name).await?,
            };
            let named = secrets.into_iter().map(|secret| {
                let name = SecretRef::new(&secret.namespace, &secret.name);
                (name, secret)
            });
            found.secrets.extend(named);
        }
        let namespaces = namespaces(release, namespace).await?;
        let pods = injected(&release.client, namespace).await?;
        for pod in &pods {
            if let Some((key, owner)) = user_of_key(pod) {
                found.owners.entry(key).or_default().insert(owner);
            }
        }
        found.demands = pods::demands_of(pods, &namespaces, &release.policy);
        Ok(found)
    }

    /// Returns the pods' needs of a Secret, by data key.
    pub(crate) fn demand(&self, secret: &SecretRef) -> BTreeMap<String, KeyDemand> {
        let namespace = self.demands.get(secret.namespace.as_str());
        namespace
            .and_then(|namespace| namespace.secrets.get(&secret.name))
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the data keys that pods refer to, permitted or not.
    pub(crate) fn held(&self, secret: &SecretRef) -> BTreeSet<String> {
        let namespace = self.demands.get(secret.namespace.as_str());
        namespace
            .and_then(|namespace| namespace.held.get(&secret.name))
            .cloned()
            .unwrap_or_default()
    }

    /// Returns which of a Secret's keys exceed the limit of its namespace.
    pub(crate) fn quota(&self, secret: &SecretRef, most: usize) -> Quota {
        let here = self
            .secrets
            .values()
            .filter(|other| other.namespace == secret.namespace);
        let records: Vec<_> = here.filter_map(|other| Record::of(other).ok()).collect();
        let keys = records.iter().flat_map(|record| record.keys.values());
        let with_key = keys
            .filter(|key| key.current.is_some())
            .map(|key| key.service.as_str());
        let demand = self.demands.get(secret.namespace.as_str());
        Quota::of(&secret.name, demand.map(|demand| &**demand), with_key, most)
    }

    /// Returns every Secret that exists or is needed.
    pub(crate) fn all_secrets(&self) -> BTreeSet<SecretRef> {
        let needed = self.demands.iter().flat_map(|(namespace, demand)| {
            demand.secrets.keys().map(|name| SecretRef {
                namespace: namespace.to_string(),
                name: name.clone(),
            })
        });
        self.secrets.keys().cloned().chain(needed).collect()
    }

    /// Reads rotation's warnings in these namespaces; without the right to read Events, there are none.
    pub(crate) async fn read_notes(&mut self, client: &Client, namespaces: &BTreeSet<String>) {
        for namespace in namespaces {
            let api: Api<Event> = Api::namespaced(client.clone(), namespace);
            let params = ListParams::default().fields("involvedObject.kind=Secret,type=Warning");
            let Ok(events) = api.list(&params).await else {
                continue;
            };
            for event in events.items {
                if let Some((secret, note)) = note(namespace, event) {
                    self.notes.entry(secret).or_default().push(note);
                }
            }
        }
        for notes in self.notes.values_mut() {
            notes.sort_by_key(|note| std::cmp::Reverse(note.at));
        }
    }
}

/// Returns our warning about an object of that name, from an Event.
pub(crate) fn note(namespace: &str, event: Event) -> Option<(SecretRef, RotationWarning)> {
    let series = event.series.and_then(|series| series.last_observed_time);
    let at = series
        .map(|time| time.0)
        .or(event.last_timestamp.map(|time| time.0))
        .or(event.event_time.map(|time| time.0))?;
    let ours = event.reporting_component.as_deref() == Some("sidescale")
        || event.source.and_then(|source| source.component).as_deref() == Some("sidescale");
    let secret = SecretRef {
        namespace: namespace.to_owned(),
        name: event.involved_object.name?,
    };
    let note = RotationWarning {
        reason: event.reason?,
        text: event.message?,
        at,
    };
    ours.then_some((secret, note))
}

async fn namespaces(release: &Release, only: Option<&str>) -> Result<Namespaces> {
    let api: Api<Namespace> = Api::all(release.client.clone());
    let found = Namespaces::default();
    match only {
        Some(name) => {
            let call = format!("get namespace {name}");
            let read = api.get_metadata_opt(name).await;
            let read = read.map_err(|error| refused(error, &call))?;
            found.take_listed(read.map(|read| read.metadata).into_iter());
        }
        None => {
            let all = api.list_metadata(&ListParams::default()).await;
            let all = all.map_err(|error| refused(error, "list namespaces"))?;
            found.take_listed(all.items.into_iter().map(|one| one.metadata));
        }
    }
    Ok(found)
}

/// Returns the injected pods that are not finished.
///
/// # Errors
/// The cluster is unavailable or refused.
pub(crate) async fn injected(client: &Client, namespace: Option<&str>) -> Result<Vec<ObjectMeta>> {
    let (api, place): (Api<Pod>, _) = match namespace {
        Some(name) => (
            Api::namespaced(client.clone(), name),
            format!("namespace {name}"),
        ),
        None => (Api::all(client.clone()), "all namespaces".to_owned()),
    };
    let mut params = ListParams::default()
        .labels(SIDECAR_LABEL)
        .fields(pods::RUNNING)
        .limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list_metadata(&params).await;
        let page = page.map_err(|error| refused(error, &format!("list pods in {place}")))?;
        found.extend(page.items.into_iter().map(|pod| pod.metadata));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            Some(_) | None => return Ok(found),
        }
    }
}

/// Returns the key that the pod uses, and the pod's workload.
fn user_of_key(pod: &ObjectMeta) -> Option<((SecretRef, String), String)> {
    let receipt = pod.annotations.as_ref()?.get(STATUS)?;
    let injected = Receipt::parse(receipt).ok()?.injected?;
    let secret = SecretRef {
        namespace: pod.namespace.clone()?,
        name: injected.secret.into_owned(),
    };
    Some(((secret, injected.data_key.into_owned()), workload(pod)))
}

/// Returns the workload that a person knows: a ReplicaSet's Deployment, a Job's CronJob.
pub(crate) fn workload(pod: &ObjectMeta) -> String {
    let name = pod.name.as_deref().unwrap_or_default();
    let controller = pod
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    let Some(controller) = controller else {
        return format!("pod/{name}");
    };
    let label = |key: &str| pod.labels.as_ref()?.get(key).map(String::as_str);
    let hashes = [
        label("pod-template-hash"),
        label("rollouts-pod-template-hash"),
    ];
    let (kind, owner) = (controller.kind.as_str(), controller.name.as_str());
    match Workload::of_owner(kind, owner, None, hashes) {
        Some(known) => format!("{}/{}", known.kind.as_str().to_lowercase(), known.name),
        None => format!("{}/{owner}", kind.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_the_workload_that_a_person_knows() {
        let table = [
            (
                ("ReplicaSet", "web-7c9d"),
                ("pod-template-hash", "7c9d"),
                "deployment/web",
            ),
            (
                ("ReplicaSet", "web-7c9d"),
                ("rollouts-pod-template-hash", "7c9d"),
                "rollout/web",
            ),
            (("ReplicaSet", "web"), ("a", "b"), "replicaset/web"),
            (("Job", "dump-28961234"), ("a", "b"), "cronjob/dump"),
            (("StatefulSet", "db"), ("a", "b"), "statefulset/db"),
        ];
        for ((kind, name), (label, value), want) in table {
            let owner = json!({"apiVersion": "v1", "uid": "1", "kind": kind, "name": name, "controller": true});
            let pod = json!({"name": "x", "labels": {label: value}, "ownerReferences": [owner]});
            assert_eq!(workload(&serde_json::from_value(pod).unwrap()), want);
        }
        let lone: ObjectMeta = serde_json::from_value(json!({"name": "x"})).unwrap();
        assert_eq!(workload(&lone), "pod/x");
    }
}

//! The injected pods, by a metadata-only watch of our label, folded into what keys they need. I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use sidescale_webhook::identity::Owner;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tracing::info;

use super::Namespaces;
use super::namespaces::report;
use crate::rotation::demand::{Demands, NamespaceDemand, PodSeen, Shape, of_namespace};

/// The label that the webhook puts on every pod it injects.
pub(crate) const LABEL: &str = "sidescale.io/sidecar";

/// A metadata watch cannot see a phase, but can leave out the pods that are over: they then come as deleted.
pub(crate) const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Bounds how many events are folded into one look at their namespaces.
const BATCH: usize = 256;

type Namespace = HashMap<Arc<str>, Entry>;

/// What is kept of a pod beside its name; all else is shared. Its small types hold it under the limit that a test sets.
#[derive(Debug)]
struct Entry {
    /// In seconds, which is all that the API server gives.
    created: i64,
    uid: (u64, u64),
    leaving: bool,
    shape: Arc<Shape>,
}

/// The injected pods.
#[derive(Debug, Default)]
struct Index<'p> {
    /// The labels that choose a profile.
    selecting: BTreeSet<&'p str>,
    namespaces: HashMap<Arc<str>, Namespace>,
    shapes: HashSet<Arc<Shape>>,
}

/// Watches until it is dropped, and tells what keys the pods need.
pub async fn run(
    client: Client,
    namespaces: &Namespaces,
    policy: &Policy,
    demands: &watch::Sender<Demands>,
) {
    let api: Api<PartialObjectMeta<Pod>> = Api::all(client);
    let config = Config::default()
        .labels(LABEL)
        .fields(RUNNING)
        .page_size(500);
    let mut changes = namespaces.changes();
    // A namespace that is switched off has to be known before its pods are.
    if changes.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut events = pin!(watcher(api, config).default_backoff().ready_chunks(BATCH));
    let mut index = Index::of(policy);
    let mut fresh = Index::of(policy);
    let mut troubled = false;
    loop {
        let events = tokio::select! {
            events = events.next() => events,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let all = index.namespaces.keys().cloned().collect();
                publish(&index, &all, namespaces, policy, demands, false);
                continue;
            }
        };
        let Some(events) = events else { return };
        let mut touched = BTreeSet::new();
        let (mut relisted, mut works) = (false, false);
        for event in events {
            match event {
                Ok(Event::Init) => fresh = Index::of(policy),
                Ok(Event::InitApply(pod)) => touched.extend(fresh.insert(pod.metadata)),
                Ok(Event::InitDone) => {
                    touched.extend(index.namespaces.into_keys());
                    index = std::mem::replace(&mut fresh, Index::of(policy));
                    (relisted, works) = (true, true);
                }
                Ok(Event::Apply(pod)) => {
                    works = true;
                    touched.extend(index.insert(pod.metadata));
                }
                Ok(Event::Delete(pod)) => {
                    works = true;
                    touched.extend(index.remove(&pod.metadata));
                }
                Err(error) => report(&error, "pods", &mut troubled),
            }
        }
        if relisted {
            touched.extend(index.namespaces.keys().cloned());
        }
        if works && std::mem::take(&mut troubled) {
            info!("Watch of pods works again");
        }
        // What a list has brought so far is not the whole yet: it counts when it is done.
        publish(&index, &touched, namespaces, policy, demands, relisted);
    }
}

/// Decides for pods that were listed once, as a command does that looks and ends.
pub(crate) fn fold(
    pods: Vec<ObjectMeta>,
    namespaces: &Namespaces,
    policy: &Policy,
) -> BTreeMap<Arc<str>, Arc<NamespaceDemand>> {
    let mut index = Index::of(policy);
    for pod in pods {
        index.insert(pod);
    }
    let names = index.namespaces.keys();
    names
        .filter_map(|name| {
            let demand = index.demand(name, namespaces, policy)?;
            Some((Arc::clone(name), Arc::new(demand)))
        })
        .collect()
}

/// Decides anew for the namespaces that were touched, and tells if anything came of it.
fn publish(
    index: &Index<'_>,
    touched: &BTreeSet<Arc<str>>,
    namespaces: &Namespaces,
    policy: &Policy,
    demands: &watch::Sender<Demands>,
    synced: bool,
) {
    let decided: Vec<_> = touched
        .iter()
        .map(|name| (name, index.demand(name, namespaces, policy)))
        .collect();
    demands.send_if_modified(|demands| {
        let mut changed = synced && !std::mem::replace(&mut demands.synced, true);
        for (name, demand) in decided {
            let known = demands.namespaces.get(name);
            if known.map(|known| &**known) == demand.as_ref() {
                continue;
            }
            changed = true;
            match demand {
                Some(demand) => demands
                    .namespaces
                    .insert(Arc::clone(name), Arc::new(demand)),
                None => demands.namespaces.remove(name),
            };
        }
        changed
    });
}

impl<'p> Index<'p> {
    fn of(policy: &'p Policy) -> Self {
        Self {
            selecting: policy.pod_labels(),
            ..Self::default()
        }
    }

    fn insert(&mut self, mut metadata: ObjectMeta) -> Option<Arc<str>> {
        // By far the largest part, and of no use here.
        metadata.managed_fields = None;
        let (name, namespace) = (metadata.name.take()?, metadata.namespace.take()?);
        let owner = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let shape = Shape::new(
            &name,
            metadata
                .annotations
                .iter()
                .flatten()
                .map(|(key, value)| (key.as_str(), value.as_str())),
            metadata
                .labels
                .iter()
                .flatten()
                .map(|(key, value)| (key.as_str(), value.as_str())),
            owner.map(|owner| Owner {
                kind: &owner.kind,
                name: &owner.name,
            }),
            &self.selecting,
        )
        .with_owner_uid(owner.and_then(|owner| parsed(&owner.uid)));
        let shape = self.shared(shape);
        let uid = metadata.uid.as_deref().and_then(parsed);
        let uid = uid.map(uuid::Uuid::from_u128);
        let entry = Entry {
            created: metadata
                .creation_timestamp
                .map_or(0, |time| time.0.as_second()),
            uid: uid.map_or((0, 0), |uid| uid.as_u64_pair()),
            leaving: metadata.deletion_timestamp.is_some(),
            shape,
        };
        let namespace = match self.namespaces.get_key_value(namespace.as_str()) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(namespace),
        };
        let pods = self.namespaces.entry(Arc::clone(&namespace)).or_default();
        if let Some(replaced) = pods.insert(name.into(), entry) {
            self.forget(&replaced);
        }
        Some(namespace)
    }

    fn remove(&mut self, metadata: &ObjectMeta) -> Option<Arc<str>> {
        let (name, namespace) = (metadata.name.as_deref()?, metadata.namespace.as_deref()?);
        let (known, pods) = self
            .namespaces
            .get_key_value(namespace)
            .map(|(known, _)| Arc::clone(known))
            .and_then(|known| self.namespaces.get_mut(&known).map(|pods| (known, pods)))?;
        let removed = pods.remove(name)?;
        if pods.is_empty() {
            self.namespaces.remove(&known);
        }
        self.forget(&removed);
        Some(known)
    }

    /// Lets go of the shape of an entry that is in the index no more, if it was the last of it.
    fn forget(&mut self, entry: &Entry) {
        // The set's own and this one: no pod has it any more.
        if Arc::strong_count(&entry.shape) == 2 {
            self.shapes.remove(&entry.shape);
        }
    }

    fn shared(&mut self, shape: Shape) -> Arc<Shape> {
        if let Some(known) = self.shapes.get(&shape) {
            return Arc::clone(known);
        }
        let shape = Arc::new(shape);
        self.shapes.insert(Arc::clone(&shape));
        shape
    }

    fn demand(
        &self,
        name: &str,
        namespaces: &Namespaces,
        policy: &Policy,
    ) -> Option<NamespaceDemand> {
        let pods = self.namespaces.get(name)?.iter();
        let pods = pods.map(|(name, pod)| PodSeen {
            created: Timestamp::from_second(pod.created).unwrap_or(Timestamp::UNIX_EPOCH),
            uid: u128::from(pod.uid.0) << 64 | u128::from(pod.uid.1),
            name,
            leaving: pod.leaving,
            shape: &pod.shape,
        });
        Some(of_namespace(
            name,
            pods,
            namespaces.get(name).as_deref(),
            policy,
        ))
    }
}

fn parsed(uid: &str) -> Option<u128> {
    let uid = uuid::Uuid::parse_str(uid).ok()?;
    Some(uid.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::fleet::Member;

    fn pod(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("shop".into()),
            uid: Some("6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11".into()),
            annotations: Some(BTreeMap::from([(
                "sidescale.io/inject".into(),
                "tailscale".into(),
            )])),
            labels: Some(BTreeMap::from([
                ("pod-template-hash".into(), "6d4cf56db6".into()),
                ("statefulset.kubernetes.io/pod-name".into(), name.into()),
            ])),
            owner_references: Some(vec![
                k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                    kind: "ReplicaSet".into(),
                    name: "api-6d4cf56db6".into(),
                    controller: Some(true),
                    ..Default::default()
                },
            ]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn pods_of_one_owner_share_all_but_their_name() {
        let mut index = Index::default();
        for n in 0..100 {
            index.insert(pod(&format!("api-6d4cf56db6-{n:05}")));
        }
        assert_eq!(index.shapes.len(), 1);
        let name = "api-6d4cf56db6-00000".len();
        // Twice the entry: a hash map is at worst half empty. The name is shared with the fleet, and counted.
        let counts = 2 * size_of::<usize>();
        let indexed = 2 * (size_of::<Entry>() + size_of::<Arc<str>>()) + counts + name;
        assert!(indexed + size_of::<Member>() <= 200);
        for n in 0..100 {
            index.remove(&pod(&format!("api-6d4cf56db6-{n:05}")));
        }
        assert!(index.shapes.is_empty());
        assert!(index.namespaces.is_empty());
    }

    #[test]
    fn a_pod_that_changes_leaves_nothing_behind() {
        let mut index = Index::default();
        for n in 0..100 {
            let mut changed = pod("api-0");
            let annotations = changed.annotations.as_mut().unwrap();
            annotations.insert("sidescale.io/tags".into(), format!("tag:t{n}"));
            index.insert(changed);
        }
        assert_eq!(index.shapes.len(), 1);
        index.insert(pod("api-1"));
        assert_eq!(index.shapes.len(), 2);
        for name in ["api-0", "api-1"] {
            index.remove(&pod(name));
        }
        assert!(index.shapes.is_empty());
    }

    #[test]
    fn keeps_no_more_of_a_pod_than_decides() {
        let kept = |pod| {
            let mut index = Index::default();
            index.insert(pod);
            let shape = index.shapes.into_iter().next().unwrap();
            format!("{shape:?}").len()
        };
        let with = |key: &str, value: String| {
            let mut pod = pod("api-0");
            let annotations = pod.annotations.as_mut().unwrap();
            annotations.insert(format!("sidescale.io/{key}"), value);
            kept(pod)
        };
        let bare = with("x", String::new());
        assert_eq!(with("x", "x".repeat(200 << 10)), bare);
        // What is cut has to be too long still, or it would decide something else than the webhook did.
        let refused = with("hostname", "x".repeat(200 << 10));
        assert!((bare + 4097..bare + 4200).contains(&refused), "{refused}");
        assert!(with("hostname", "ä".repeat(100 << 10)) < bare + 4200);
        let mut owned = pod("api-0");
        let owner = &mut owned.owner_references.as_mut().unwrap()[0];
        (owner.kind, owner.name) = ("ä".repeat(500 << 10), "x".repeat(1 << 20));
        assert!(kept(owned) < bare + 700);
    }

    #[test]
    fn a_pod_that_is_removed_twice_or_was_never_there_does_no_harm() {
        let mut index = Index::default();
        assert_eq!(index.remove(&pod("a")), None);
        index.insert(pod("a"));
        assert!(index.remove(&pod("a")).is_some());
        assert_eq!(index.remove(&pod("a")), None);
    }
}

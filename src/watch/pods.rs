//! The injected pods, by a metadata-only watch of our label, reduced to the keys that they need. I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::Event;
use sidescale_rotation::demand::{Demands, NamespaceDemand, PodInputs, PodSeen, of_namespace};
use sidescale_webhook::identity::WorkloadOwner;
use sidescale_webhook::keys::SIDECAR_LABEL;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Namespaces;
use super::feed::{Feed, WatchTarget};
use super::namespaces::report;
use crate::metadata::ObjectMetadata;
use crate::outage::Outage;

/// A metadata watch cannot see a phase, but can exclude finished pods: these then arrive as deleted.
pub(crate) const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Maximum bytes stored about the pods of one namespace, except their names: a thousand workloads of a usual size, or
/// six pods with all annotations of maximum length. Pods beyond it get no key.
const MOST_OF_NAMESPACE: usize = 1 << 20;

/// The pods of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    pods: HashMap<Arc<str>, Entry>,
    shapes: HashSet<Arc<PodInputs>>,
    /// Size of the shapes.
    bytes: usize,
    /// Whether pods were left out, and that was reported.
    full: bool,
}

/// What is stored about a pod besides its name; all else is shared. Its small types keep it below the limit of a test.
#[derive(Debug)]
struct Entry {
    /// In seconds, the precision of the API server.
    created: i64,
    uid: (u64, u64),
    leaving: bool,
    shape: Arc<PodInputs>,
}

/// The injected pods.
#[derive(Debug, Default)]
struct PodIndex<'p> {
    /// The labels that choose a profile.
    selecting: BTreeSet<&'p str>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Placeholder for every pod that was left out: it needs no key.
    left_out: Arc<PodInputs>,
}

/// Watches until it is dropped, and publishes which keys the pods need.
pub async fn run(
    client: Client,
    namespaces: &Namespaces,
    policy: &Policy,
    demands: &watch::Sender<Demands>,
) {
    let mut changes = namespaces.changes();
    // A disabled namespace has to be known before its pods are.
    if changes.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let subject = WatchTarget {
        what: "pods",
        path: "/api/v1/pods".into(),
        labels: Some(SIDECAR_LABEL),
        fields: Some(RUNNING.to_owned()),
    };
    let selecting = policy.pod_labels();
    let read = |bytes: &[u8]| ObjectMetadata::of_pod(bytes, &selecting);
    let mut batches = pin!(Feed::new(client, subject, read).events().default_backoff());
    let mut index = PodIndex::of(policy);
    let mut fresh = PodIndex::of(policy);
    let mut outage = Outage::default();
    loop {
        let batch = tokio::select! {
            batch = batches.next() => batch,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let all = index.namespaces.keys().cloned().collect();
                publish(&index, &all, namespaces, policy, demands, false);
                continue;
            }
        };
        let batch = match batch {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => {
                report(&error, "pods", &mut outage);
                continue;
            }
            None => return,
        };
        let mut touched = BTreeSet::new();
        let (mut relisted, mut works) = (false, false);
        for event in batch {
            match event {
                Event::Init => fresh = PodIndex::of(policy),
                Event::InitApply(pod) => touched.extend(fresh.insert(pod)),
                Event::InitDone => {
                    touched.extend(index.namespaces.into_keys());
                    index = std::mem::replace(&mut fresh, PodIndex::of(policy));
                    (relisted, works) = (true, true);
                }
                Event::Apply(pod) => {
                    works = true;
                    touched.extend(index.insert(pod));
                }
                Event::Delete(pod) => {
                    works = true;
                    touched.extend(index.remove(&pod));
                }
            }
        }
        if relisted {
            touched.extend(index.namespaces.keys().cloned());
        }
        if works && outage.recovered().is_some() {
            info!("Watch of pods recovered");
        }
        // A list is complete only at its end, and counts from then on.
        publish(&index, &touched, namespaces, policy, demands, relisted);
    }
}

/// Decides for pods that were listed once, for a command that reads once and exits.
pub(crate) fn demands_of(
    pods: Vec<ObjectMeta>,
    namespaces: &Namespaces,
    policy: &Policy,
) -> BTreeMap<Arc<str>, Arc<NamespaceDemand>> {
    let mut index = PodIndex::of(policy);
    for pod in pods {
        index.insert(ObjectMetadata::of_read_pod(&pod));
    }
    let names = index.namespaces.keys();
    names
        .filter_map(|name| {
            let demand = index.demand(name, namespaces, policy)?;
            Some((Arc::clone(name), Arc::new(demand)))
        })
        .collect()
}

/// Decides again for the changed namespaces, and publishes a different result.
fn publish(
    index: &PodIndex<'_>,
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

impl<'p> PodIndex<'p> {
    fn of(policy: &'p Policy) -> Self {
        Self {
            selecting: policy.pod_labels(),
            ..Self::default()
        }
    }

    fn insert(&mut self, pod: ObjectMetadata) -> Option<Arc<str>> {
        let ObjectMetadata {
            name,
            namespace,
            version: _,
            uid,
            created,
            leaving,
            owner,
            labels,
            annotations,
            last_write: _,
        } = pod;
        if name.is_empty() || namespace.is_empty() {
            return None;
        }
        let shape = PodInputs::new(
            &name,
            annotations.iter().map(|(key, value)| (&**key, &**value)),
            labels.iter().map(|(key, value)| (&**key, &**value)),
            owner.as_ref().map(|owner| WorkloadOwner {
                kind: &owner.kind,
                name: &owner.name,
            }),
            &self.selecting,
        )
        .with_owner_uid(owner.as_ref().and_then(|owner| owner.uid));
        let known = match self.namespaces.get_key_value(&*namespace) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(namespace),
        };
        let namespace = self.namespaces.entry(Arc::clone(&known)).or_default();
        if let Some(replaced) = namespace.pods.remove(&*name) {
            namespace.forget(&replaced);
        }
        let shape = namespace.shared(shape).unwrap_or_else(|| {
            if !std::mem::replace(&mut namespace.full, true) {
                warn!(
                    namespace = &*known,
                    limit = MOST_OF_NAMESPACE,
                    "Namespace has too many distinct pod annotations: pods beyond the limit get no key"
                );
            }
            Arc::clone(&self.left_out)
        });
        let entry = Entry {
            created,
            uid: uuid::Uuid::from_u128(uid.unwrap_or_default()).as_u64_pair(),
            leaving,
            shape,
        };
        namespace.pods.insert(name.into(), entry);
        Some(known)
    }

    fn remove(&mut self, pod: &ObjectMetadata) -> Option<Arc<str>> {
        let known = self.namespaces.get_key_value(&*pod.namespace);
        let known = known.map(|(known, _)| Arc::clone(known))?;
        let namespace = self.namespaces.get_mut(&known)?;
        let removed = namespace.pods.remove(&*pod.name)?;
        namespace.forget(&removed);
        if namespace.pods.is_empty() {
            self.namespaces.remove(&known);
        }
        Some(known)
    }

    fn demand(
        &self,
        name: &str,
        namespaces: &Namespaces,
        policy: &Policy,
    ) -> Option<NamespaceDemand> {
        let pods = self.namespaces.get(name)?.pods.iter();
        let pods = pods.map(|(name, pod)| PodSeen {
            created: Timestamp::from_second(pod.created).unwrap_or(Timestamp::UNIX_EPOCH),
            uid: u128::from(pod.uid.0) << 64 | u128::from(pod.uid.1),
            name,
            leaving: pod.leaving,
            shape: &pod.shape,
        });
        let demand = of_namespace(name, pods, namespaces.get(name).as_deref(), policy);
        Some(NamespaceDemand {
            uid: namespaces.uid(name),
            ..demand
        })
    }
}

impl Namespace {
    /// Returns the stored one of all equal shapes; `None` if there is no room for another.
    fn shared(&mut self, shape: PodInputs) -> Option<Arc<PodInputs>> {
        if let Some(known) = self.shapes.get(&shape) {
            return Some(Arc::clone(known));
        }
        let bytes = self.bytes + shape.size();
        if bytes > MOST_OF_NAMESPACE {
            return None;
        }
        self.bytes = bytes;
        let shape = Arc::new(shape);
        self.shapes.insert(Arc::clone(&shape));
        Some(shape)
    }

    /// Removes the shape of an entry that was removed from the index, if no other entry has it.
    fn forget(&mut self, entry: &Entry) {
        // The references of the set and of this entry: no other pod has it.
        if Arc::strong_count(&entry.shape) == 2 && self.shapes.remove(&entry.shape) {
            self.bytes -= entry.shape.size();
            self.full = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use sidescale_rotation::nodes::replicas::PodRef;

    use super::*;

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

    fn seen(pod: &ObjectMeta) -> ObjectMetadata {
        let object = serde_json::json!({"metadata": pod}).to_string();
        ObjectMetadata::of_pod(object.as_bytes(), &BTreeSet::new()).unwrap()
    }

    fn shapes(index: &PodIndex<'_>) -> usize {
        index.namespaces["shop"].shapes.len()
    }

    #[test]
    fn pods_of_one_owner_share_all_but_their_name() {
        let mut index = PodIndex::default();
        for n in 0..100 {
            index.insert(seen(&pod(&format!("api-6d4cf56db6-{n:05}"))));
        }
        assert_eq!(shapes(&index), 1);
        let name = "api-6d4cf56db6-00000".len();
        // Twice the entry: a hash map is at worst half empty. The name is shared with the replica group, and counted.
        let counts = 2 * size_of::<usize>();
        let indexed = 2 * (size_of::<Entry>() + size_of::<Arc<str>>()) + counts + name;
        assert!(indexed + size_of::<PodRef>() <= 200);
        for n in 0..100 {
            index.remove(&seen(&pod(&format!("api-6d4cf56db6-{n:05}"))));
        }
        assert!(index.namespaces.is_empty());
    }

    #[test]
    fn a_pod_that_changes_leaves_nothing_behind() {
        let mut index = PodIndex::default();
        for n in 0..100 {
            let mut changed = pod("api-0");
            let annotations = changed.annotations.as_mut().unwrap();
            annotations.insert("sidescale.io/tags".into(), format!("tag:t{n}"));
            index.insert(seen(&changed));
        }
        assert_eq!(shapes(&index), 1);
        index.insert(seen(&pod("api-1")));
        assert_eq!(shapes(&index), 2);
        index.remove(&seen(&pod("api-0")));
        assert_eq!(shapes(&index), 1);
        let namespace = &index.namespaces["shop"];
        let kept: usize = namespace.shapes.iter().map(|shape| shape.size()).sum();
        assert_eq!(namespace.bytes, kept);
        index.remove(&seen(&pod("api-1")));
        assert!(index.namespaces.is_empty());
    }

    #[test]
    fn keeps_no_more_of_a_pod_than_decides() {
        let kept = |pod| {
            let mut index = PodIndex::default();
            index.insert(seen(&pod));
            let shapes = &index.namespaces["shop"].shapes;
            format!("{shapes:?}").len()
        };
        let with = |key: &str, value: String| {
            let mut pod = pod("api-0");
            let annotations = pod.annotations.as_mut().unwrap();
            annotations.insert(format!("sidescale.io/{key}"), value);
            kept(pod)
        };
        let bare = with("x", String::new());
        assert_eq!(with("x", "x".repeat(200 << 10)), bare);
        // A value that is cut has to be too long still, or the decision would differ from the webhook's.
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
        let mut index = PodIndex::default();
        let pod = seen(&pod("a"));
        assert_eq!(index.remove(&pod), None);
        index.insert(pod.clone());
        assert!(index.remove(&pod).is_some());
        assert_eq!(index.remove(&pod), None);
    }

    #[test]
    fn pods_that_differ_too_much_are_left_out_and_come_back() {
        let fat = |n: usize| {
            let mut pod = pod(&format!("fat-{n}"));
            let annotations = pod.annotations.as_mut().unwrap();
            for key in ["tags", "hostname", "service", "extra-args", "wait"] {
                annotations.insert(
                    format!("sidescale.io/{key}"),
                    format!("{n}-{}", "x".repeat(4000)),
                );
            }
            seen(&pod)
        };
        let mut index = PodIndex::default();
        for n in 0..1000 {
            index.insert(fat(n));
        }
        let namespace = &index.namespaces["shop"];
        assert!(namespace.full && namespace.bytes <= MOST_OF_NAMESPACE);
        assert!((40..60).contains(&shapes(&index)), "{}", shapes(&index));
        let policy = Policy::for_login_server("https://hs.example.com").unwrap();
        let demand = index.demand("shop", &Namespaces::default(), &policy);
        assert_eq!(
            demand.map(|demand| demand.refused),
            Some(1000),
            "none is forgotten"
        );
        // Another namespace has its own room, and this one has it again after its pods are gone.
        let mut other = seen(&pod("api-0"));
        other.namespace = "prod".into();
        index.insert(other);
        assert_eq!(index.namespaces["prod"].shapes.len(), 1);
        for n in 0..1000 {
            index.remove(&fat(n));
        }
        index.insert(seen(&pod("api-0")));
        assert_eq!(shapes(&index), 1);
    }
}

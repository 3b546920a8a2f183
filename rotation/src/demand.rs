//! From injected pods to the keys they need: repeats the webhook's decision with the values of the pod's receipt. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::secret::SecretRef;
use sidescale_webhook::annotations::{
    AuthKeyRef, Caller, Decision, ManagedKey, NamespaceMetadata, Subject, decide,
};
use sidescale_webhook::identity::{Hostname, POD_SECRET, WorkloadOwner};
use sidescale_webhook::profile::{DEFAULT, Policy};

use super::nodes::replicas::{self, GroupIdentity, PodRef, ReplicaGroup, ReplicaGroups};
use super::record::KeySpec;
use super::workload::Workload;

mod pod_inputs;

pub use pod_inputs::PodInputs;
use pod_inputs::{PodLabels, ReceiptOverlay, own_digits};

/// One pod as the index stores it.
#[derive(Clone, Copy, Debug)]
pub struct PodSeen<'a> {
    /// When the pod was created.
    pub created: Timestamp,
    /// Its uid, which orders pods created in the same second.
    pub uid: u128,
    /// Name of the pod.
    pub name: &'a Arc<str>,
    /// Whether it is terminating.
    pub leaving: bool,
    /// Inputs to the decision about its key.
    pub shape: &'a Arc<PodInputs>,
}

/// What pods need of one Secret: a view of the namespace's demand, shared by jobs.
#[derive(Clone, Debug)]
pub struct SecretDemand {
    namespace: Option<Arc<NamespaceDemand>>,
    secret: String,
}

impl SecretDemand {
    /// Returns the demand for the Secret of that name; empty if the namespace has none.
    #[must_use]
    pub fn new(namespace: Option<Arc<NamespaceDemand>>, secret: &str) -> Self {
        let secret = secret.to_owned();
        Self { namespace, secret }
    }

    /// Returns the data keys that pods refer to, even those that policy denies.
    #[must_use]
    pub fn referenced(&self) -> &BTreeSet<String> {
        static NOTHING: BTreeSet<String> = BTreeSet::new();
        let namespace = self.namespace.as_ref();
        let held = namespace.and_then(|namespace| namespace.held.get(&self.secret));
        held.unwrap_or(&NOTHING)
    }

    /// Returns the uid of the namespace, if known.
    #[must_use]
    pub fn namespace_uid(&self) -> Option<u128> {
        self.namespace.as_ref()?.uid
    }
}

impl Deref for SecretDemand {
    type Target = BTreeMap<String, KeyDemand>;

    fn deref(&self) -> &Self::Target {
        static NOTHING: BTreeMap<String, KeyDemand> = BTreeMap::new();
        let keys = self
            .namespace
            .as_ref()
            .and_then(|namespace| namespace.secrets.get(&self.secret));
        keys.unwrap_or(&NOTHING)
    }
}

/// What the pods of a namespace need, by Secret and data key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceDemand {
    /// Uid of the namespace, if known.
    pub uid: Option<u128>,
    /// Keys by Secret name and data key.
    pub secrets: BTreeMap<String, BTreeMap<String, KeyDemand>>,
    /// Number of labelled pods that get no key: disabled, denied, or with a receipt that policy does not confirm.
    pub refused: usize,
    /// The pods that should be in the tailnet.
    pub replica_groups: Vec<ReplicaGroup>,
    /// The workloads of each key, by Secret and data key.
    pub users: BTreeMap<(String, String), BTreeSet<Workload>>,
    /// The pods that rotation creates no key for, by the key that they refer to.
    pub unserved: Vec<Unserved>,
    /// Data keys that pods refer to, by Secret: they stay as long as those pods exist, even if policy denies them.
    pub held: BTreeMap<String, BTreeSet<String>>,
    /// How many pods may be connected, by control plane and service, including terminating pods and pods that no longer get a key.
    pub expected_nodes: BTreeMap<(String, String), usize>,
}

/// Pods that refer to a key which rotation does not create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// Name of the Secret.
    pub secret: String,
    /// Key of the Secret's data.
    pub data_key: String,
    /// Whether the pods' author supplies the key; otherwise policy denies them one.
    pub own: bool,
    /// The pods, oldest first, without terminating ones.
    pub pods: Vec<PodRef>,
}

/// What the pods of all namespaces need.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// Whether all pods were seen once; before that, a missing pod means nothing.
    pub synced: bool,
    /// Demand by namespace; an unchanged namespace keeps its `Arc`.
    pub namespaces: BTreeMap<Arc<str>, Arc<NamespaceDemand>>,
    /// How many changes by other writers were seen on each Secret of keys.
    pub changes: BTreeMap<SecretRef, u64>,
}

/// One key that pods need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDemand {
    /// Service of the pods that use it.
    pub service: String,
    /// Name of the control plane in the configuration.
    pub control_plane: String,
    /// The properties that the key must have.
    pub asked: KeySpec,
    /// Lifetime of the key.
    pub expiration: Duration,
    /// How long before its expiry it is renewed.
    pub buffer: Duration,
    /// How many pods use it.
    pub pods: usize,
    /// How many of them ask for other properties than the newest pod, which decides.
    pub differing: usize,
    /// Creation time of its oldest pod.
    pub since: Timestamp,
    /// Hostname of its single pod's node, if no other pod has that hostname.
    pub hostname: Option<String>,
}

/// Pods with equal inputs.
struct PodGroup<'a> {
    shape: &'a PodInputs,
    pods: Vec<PodSeen<'a>>,
    newest: (Timestamp, u128),
    since: Timestamp,
}

struct Wanted {
    secret: String,
    data_key: String,
    demand: KeyDemand,
    hostname: Hostname<'static>,
}

impl PodSeen<'_> {
    fn age(&self) -> (Timestamp, u128) {
        (self.created, self.uid)
    }

    fn member(&self) -> PodRef {
        PodRef {
            created: self.created,
            uid: self.uid,
            name: Arc::clone(self.name),
        }
    }
}

/// Returns what the labelled pods of one namespace need.
#[must_use]
pub fn of_namespace<'a>(
    namespace: &str,
    pods: impl Iterator<Item = PodSeen<'a>>,
    metadata: Option<&NamespaceMetadata>,
    policy: &Policy,
) -> NamespaceDemand {
    let mut demand = NamespaceDemand::default();
    let mut asking: BTreeMap<(String, String), Vec<(PodGroup<'a>, KeyDemand)>> = BTreeMap::new();
    let mut fleets = ReplicaGroups::default();
    let mut unserved: BTreeMap<_, Vec<PodRef>> = BTreeMap::new();
    for group in alike(pods) {
        if group.shape.needs_no_key() {
            continue;
        }
        if let Some(guest) = expected_node(group.shape, policy) {
            *demand.expected_nodes.entry(guest).or_default() += group.pods.len();
        }
        if let Some(receipt) = group.shape.receipt() {
            let held = demand.held.entry(receipt.secret.into_owned());
            held.or_default().insert(receipt.data_key.into_owned());
        }
        match wanted(namespace, group.shape, metadata, policy) {
            None => {
                demand.refused += group.pods.len();
                if let Some(reference) = group.shape.reference() {
                    let pods = group.pods.iter().filter(|pod| !pod.leaving);
                    let known = unserved.entry(reference).or_default();
                    known.extend(pods.map(PodSeen::member));
                }
            }
            Some(Wanted {
                secret,
                data_key,
                mut demand,
                hostname,
            }) => {
                // Hostnames made from pod names are unique per pod.
                let own = (secret == POD_SECRET && hostname.needs_pod_name)
                    .then(|| group.pods.first())
                    .flatten();
                demand.hostname = own.and_then(|pod| replicas::name_of(&hostname, pod.name));
                let identity = GroupIdentity {
                    control_plane: demand.control_plane.clone(),
                    user: demand.asked.user.clone(),
                    service: demand.service.clone(),
                    secret: secret.clone(),
                    data_key: data_key.clone(),
                };
                let pods = group.pods.iter().filter(|pod| !pod.leaving);
                fleets.add(&identity, &hostname, pods.map(PodSeen::member));
                asking
                    .entry((secret, data_key))
                    .or_default()
                    .push((group, demand));
            }
        }
    }
    for ((secret, data_key), asking) in asking {
        let Some(key) = of_newest(&asking) else {
            continue;
        };
        // A new key for a single pod is not reported on its workload.
        if secret != POD_SECRET {
            let key = (secret.clone(), data_key.clone());
            demand.users.insert(key, workloads(&asking));
        }
        demand
            .secrets
            .entry(secret)
            .or_default()
            .insert(data_key, key);
    }
    demand.replica_groups = fleets.finish();
    demand.unserved = listed(unserved);
    demand
}

/// Groups the pods that share one `PodInputs`.
fn alike<'a>(pods: impl Iterator<Item = PodSeen<'a>>) -> impl Iterator<Item = PodGroup<'a>> {
    let mut groups: HashMap<*const PodInputs, PodGroup<'a>> = HashMap::new();
    for pod in pods {
        let first = PodGroup {
            shape: pod.shape,
            pods: Vec::new(),
            newest: pod.age(),
            since: pod.created,
        };
        let group = groups.entry(Arc::as_ptr(pod.shape)).or_insert(first);
        group.pods.push(pod);
        group.newest = group.newest.max(pod.age());
        group.since = group.since.min(pod.created);
    }
    groups.into_values()
}

/// Returns the demand of the newest pod, which decides.
fn of_newest(asking: &[(PodGroup<'_>, KeyDemand)]) -> Option<KeyDemand> {
    let (_, newest) = asking.iter().max_by_key(|(group, _)| group.newest)?;
    let differing = asking.iter().filter(|(_, key)| key.asked != newest.asked);
    Some(KeyDemand {
        pods: asking.iter().map(|(group, _)| group.pods.len()).sum(),
        differing: differing.map(|(group, _)| group.pods.len()).sum(),
        since: asking
            .iter()
            .map(|(group, _)| group.since)
            .min()
            .unwrap_or(newest.since),
        ..newest.clone()
    })
}

/// Returns the known workloads of one key.
fn workloads(asking: &[(PodGroup<'_>, KeyDemand)]) -> BTreeSet<Workload> {
    let shapes = asking.iter().map(|(group, _)| group.shape);
    shapes.filter_map(PodInputs::workload).collect()
}

fn listed(unserved: BTreeMap<(String, String, bool), Vec<PodRef>>) -> Vec<Unserved> {
    let unserved = unserved.into_iter().filter(|(_, pods)| !pods.is_empty());
    let unserved = unserved.map(|((secret, data_key, own), mut pods)| {
        pods.sort();
        Unserved {
            secret,
            data_key,
            own,
            pods,
        }
    });
    unserved.collect()
}

/// Returns the control plane and service of the pod's node, from its receipt: policy may have changed since it joined.
fn expected_node(shape: &PodInputs, policy: &Policy) -> Option<(String, String)> {
    let receipt = shape.receipt()?;
    let plane = receipt.control_plane;
    policy
        .control_planes
        .contains_key(&*plane)
        .then(|| (plane.into_owned(), receipt.service.into_owned()))
}

/// Returns whether the namespace's label forbids injection.
fn is_disabled(metadata: &NamespaceMetadata) -> bool {
    matches!(metadata.inject.as_deref(), Some("disabled" | "false"))
}

fn owned(hostname: Hostname<'_>) -> Hostname<'static> {
    let Hostname {
        text,
        needs_pod_name,
        needs_node_name,
    } = hostname;
    Hostname {
        text: text.into_owned().into(),
        needs_pod_name,
        needs_node_name,
    }
}

/// Returns what such pods need; none if policy denies them a key.
fn wanted(
    namespace: &str,
    shape: &PodInputs,
    metadata: Option<&NamespaceMetadata>,
    policy: &Policy,
) -> Option<Wanted> {
    if metadata.is_some_and(is_disabled) {
        return None;
    }
    let whole = shape.whole_receipt()?;
    let receipt = shape.receipt()?;
    let annotations = ReceiptOverlay {
        shape,
        receipt: &receipt,
    };
    let subject = Subject {
        namespace,
        name: &shape.name,
        annotations: &annotations,
        labels: &PodLabels(&shape.labels),
        owner: shape
            .owner
            .as_ref()
            .map(|(kind, name)| WorkloadOwner { kind, name }),
        namespace_metadata: metadata,
        // Trusted even if the namespace no longer has the label: a pod may opt in itself.
        namespace_opted_in: true,
        // Never selected again: that would trust the receipt about what only the namespace's label says.
        profile: Some(whole.profile.as_deref().unwrap_or(DEFAULT)),
        caller: Caller::Verified,
        request: own_digits(&receipt).unwrap_or_default(),
    };
    let sidecar = match decide(&subject, policy) {
        Decision::Inject(injection) => injection.tailscale?,
        Decision::Deny(_) | Decision::Skip(_) | Decision::Warn(_) => return None,
    };
    let key = match sidecar.key {
        AuthKeyRef::Managed(key) => key,
        AuthKeyRef::Given { .. } => return None,
    };
    let ManagedKey {
        secret: _,
        data_key,
        user,
        mut tags,
        reusable,
        ephemeral,
        expiration,
        buffer,
    } = key;
    let allowed = policy.auth_key_secrets().contains(&*receipt.secret);
    if !allowed || data_key != receipt.data_key {
        return None;
    }
    tags.sort();
    tags.dedup();
    let hostname = owned(sidecar.hostname);
    let demand = KeyDemand {
        service: sidecar.service.to_owned(),
        control_plane: sidecar.control_plane.to_owned(),
        asked: KeySpec {
            user,
            tags,
            reusable,
            ephemeral,
        },
        expiration,
        buffer,
        pods: 0,
        differing: 0,
        since: Timestamp::UNIX_EPOCH,
        hostname: None,
    };
    Some(Wanted {
        secret: receipt.secret.into_owned(),
        data_key,
        demand,
        hostname,
    })
}

#[cfg(test)]
mod tests;

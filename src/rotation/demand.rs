//! Injected pods -> the keys they need: the webhook's own decision, asked again with what its receipt names. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_webhook::annotations::{
    Decision, Key, ManagedKey, NamespaceMetadata, Subject, decide,
};
use sidescale_webhook::identity::Owner;
use sidescale_webhook::profile::Policy;

use super::record::Asked;

mod shape;

pub use shape::Shape;
use shape::{AsReceipted, Labels};

/// One pod as the index keeps it.
#[derive(Clone, Copy, Debug)]
pub struct PodSeen<'a> {
    /// When it was made.
    pub created: Timestamp,
    /// Its uid, which decides between pods of one second.
    pub uid: u128,
    /// What decides its key.
    pub shape: &'a Arc<Shape>,
}

/// Names a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What the pods of a namespace need, by Secret and data key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceDemand {
    /// Keys by Secret name and data key.
    pub secrets: BTreeMap<String, BTreeMap<String, KeyDemand>>,
    /// Pods that carry our label and get no key: disabled, denied, or a receipt that policy does not bear out.
    pub refused: usize,
}

/// What the pods of all namespaces need.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// Whether the pods were all seen once; before that, absence says nothing.
    pub synced: bool,
    /// Demand by namespace; an unchanged namespace keeps its `Arc`.
    pub namespaces: BTreeMap<Arc<str>, Arc<NamespaceDemand>>,
}

/// One key that pods need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDemand {
    /// The identity.
    pub service: String,
    /// Name of the control plane.
    pub control_plane: String,
    /// What the key has to be.
    pub asked: Asked,
    /// Its life.
    pub expiration: Duration,
    /// How long before its end it is renewed.
    pub buffer: Duration,
    /// How many pods use it.
    pub pods: usize,
    /// How many of them ask for something else than the newest, which decides.
    pub differing: usize,
    /// When its oldest pod was made.
    pub since: Timestamp,
}

/// Pods that share a shape.
struct Group<'a> {
    shape: &'a Shape,
    pods: usize,
    newest: (Timestamp, u128),
    since: Timestamp,
}

struct Wanted {
    secret: String,
    data_key: String,
    demand: KeyDemand,
}

impl PodSeen<'_> {
    fn age(&self) -> (Timestamp, u128) {
        (self.created, self.uid)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Decides what the labelled pods of one namespace need.
#[must_use]
pub fn of_namespace<'a>(
    namespace: &str,
    pods: impl Iterator<Item = PodSeen<'a>>,
    metadata: Option<&NamespaceMetadata>,
    policy: &Policy,
) -> NamespaceDemand {
    let mut groups: HashMap<*const Shape, Group<'a>> = HashMap::new();
    for pod in pods {
        let first = Group {
            shape: pod.shape,
            pods: 0,
            newest: pod.age(),
            since: pod.created,
        };
        let group = groups.entry(Arc::as_ptr(pod.shape)).or_insert(first);
        group.pods += 1;
        group.newest = group.newest.max(pod.age());
        group.since = group.since.min(pod.created);
    }
    let mut demand = NamespaceDemand::default();
    let mut asking: BTreeMap<(String, String), Vec<(Group<'a>, KeyDemand)>> = BTreeMap::new();
    for group in groups.into_values() {
        if group.shape.needs_no_key() {
            continue;
        }
        match wanted(namespace, group.shape, metadata, policy) {
            None => demand.refused += group.pods,
            Some(Wanted {
                secret,
                data_key,
                demand,
            }) => {
                asking
                    .entry((secret, data_key))
                    .or_default()
                    .push((group, demand));
            }
        }
    }
    for ((secret, data_key), asking) in asking {
        let Some((_, newest)) = asking.iter().max_by_key(|(group, _)| group.newest) else {
            continue;
        };
        let differing = asking.iter().filter(|(_, key)| key.asked != newest.asked);
        let key = KeyDemand {
            pods: asking.iter().map(|(group, _)| group.pods).sum(),
            differing: differing.map(|(group, _)| group.pods).sum(),
            since: asking
                .iter()
                .map(|(group, _)| group.since)
                .min()
                .unwrap_or(newest.since),
            ..newest.clone()
        };
        demand
            .secrets
            .entry(secret)
            .or_default()
            .insert(data_key, key);
    }
    demand
}

/// What pods of this shape need; none where policy gives them nothing.
fn wanted(
    namespace: &str,
    shape: &Shape,
    metadata: Option<&NamespaceMetadata>,
    policy: &Policy,
) -> Option<Wanted> {
    if metadata
        .and_then(|metadata| metadata.inject.as_deref())
        .is_some_and(|inject| matches!(inject, "disabled" | "false"))
    {
        return None;
    }
    let receipt = shape.receipt()?;
    let annotations = AsReceipted {
        shape,
        receipt: &receipt,
    };
    let subject = Subject {
        namespace,
        name: &shape.name,
        annotations: &annotations,
        labels: &Labels(&shape.labels),
        owner: shape
            .owner
            .as_ref()
            .map(|(kind, name)| Owner { kind, name }),
        namespace_metadata: metadata,
        // The receipt shows that the pod had opted in, whatever the namespace's label says by now.
        namespace_opted_in: true,
    };
    let sidecar = match decide(&subject, policy) {
        Decision::Inject(injection) => injection.tailscale?,
        Decision::Deny(_) | Decision::Skip(_) => return None,
    };
    let key = match sidecar.key {
        Key::Managed(key) => key,
        Key::Given { .. } => return None,
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
    let allowed = policy
        .profiles
        .values()
        .any(|profile| profile.auth_key_secret_name == receipt.secret);
    if !allowed || data_key != receipt.data_key {
        return None;
    }
    tags.sort();
    tags.dedup();
    let demand = KeyDemand {
        service: sidecar.service,
        control_plane: sidecar.control_plane,
        asked: Asked {
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
    };
    Some(Wanted {
        secret: receipt.secret.into_owned(),
        data_key,
        demand,
    })
}

#[cfg(test)]
mod tests;

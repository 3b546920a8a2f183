//! Injected pods -> the keys they need: the webhook's own decision, asked again with what its receipt names. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_webhook::annotations::{
    Decision, Key, Lookup, ManagedKey, NamespaceMetadata, PREFIX, Subject, decide,
};
use sidescale_webhook::identity::Owner;
use sidescale_webhook::profile::Policy;
use sidescale_webhook::sidecar::{Injected, Receipt};

use super::record::Asked;

/// Is the annotation that holds the webhook's receipt.
const RECEIPT: &str = "sidescale.io/status";
const SERVICE: &str = "sidescale.io/service";
const CONTROL_PLANE: &str = "sidescale.io/control-plane";

/// Labels that an identity is read from; all others, some of them different on every pod, are not kept.
const IDENTITY_LABELS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// Holds all that decides a pod's key. The pods of one ReplicaSet share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    annotations: Vec<(Box<str>, Box<str>)>,
    labels: Vec<(Box<str>, Box<str>)>,
    owner: Option<(Box<str>, Box<str>)>,
    // Only where no owner gives one.
    name: Box<str>,
}

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

impl Shape {
    /// Keeps what decides from a pod's metadata.
    #[must_use]
    pub fn new<'a>(
        name: &str,
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        owner: Option<Owner<'_>>,
    ) -> Self {
        let mut shape = Self {
            annotations: annotations
                .filter(|(key, _)| key.starts_with(PREFIX))
                .map(boxed)
                .collect(),
            labels: labels
                .filter(|(key, _)| IDENTITY_LABELS.contains(key))
                .map(boxed)
                .collect(),
            owner: owner.map(|owner| boxed((owner.kind, owner.name))),
            name: if owner.is_none() {
                name.into()
            } else {
                Box::default()
            },
        };
        shape.annotations.sort();
        shape.labels.sort();
        shape
    }

    /// Which key the pod refers to, as the webhook wrote it down.
    fn receipt(&self) -> Option<Injected<'_>> {
        let (_, text) = self.annotations.iter().find(|(key, _)| &**key == RECEIPT)?;
        let receipt: Receipt<'_> = serde_json::from_str(text).ok()?;
        receipt.injected.filter(|injected| !injected.own_key)
    }
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
    let injection = match decide(&subject, policy) {
        Decision::Inject(injection) => injection,
        Decision::Deny(_) | Decision::Skip(_) => return None,
    };
    let key = match injection.key {
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
        service: injection.service,
        control_plane: injection.control_plane,
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

fn boxed((key, value): (&str, &str)) -> (Box<str>, Box<str>) {
    (key.into(), value.into())
}

fn find<'a>(entries: &'a [(Box<str>, Box<str>)], key: &str) -> Option<&'a str> {
    entries
        .iter()
        .find(|(name, _)| &**name == key)
        .map(|(_, value)| &**value)
}

/// A pod's annotations, where the receipt's service and control plane take the place of what was asked.
#[derive(Clone, Copy)]
struct AsReceipted<'a> {
    shape: &'a Shape,
    receipt: &'a Injected<'a>,
}

impl fmt::Debug for AsReceipted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape.annotations.fmt(f)
    }
}

impl Lookup for AsReceipted<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            SERVICE => Some(&self.receipt.service),
            CONTROL_PLANE => Some(&self.receipt.control_plane),
            RECEIPT => None,
            other => find(&self.shape.annotations, other),
        }
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let replaced = [SERVICE, CONTROL_PLANE, RECEIPT];
        let rest = self
            .shape
            .annotations
            .iter()
            .map(|(key, value)| (&**key, &**value));
        let receipt = [
            (SERVICE, &*self.receipt.service),
            (CONTROL_PLANE, &*self.receipt.control_plane),
        ];
        Box::new(
            receipt
                .into_iter()
                .chain(rest.filter(move |(key, _)| !replaced.contains(key))),
        )
    }
}

#[derive(Debug)]
struct Labels<'a>(&'a [(Box<str>, Box<str>)]);

impl Lookup for Labels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        find(self.0, key)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(
            self.0
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .filter(|(key, _)| key.starts_with(PREFIX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let mut policy = Policy::for_login_server("https://headscale.example.org").unwrap();
        let profile = policy.profiles.get_mut("default").unwrap();
        profile.allowed_tags = vec!["tag:web".to_owned(), "tag:b".to_owned()];
        policy
    }

    fn receipt(service: &str, secret: &str) -> String {
        format!(
            r#"{{"version":"0.1.0","decision":"inject","profile":"default","profileHash":"0","service":"{service}",
            "controlPlane":"default","secret":"{secret}","dataKey":"{service}-authkey"}}"#
        )
    }

    fn shape(service: &str, more: &[(&str, &str)]) -> Arc<Shape> {
        let receipt = receipt(service, "headscale-auth-keys");
        let annotations = [
            (RECEIPT, receipt.as_str()),
            ("sidescale.io/inject", "tailscale"),
        ];
        let labels = [("pod-template-hash", "6d4cf56db6"), ("app", "x")];
        let owner = Owner {
            kind: "ReplicaSet",
            name: "api-6d4cf56db6",
        };
        let annotations: BTreeMap<_, _> = annotations
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        Arc::new(Shape::new(
            "api-6d4cf56db6-abcde",
            annotations.into_iter(),
            labels.into_iter(),
            Some(owner),
        ))
    }

    fn pod(shape: &Arc<Shape>, second: i64) -> PodSeen<'_> {
        PodSeen {
            created: Timestamp::from_second(second).unwrap(),
            uid: 1,
            shape,
        }
    }

    fn demand(pods: &[PodSeen<'_>], metadata: Option<&NamespaceMetadata>) -> NamespaceDemand {
        of_namespace("shop", pods.iter().copied(), metadata, &policy())
    }

    #[test]
    fn pods_of_one_service_need_one_key_and_the_newest_decides() {
        let old = shape("api", &[("sidescale.io/tags", "tag:web")]);
        let new = shape(
            "api",
            &[
                ("sidescale.io/tags", "tag:web,tag:b"),
                ("sidescale.io/reusable", "true"),
            ],
        );
        let demand = demand(&[pod(&old, 10), pod(&old, 20), pod(&new, 30)], None);
        let key = &demand.secrets["headscale-auth-keys"]["api-authkey"];
        assert_eq!(key.asked.tags, ["tag:b", "tag:web"]);
        assert_eq!(key.asked.user, "shop.api");
        assert_eq!((key.pods, key.differing), (3, 2));
        assert_eq!(key.since.as_second(), 10);
        assert_eq!(demand.refused, 0);
    }

    #[test]
    fn the_receipt_names_the_key_even_if_the_owner_would_name_another() {
        let shape = shape("shown", &[]);
        let demand = demand(&[pod(&shape, 1)], None);
        let keys = &demand.secrets["headscale-auth-keys"];
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["shown-authkey"]);
        assert_eq!(keys["shown-authkey"].asked.user, "shop.shown");
    }

    #[test]
    fn who_may_have_none_gets_none() {
        let good = shape("api", &[]);
        let forged = |receipt: &str| {
            let annotations = [(RECEIPT, receipt), ("sidescale.io/inject", "tailscale")];
            Arc::new(Shape::new(
                "x",
                annotations.into_iter(),
                std::iter::empty(),
                None,
            ))
        };
        let other_secret = forged(&receipt("api", "stripe-keys"));
        let other_key =
            forged(&receipt("api", "headscale-auth-keys").replace("api-authkey", "db-authkey"));
        let other_plane = forged(
            &receipt("api", "headscale-auth-keys")
                .replace("\"controlPlane\":\"default\"", "\"controlPlane\":\"x\""),
        );
        let own_key = forged(
            &receipt("api", "headscale-auth-keys")
                .replace("api-authkey\"", "api-authkey\",\"ownKey\":true"),
        );
        let off = shape("api", &[("sidescale.io/inject", "false")]);
        let bad_tag = shape("api", &[("sidescale.io/tags", "tag:admin")]);
        let garbage = forged("{");
        let none = Arc::new(Shape::new(
            "x",
            std::iter::empty(),
            std::iter::empty(),
            None,
        ));
        let disabled = |value: &str| NamespaceMetadata {
            inject: Some(value.to_owned()),
            ..NamespaceMetadata::default()
        };
        assert_eq!(
            demand(&[pod(&good, 1)], Some(&disabled("tailscale")))
                .secrets
                .len(),
            1
        );
        let table = [
            ("a disabled namespace", &good, Some(disabled("disabled"))),
            ("a namespace switched off", &good, Some(disabled("false"))),
            ("a Secret of somebody else", &other_secret, None),
            ("a data key of another service", &other_key, None),
            ("a control plane that is not there", &other_plane, None),
            ("a key of its own", &own_key, None),
            ("a pod switched off", &off, None),
            ("a tag that is not allowed", &bad_tag, None),
            ("a receipt that is none", &garbage, None),
            ("no receipt", &none, None),
        ];
        for (name, shape, metadata) in table {
            let demand = demand(&[pod(shape, 1)], metadata.as_ref());
            assert!(demand.secrets.is_empty(), "{name}");
            assert_eq!(demand.refused, 1, "{name}");
        }
    }
}

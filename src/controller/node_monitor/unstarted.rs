//! Pods that checks of the tailnet do not cover: reads them, and reports containers that wait for a Secret. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::notice::{About, Notice};
use sidescale_core::quote::{name, quoted};
use sidescale_core::time::after;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::key_status::KeyStatus;
use sidescale_rotation::nodes::LATE_AFTER;
use sidescale_rotation::nodes::replicas::PodRef;
use sidescale_rotation::private_ca::DATA_KEY;
use sidescale_webhook::forms::{is_data_key, is_dns_subdomain};
use sidescale_webhook::keys::CONTAINER;
use tracing::{debug, warn};

use super::shared::{Connected, NodeMonitor};
use crate::pods::PodFound;
use crate::pods::start::Lack;

/// Age at which a pod is read if rotation creates no key for it: nothing that it waits for is on its way.
const FIRST_READ: Duration = Duration::from_secs(20);

/// A pod that has not started is read again after its own age, but at least and at most after these.
const AGAIN: (Duration, Duration) = (Duration::from_secs(100), Duration::from_secs(3_600));

/// Maximum number of reads in one round.
const MOST_READ: usize = 16;

/// Maximum number of data keys in a message.
const MOST_KEYS: usize = 4;

/// Who creates the key that a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    /// The pod's author: `auth-key-secret` names it.
    Author,
    /// Rotation; none if it has not decided about the key, or creates none for this pod.
    Rotation(Option<KeyStatus>),
}

/// A pod's reference to its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyReference<'a> {
    namespace: &'a str,
    pod: &'a PodRef,
    secret: &'a str,
    data_key: &'a str,
    source: KeySource,
}

impl<'a> KeyReference<'a> {
    /// Returns the reference of a pod to a data key of a Secret in its namespace.
    pub(super) fn new(
        namespace: &'a str,
        pod: &'a PodRef,
        (secret, data_key): (&'a str, &'a str),
        source: KeySource,
    ) -> Self {
        Self {
            namespace,
            pod,
            secret,
            data_key,
            source,
        }
    }

    /// Returns whether Secret and data key are safe to show in a command: they come from annotations of the pod's author.
    fn is_sound(&self) -> bool {
        is_dns_subdomain(self.secret, 253) && is_data_key(self.data_key)
    }
}

/// When pods are read next, by their uid; never again once their container has started.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: BTreeMap<u128, Option<Timestamp>>,
    /// The namespace served last.
    last: String,
}

impl Reads {
    /// Returns whether a pod is due.
    fn is_due(&self, now: Timestamp, pod: &PodRef, first: Duration) -> bool {
        let next = self.next.get(&pod.uid).copied();
        let next = next.unwrap_or_else(|| Some(after(pod.created, first)));
        next.is_some_and(|next| now >= next)
    }

    fn again(&mut self, now: Timestamp, pod: &PodRef) {
        let age = now.duration_since(pod.created).unsigned_abs();
        let (least, most) = AGAIN;
        let next = after(now, age.clamp(least, most));
        self.next.insert(pod.uid, Some(next));
    }

    fn never_again(&mut self, pod: &PodRef) {
        self.next.insert(pod.uid, None);
    }

    fn keep_only(&mut self, pods: &BTreeSet<u128>) {
        self.next.retain(|uid, _| pods.contains(uid));
    }
}

impl NodeMonitor {
    /// Reads pods whose key rotation does not or cannot create: nothing else tells why they do not start.
    pub(super) async fn look_at_unstarted(&self, reads: &mut Reads, up: &Connected) {
        let demands = self.demands.borrow().clone();
        if !demands.synced {
            return;
        }
        let (mut there, mut due) = (BTreeSet::new(), Vec::new());
        let now = self.context.clock.now();
        for (reference, first) in self.candidates(&demands, up) {
            let pod = reference.pod;
            there.insert(pod.uid);
            if reads.is_due(now, pod, first) {
                due.push(reference);
            }
        }
        reads.keep_only(&there);
        for reference in in_turn(&due, &reads.last) {
            let KeyReference {
                namespace,
                pod,
                secret,
                data_key,
                source: _,
            } = reference;
            reads.last.clear();
            reads.last.push_str(namespace);
            let pods = &self.context.pods;
            let found = pods.read(namespace, &pod.name, pod.uid, CONTAINER).await;
            let now = self.context.clock.now();
            match found {
                PodFound::Gone | PodFound::There { started: true, .. } => {
                    reads.never_again(pod);
                }
                PodFound::There { lack: None, .. } => reads.again(now, pod),
                PodFound::There {
                    lack: Some(lack), ..
                } => {
                    reads.again(now, pod);
                    let notice = notice(&reference, &lack);
                    if self.context.events.publish(&notice) {
                        warn!(
                            namespace,
                            pod = &*pod.name,
                            secret = &*name(secret),
                            data_key = &*name(data_key),
                            lack = notice.reason,
                            "Container cannot start"
                        );
                    }
                }
                PodFound::Unknown(problem) => {
                    reads.again(now, pod);
                    debug!(
                        namespace,
                        pod = &*pod.name,
                        error = problem,
                        "Failed to read pod"
                    );
                    // The API server would not answer the other reads either.
                    return;
                }
            }
        }
    }

    /// Returns the pods to read, each with the age at which that makes sense.
    fn candidates<'a>(
        &self,
        demands: &'a Demands,
        up: &Connected,
    ) -> Vec<(KeyReference<'a>, Duration)> {
        let mut found = Vec::new();
        for (namespace, demand) in &demands.namespaces {
            for unserved in &demand.unserved {
                let source = if unserved.own {
                    KeySource::Author
                } else {
                    KeySource::Rotation(None)
                };
                let key = (&*unserved.secret, &*unserved.data_key);
                let pods = unserved.pods.iter();
                let references = pods.map(|pod| KeyReference::new(namespace, pod, key, source));
                found.extend(references.map(|reference| (reference, FIRST_READ)));
            }
            // While a control plane is unavailable, its nodes are not checked, and missing keys are not created.
            let of_others = demand.replica_groups.iter();
            for fleet in of_others.filter(|fleet| !up.contains_key(&fleet.control_plane)) {
                let key = (&*fleet.secret, &*fleet.data_key);
                let status = self.key(namespace, key.0, key.1);
                if status.is_none_or(|status| status.key.is_some()) {
                    continue;
                }
                let pods = fleet.pods.iter();
                let source = KeySource::Rotation(status);
                let references = pods.map(|pod| KeyReference::new(namespace, pod, key, source));
                found.extend(references.map(|reference| (reference, LATE_AFTER)));
            }
        }
        found
    }
}

/// Selects as many as are read in one round, one of each namespace in turn, starting after namespace `last`: a namespace with
/// many pods does not delay the others.
fn in_turn<'a>(due: &[KeyReference<'a>], last: &str) -> Vec<KeyReference<'a>> {
    // They are sorted by namespace.
    let mut namespaces: Vec<_> = due
        .chunk_by(|one, other| one.namespace == other.namespace)
        .collect();
    let first = namespaces.partition_point(|of_one| {
        let namespace = of_one.first().map(|reference| reference.namespace);
        namespace <= Some(last)
    });
    namespaces.rotate_left(first);
    let longest = namespaces.iter().map(|of_one| of_one.len()).max();
    let rounds = 0..longest.unwrap_or_default();
    let all = rounds.flat_map(|round| {
        namespaces
            .iter()
            .filter_map(move |of_one| of_one.get(round))
    });
    all.take(MOST_READ).copied().collect()
}

/// Returns the Event about a container that cannot start.
pub(super) fn notice(reference: &KeyReference<'_>, lack: &Lack) -> Notice {
    let pod = reference.pod;
    Notice {
        namespace: reference.namespace.to_owned(),
        about: About::pod(&pod.name, pod.uid),
        warning: true,
        reason: reason(lack),
        note: note(reference, lack),
    }
}

fn reason(lack: &Lack) -> &'static str {
    match lack {
        Lack::Secret { .. } => "SecretMissing",
        Lack::Key { .. } => "KeyMissing",
        Lack::Volume { .. } => "VolumeMissing",
    }
}

/// Names container, Secret and data key, and says what to do next.
fn note(reference: &KeyReference<'_>, lack: &Lack) -> String {
    let KeyReference { namespace, pod, .. } = reference;
    let pod = &pod.name;
    let secret = name(lack.secret());
    // Only the kubelet is certain which Secret is missing; if the pod's reference differs, the note says so.
    let what = match lack {
        Lack::Secret { .. } => format!("Secret {namespace}/{secret} does not exist"),
        Lack::Key { key, .. } => {
            format!("Secret {namespace}/{secret} has no data key {}", name(key))
        }
        Lack::Volume { keys, .. } => {
            let keys: Vec<_> = keys.iter().take(MOST_KEYS).map(|key| name(key)).collect();
            format!(
                "its volumes are not ready, and one of them needs data key {} of Secret {namespace}/{secret} (kubectl \
                 describe pod -n {namespace} {pod} shows whether that one is missing)",
                keys.join(" or ")
            )
        }
    };
    let next = if !reference.is_sound() {
        let (secret, data_key) = (quoted(reference.secret), quoted(reference.data_key));
        format!(
            "annotation sidescale.io/status of the pod names Secret {secret} and data key {data_key}, which are not valid \
             names: it was not written by Sidescale. The pod that replaces this one gets a correct annotation: kubectl \
             delete pod -n {namespace} {pod}"
        )
    } else if lack.secret() == reference.secret {
        next(reference, lack)
    } else {
        format!(
            "this is not the Secret of its key, which is {}",
            reference.secret
        )
    };
    format!(
        "container {CONTAINER} cannot start: {what}; {next}. It starts by itself once the key exists"
    )
}

fn next(reference: &KeyReference<'_>, lack: &Lack) -> String {
    let KeyReference {
        namespace,
        pod,
        secret,
        data_key,
        source,
    } = reference;
    let pod = &pod.name;
    match source {
        KeySource::Author if matches!(lack, Lack::Secret { .. }) => format!(
            "annotation sidescale.io/auth-key-secret names it: create it with the key under {data_key} (kubectl create \
             secret generic -n {namespace} {secret} --from-file={data_key}=FILE), or correct the annotation"
        ),
        KeySource::Author => format!(
            "annotation sidescale.io/auth-key-secret expects the key under {data_key}{}: put it there, or correct the \
             annotation (kubectl describe secret -n {namespace} {secret} lists its data keys)",
            beside(lack)
        ),
        KeySource::Rotation(Some(KeyStatus { state, key: None })) => format!(
            "Sidescale has not created key {data_key} yet, and its state is {}: kubectl events -n {namespace} --for \
             secret/{secret} says what to do",
            state.as_str()
        ),
        KeySource::Rotation(Some(KeyStatus {
            state,
            key: Some(_),
        })) => format!(
            "Sidescale has created key {data_key}, and its state is {}: if the pod still waits in a minute, kubectl events \
             -n {namespace} --for secret/{secret} says more",
            state.as_str()
        ),
        KeySource::Rotation(None) => format!(
            "Sidescale creates no key {data_key} for this pod: its namespace was switched off, or the configuration no \
             longer allows what its annotations request. Creating the pod again shows why: kubectl delete pod -n {namespace} \
             {pod}"
        ),
    }
}

/// Returns what the author's Secret needs in addition to the key.
fn beside(lack: &Lack) -> String {
    match lack {
        Lack::Volume { keys, .. } if keys.iter().any(|key| key == DATA_KEY) => {
            format!(
                ", and the PEM of the control plane's private certificate authority under {DATA_KEY}"
            )
        }
        Lack::Volume { .. } | Lack::Secret { .. } | Lack::Key { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests;

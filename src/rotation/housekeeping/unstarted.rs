//! Pods that no look at the tailnet tells of: read once, and told if their container waits for a Secret. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use super::findings::CONTAINER;
use super::{Keeper, Up};
use crate::clock::after;
use crate::events::{About, Notice};
use crate::pods::PodFound;
use crate::pods::start::Lack;
use crate::rotation::demand::Demands;
use crate::rotation::fleet::Member;
use crate::rotation::nodes::LATE_AFTER;
use crate::rotation::private_ca::DATA_KEY;
use crate::rotation::standing::Standing;

/// A pod that rotation makes no key for is read at this age: nothing that it waits for is on its way.
const FIRST_READ: Duration = Duration::from_secs(20);

/// One that has not started is read again when it is twice as old, at least and at most after this long.
const AGAIN: (Duration, Duration) = (Duration::from_secs(100), Duration::from_secs(3_600));

/// Bounds the reads that follow one look.
const MOST_READ: usize = 16;

/// Who makes the key that a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its author: `auth-key-secret` names it.
    Author,
    /// Rotation; none if it has not decided for that key, or makes none for this pod.
    Rotation(Option<Standing>),
}

/// A pod's reference to its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference<'a> {
    namespace: &'a str,
    pod: &'a Member,
    secret: &'a str,
    data_key: &'a str,
    source: Source,
}

impl<'a> Reference<'a> {
    /// The reference of a pod to a data key of a Secret in its namespace.
    pub(super) fn new(
        namespace: &'a str,
        pod: &'a Member,
        (secret, data_key): (&'a str, &'a str),
        source: Source,
    ) -> Self {
        Self {
            namespace,
            pod,
            secret,
            data_key,
            source,
        }
    }
}

/// When pods are read next, by their uid; never again once their container has started.
#[derive(Debug, Default)]
pub(super) struct Reads(BTreeMap<u128, Option<Timestamp>>);

impl Reads {
    /// Whether a pod's time has come.
    fn is_due(&self, now: Timestamp, pod: &Member, first: Duration) -> bool {
        let next = self.0.get(&pod.uid).copied();
        let next = next.unwrap_or_else(|| Some(after(pod.created, first)));
        next.is_some_and(|next| now >= next)
    }

    fn again(&mut self, now: Timestamp, pod: &Member) {
        let age = now.duration_since(pod.created).unsigned_abs();
        let (least, most) = AGAIN;
        let next = after(now, age.clamp(least, most));
        self.0.insert(pod.uid, Some(next));
    }

    fn never_again(&mut self, pod: &Member) {
        self.0.insert(pod.uid, None);
    }

    fn keep_only(&mut self, pods: &BTreeSet<u128>) {
        self.0.retain(|uid, _| pods.contains(uid));
    }
}

impl Keeper {
    /// Reads pods whose key rotation does not make, or cannot: nothing else tells why they do not start.
    pub(super) async fn look_at_unstarted(&mut self, up: &Up) {
        let demands = self.demands.borrow().clone();
        if !demands.synced {
            return;
        }
        let (mut there, mut due) = (BTreeSet::new(), Vec::new());
        for (reference, first) in self.candidates(&demands, up) {
            let pod = reference.pod;
            there.insert(pod.uid);
            let now = self.context.clock.now();
            if due.len() < MOST_READ && self.reads.is_due(now, pod, first) {
                due.push(reference);
            }
        }
        self.reads.keep_only(&there);
        for reference in due {
            let Reference {
                namespace,
                pod,
                secret,
                data_key,
                source: _,
            } = reference;
            let pods = &self.context.pods;
            let found = pods.read(namespace, &pod.name, pod.uid, CONTAINER).await;
            let now = self.context.clock.now();
            match found {
                PodFound::Gone | PodFound::There { started: true, .. } => {
                    self.reads.never_again(pod);
                }
                PodFound::There { lack: None, .. } => self.reads.again(now, pod),
                PodFound::There {
                    lack: Some(lack), ..
                } => {
                    self.reads.again(now, pod);
                    let lack_name = reason(&lack);
                    let pod_name = &*pod.name;
                    warn!(
                        namespace,
                        pod = pod_name,
                        secret,
                        data_key,
                        lack = lack_name,
                        "Container cannot start"
                    );
                    let notice = notice(&reference, &lack);
                    self.context.events.publish(&notice).await;
                }
                PodFound::Unknown(trouble) => {
                    self.reads.again(now, pod);
                    debug!(namespace, pod = &*pod.name, trouble, "Pod cannot be read");
                    // The others would not be answered either.
                    return;
                }
            }
        }
    }

    /// The pods to read, each with the age at which that makes sense.
    fn candidates<'a>(&self, demands: &'a Demands, up: &Up) -> Vec<(Reference<'a>, Duration)> {
        let mut found = Vec::new();
        for (namespace, demand) in &demands.namespaces {
            for unserved in &demand.unserved {
                let source = if unserved.own {
                    Source::Author
                } else {
                    Source::Rotation(None)
                };
                let key = (&*unserved.secret, &*unserved.data_key);
                let pods = unserved.pods.iter();
                let references = pods.map(|pod| Reference::new(namespace, pod, key, source));
                found.extend(references.map(|reference| (reference, FIRST_READ)));
            }
            // While a control plane is away its nodes are not looked at, and a key that is not there does not come.
            let of_others = demand.fleets.iter();
            for fleet in of_others.filter(|fleet| !up.contains_key(&fleet.control_plane)) {
                let key = (&*fleet.secret, &*fleet.data_key);
                let standing = self.standings.of(namespace, key.0, key.1);
                if standing.is_none_or(|standing| standing.key.is_some()) {
                    continue;
                }
                let pods = fleet.pods.iter();
                let source = Source::Rotation(standing);
                let references = pods.map(|pod| Reference::new(namespace, pod, key, source));
                found.extend(references.map(|reference| (reference, LATE_AFTER)));
            }
        }
        found
    }
}

/// What a pod's owner is told of a container that cannot start.
pub(super) fn notice(reference: &Reference<'_>, lack: &Lack) -> Notice {
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
fn note(reference: &Reference<'_>, lack: &Lack) -> String {
    let Reference { namespace, pod, .. } = reference;
    let pod = &pod.name;
    // The kubelet says for certain which Secret it is; a reference of somebody else's is told as that.
    let (what, secret) = match lack {
        Lack::Secret { secret } => (format!("there is no Secret {namespace}/{secret}"), secret),
        Lack::Key { secret, key } => (
            format!("Secret {namespace}/{secret} has no data key {key}"),
            secret,
        ),
        Lack::Volume { secret, keys } => (
            format!(
                "its volumes are not ready, and one of them is data key {} of Secret {namespace}/{secret} \
                 (kubectl describe pod -n {namespace} {pod} says whether it is that one)",
                keys.join(" or ")
            ),
            secret,
        ),
    };
    let next = if secret == reference.secret {
        next(reference, lack)
    } else {
        format!(
            "that is not the Secret that its key comes from, {}",
            reference.secret
        )
    };
    format!(
        "container {CONTAINER} cannot start: {what}; {next}. It starts by itself once the key is there"
    )
}

fn next(reference: &Reference<'_>, lack: &Lack) -> String {
    let Reference {
        namespace,
        pod,
        secret,
        data_key,
        source,
    } = reference;
    let pod = &pod.name;
    match source {
        Source::Author if matches!(lack, Lack::Secret { .. }) => format!(
            "annotation sidescale.io/auth-key-secret names it: make it with the key under {data_key} (kubectl create \
             secret generic -n {namespace} {secret} --from-file={data_key}=FILE), or correct the annotation"
        ),
        Source::Author => format!(
            "annotation sidescale.io/auth-key-secret wants the key under {data_key}{}: put it there, or correct the \
             annotation (kubectl describe secret -n {namespace} {secret} lists the data keys that there are)",
            beside(lack)
        ),
        Source::Rotation(Some(Standing { state, key: None })) => format!(
            "rotation has not made key {data_key} yet, and its state is {}: kubectl events -n {namespace} --for \
             secret/{secret} says what to do",
            state.as_str()
        ),
        Source::Rotation(Some(Standing {
            state,
            key: Some(_),
        })) => format!(
            "rotation has made key {data_key}, and its state is {}: if the pod still waits in a minute, kubectl events -n \
             {namespace} --for secret/{secret} says more",
            state.as_str()
        ),
        Source::Rotation(None) => format!(
            "rotation makes no key {data_key} for this pod: its namespace was switched off, or the configuration no \
             longer allows what its annotations ask for. The pod that follows it is told why: kubectl delete pod -n \
             {namespace} {pod}"
        ),
    }
}

/// What the author's Secret has to hold beside the key.
fn beside(lack: &Lack) -> String {
    match lack {
        Lack::Volume { keys, .. } if keys.iter().any(|key| key == DATA_KEY) => {
            format!(", and the PEM of the control plane's private authority under {DATA_KEY}")
        }
        Lack::Volume { .. } | Lack::Secret { .. } | Lack::Key { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::KeyId;
    use crate::rotation::state::State;

    fn pod() -> Member {
        Member {
            created: Timestamp::UNIX_EPOCH,
            uid: 7,
            name: "web-0".into(),
        }
    }

    fn told(source: Source, lack: &Lack) -> String {
        let pod = pod();
        let reference = Reference::new("shop", &pod, ("keys", "web-authkey"), source);
        notice(&reference, lack).note
    }

    fn mounts(keys: &[&str]) -> Lack {
        Lack::Volume {
            secret: "keys".into(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        }
    }

    #[test]
    fn names_the_authority_where_it_may_be_what_is_missing() {
        let (authority, both) = (mounts(&["ca.crt"]), mounts(&["web-authkey", "ca.crt"]));
        for (lack, named) in [
            (&authority, "data key ca.crt of Secret shop/keys"),
            (&both, "data key web-authkey or ca.crt of Secret shop/keys"),
        ] {
            let note = told(Source::Author, lack);
            assert!(note.contains(named), "{note}");
            assert!(
                note.contains("private authority under ca.crt: put it there"),
                "{note}"
            );
            let note = told(Source::Rotation(None), lack);
            assert!(note.contains(named), "{note}");
        }
        let note = told(Source::Author, &mounts(&["web-authkey"]));
        assert!(!note.contains("ca.crt"), "{note}");
    }

    #[test]
    fn names_container_secret_and_data_key_and_what_to_do() {
        let secret = Lack::Secret {
            secret: "keys".into(),
        };
        let key = Lack::Key {
            secret: "keys".into(),
            key: "web-authkey".into(),
        };
        let volume = mounts(&["web-authkey"]);
        let made = |key, state| {
            let key = Some(KeyId(7)).filter(|_| key);
            Source::Rotation(Some(Standing { state, key }))
        };
        let table = [
            (
                Source::Author,
                &secret,
                "kubectl create secret generic -n shop keys --from-file=web-authkey=FILE",
            ),
            (Source::Author, &key, "kubectl describe secret -n shop keys"),
            (
                Source::Author,
                &volume,
                "kubectl describe pod -n shop web-0",
            ),
            (
                made(false, State::NoCredentials),
                &key,
                "its state is NoCredentials: kubectl events -n shop --for secret/keys",
            ),
            (
                made(false, State::QuotaExceeded),
                &secret,
                "its state is QuotaExceeded",
            ),
            (made(true, State::Ready), &key, "its state is Ready"),
            (
                Source::Rotation(None),
                &key,
                "kubectl delete pod -n shop web-0",
            ),
        ];
        for (source, lack, command) in table {
            let note = told(source, lack);
            for part in [
                "container tailscale",
                "Secret shop/keys",
                "web-authkey",
                command,
            ] {
                assert!(note.contains(part), "{part}: {note}");
            }
            assert!(note.len() < 900, "an Event takes a kilobyte: {note}");
        }
        let other = Lack::Secret { secret: "x".into() };
        let note = told(Source::Author, &other);
        assert!(
            note.contains("Secret shop/x;") && note.contains("comes from, keys"),
            "{note}"
        );
    }

    #[test]
    fn a_pod_is_read_once_before_it_is_late_and_ever_more_rarely_after() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pod = pod();
        let mut reads = Reads::default();
        let mut times = Vec::new();
        for second in 0..7_200 {
            if reads.is_due(at(second), &pod, FIRST_READ) {
                times.push(second);
                reads.again(at(second), &pod);
            }
        }
        assert_eq!(times, [20, 120, 240, 480, 960, 1_920, 3_840]);
        reads.never_again(&pod);
        assert!(!reads.is_due(at(1_000_000), &pod, FIRST_READ));
        reads.keep_only(&BTreeSet::new());
        assert!(
            reads.is_due(at(1_000_000), &pod, FIRST_READ),
            "forgotten with its pod"
        );
    }
}

//! Pods that share user and hostname beside the nodes of that name: how many are missing, and which. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_webhook::identity::POD_SECRET;

use super::checkpoint::NodeCheckpoint;
use super::report::{KeyOf, LATE_AFTER, NodeFinding, NodeReport, NodeState, PodOwner};
use crate::clock::after;
use crate::control_plane::KeyId;
use crate::rotation::owner::ServiceOwner;
use crate::rotation::replicas::{PodRef, ReplicaGroup};
use crate::rotation::tailnet::{JoinedNode, Tailnet};

/// The clocks of Headscale and the API server may be this far apart.
const SKEW: Duration = Duration::from_secs(60);

/// A node has to be missing at so many looks: one list may have come in the middle of its return.
const LOOKS: u32 = 2;

/// What earlier looks have shown of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    joined: BTreeSet<u128>,
    /// Pods of which it is certain.
    lost: BTreeSet<u128>,
    /// Those that never had one, as far as is known, and when they were made.
    pub(super) waiting: Vec<(u128, Timestamp)>,
    missing_for: u32,
}

/// The pods of a group, the oldest first, and how many of which have no node.
struct Compared {
    /// All of these.
    lost: Vec<PodRef>,
    /// So many of `suspects`, and nobody can tell which.
    of_suspects: usize,
    /// Those that had joined, and of which no node tells that they still are.
    suspects: Vec<PodRef>,
    /// Never had one yet.
    waiting: Vec<PodRef>,
}

/// The nodes that may be a group's.
struct CandidateNodes {
    /// The pods whose own key some node has joined with: those are certain.
    seated: BTreeSet<u128>,
    /// So many nodes more, and nobody can tell whose each is.
    others: usize,
}

/// Pods that share user and hostname; keys of single pods have a fleet each.
#[derive(Default)]
pub(super) struct NodeGroup<'a> {
    pub(super) namespace: &'a str,
    pub(super) fleets: Vec<&'a ReplicaGroup>,
}

impl<'a> NodeGroup<'a> {
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRef> {
        self.fleets.iter().flat_map(|fleet| &fleet.pods)
    }

    /// The place of one, where nobody can tell which.
    pub(super) fn place(&self) -> Option<PodOwner> {
        Some(self.place_of(self.fleets.first()?))
    }

    fn place_of(&self, fleet: &ReplicaGroup) -> PodOwner {
        PodOwner {
            namespace: self.namespace.to_owned(),
            service: fleet.service.clone(),
            secret: fleet.secret.clone(),
            data_key: fleet.data_key.clone(),
        }
    }

    /// Gives each node to the pod whose own key it joined with, as far as that is known.
    fn nodes(
        &self,
        nodes: impl Iterator<Item = &'a JoinedNode>,
        key_of: &KeyOf<'_>,
    ) -> CandidateNodes {
        let own = self
            .fleets
            .iter()
            .filter_map(|fleet| match &fleet.pods[..] {
                [pod] if fleet.secret == POD_SECRET => {
                    Some((key_of(&self.place_of(fleet))?, pod.uid))
                }
                _ => None,
            });
        let own: BTreeMap<KeyId, u128> = own.collect();
        let (mut seated, mut others) = (BTreeSet::new(), 0);
        for node in nodes {
            match node.key.and_then(|key| own.get(&key)) {
                Some(pod) => drop(seated.insert(*pod)),
                None => others += 1,
            }
        }
        CandidateNodes { seated, others }
    }
}

impl GroupState {
    /// Takes those for joined that had joined before this process began.
    pub(super) fn recall(&mut self, before: Option<&NodeCheckpoint>, group: &NodeGroup<'_>) {
        let Some(before) = before else {
            return;
        };
        let had = group.pods().filter(|pod| before.has_joined(pod));
        let had = had
            .map(|pod| pod.uid)
            .filter(|uid| !self.lost.contains(uid));
        self.joined.extend(had);
    }

    /// Holds the group's pods against the nodes of its user and hostname.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        (owner, hostname): (&ServiceOwner, Option<&str>),
        group: &NodeGroup<'_>,
        (tailnet, key_of): (&Tailnet, &KeyOf<'_>),
        look: &mut NodeReport,
    ) {
        let pods: BTreeSet<&PodRef> = group.pods().collect();
        let Some(oldest) = pods.first().map(|pod| pod.created) else {
            return;
        };
        let user = group.fleets.first().map_or("", |fleet| &fleet.user);
        let own = tailnet.of_service_or_adopted(owner, user);
        let strays = hostname.map(|name| tailnet.unowned(group.namespace, name));
        let nodes = own
            .chain(strays.into_iter().flatten())
            .filter(|node| hostname.is_none_or(|name| node.name == name) && may_be(node, oldest));
        let nodes = group.nodes(nodes, key_of);
        let missing = pods.len() - nodes.seated.len();
        let missing = missing.saturating_sub(nodes.others);
        look.counts.joined += pods.len() - missing;
        let Compared {
            lost,
            of_suspects,
            suspects,
            waiting,
        } = self.compare(&pods, missing, &nodes.seated);
        self.waiting = waiting.iter().map(|pod| (pod.uid, pod.created)).collect();
        let late: Vec<_> = waiting
            .iter()
            .filter(|pod| now >= after(pod.created, LATE_AFTER))
            .cloned()
            .collect();
        let late_count = late.len().min(missing - lost.len());
        let found = [
            (NodeState::Late, late_count, late),
            (NodeState::Lost, lost.len(), lost),
            (NodeState::Lost, of_suspects, suspects),
        ];
        let found = found.into_iter().filter(|(_, count, _)| *count > 0);
        for (state, count, suspects) in found {
            match state {
                NodeState::Late => look.counts.late += count,
                NodeState::Lost => look.counts.lost += count,
                NodeState::Joined | NodeState::Uninvited => {}
            }
            let finding = |place, count, of, pods| NodeFinding {
                state,
                user: user.to_owned(),
                place,
                count,
                of,
                pods,
                nodes: Vec::new(),
                expecting: !waiting.is_empty(),
            };
            if count < suspects.len() {
                let place = group.place();
                look.findings
                    .push(finding(place, count, pods.len(), suspects));
                continue;
            }
            // It is certain which they are, and so what key each has.
            for fleet in &group.fleets {
                let pods = suspects.iter().filter(|pod| fleet.pods.contains(pod));
                let pods: Vec<_> = pods.cloned().collect();
                if pods.is_empty() {
                    continue;
                }
                let place = Some(group.place_of(fleet));
                look.findings
                    .push(finding(place, pods.len(), fleet.pods.len(), pods));
            }
        }
    }

    /// Says of which pods the missing nodes are, as far as earlier looks tell.
    fn compare(
        &mut self,
        pods: &BTreeSet<&PodRef>,
        missing: usize,
        seated: &BTreeSet<u128>,
    ) -> Compared {
        let uids: BTreeSet<u128> = pods.iter().map(|pod| pod.uid).collect();
        self.joined.extend(seated);
        self.lost.retain(|uid| !seated.contains(uid));
        self.joined.retain(|uid| uids.contains(uid));
        self.lost.retain(|uid| uids.contains(uid));
        if missing < self.lost.len() {
            // Somebody came back, and nobody can tell who.
            self.joined.append(&mut self.lost);
        }
        if missing == self.lost.len() {
            let rest = uids.iter().filter(|uid| !self.lost.contains(uid));
            self.joined.extend(rest);
        }
        self.joined.retain(|uid| !self.lost.contains(uid));
        let of = |uids: &BTreeSet<u128>| {
            let pods = pods.iter().filter(|pod| uids.contains(&pod.uid));
            pods.map(|pod| PodRef::clone(pod)).collect::<Vec<_>>()
        };
        let waiting: BTreeSet<u128> = uids
            .into_iter()
            .filter(|uid| !self.joined.contains(uid) && !self.lost.contains(uid))
            .collect();
        let mut suspects = &self.joined - seated;
        let mut gone = (missing - self.lost.len()).saturating_sub(waiting.len());
        self.missing_for = if gone > 0 { self.missing_for + 1 } else { 0 };
        if self.missing_for < LOOKS {
            gone = 0;
        }
        if gone > 0 && gone == suspects.len() {
            // All that may be gone are gone: then it is certain.
            self.joined.retain(|uid| !suspects.contains(uid));
            self.lost.append(&mut suspects);
            self.missing_for = 0;
            gone = 0;
        }
        Compared {
            lost: of(&self.lost),
            of_suspects: gone,
            suspects: of(&suspects),
            waiting: of(&waiting),
        }
    }
}

/// Whether it may be the node of a pod that is not older than `oldest`: an ephemeral one is made anew for each pod.
fn may_be(node: &JoinedNode, oldest: Timestamp) -> bool {
    let skew = SignedDuration::try_from(SKEW).unwrap_or_default();
    let from = oldest.checked_sub(skew).unwrap_or(Timestamp::MIN);
    !node.ephemeral || node.created.is_none_or(|created| created >= from)
}

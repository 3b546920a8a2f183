//! Compares pods that share user and hostname with the nodes of that name: how many are missing, and which. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::time::after;
use sidescale_webhook::identity::POD_SECRET;

use super::checkpoint::NodeCheckpoint;
use super::report::{KeyOf, LATE_AFTER, NodeFinding, NodeReport, NodeState, PodOwner};
use crate::nodes::replicas::{PodRef, ReplicaGroup};
use crate::nodes::tailnet::{JoinedNode, Tailnet};
use crate::owner::ServiceOwner;

/// How many checks in a row a node has to be missing: one list may have come in the middle of its return.
const LOOKS: u32 = 2;

/// State of one group between checks.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    joined: BTreeSet<u128>,
    /// Pods that have certainly lost their node.
    lost: BTreeSet<u128>,
    /// Pods that never had a node, as far as known, and when they were created.
    pub(super) waiting: Vec<(u128, Timestamp)>,
    missing_for: u32,
}

/// The pods of a group without a node, oldest first.
struct Compared {
    /// Pods that have certainly lost their node.
    lost: Vec<PodRef>,
    /// How many of `suspects` lost their node; which ones is unknown.
    of_suspects: usize,
    /// Pods that had joined, and whose node may be gone.
    suspects: Vec<PodRef>,
    /// Pods that never had a node.
    waiting: Vec<PodRef>,
}

/// The nodes that may belong to a group.
struct CandidateNodes {
    /// Pods whose own key some node has joined with: these are certain.
    seated: BTreeSet<u128>,
    /// Number of further nodes; which pods they belong to is unknown.
    others: usize,
}

/// Pods that share user and hostname; a key of a single pod has its own replica group.
#[derive(Default)]
pub(super) struct NodeGroup<'a> {
    pub(super) namespace: &'a str,
    pub(super) fleets: Vec<&'a ReplicaGroup>,
}

impl<'a> NodeGroup<'a> {
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRef> {
        self.fleets.iter().flat_map(|fleet| &fleet.pods)
    }

    /// Returns the place of the first replica group, for findings that cannot name their pods.
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

    /// Assigns each node to the pod whose own key it joined with, if known.
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
    /// Marks pods as joined that had joined before this process started.
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

    /// Compares the group's pods with the nodes of its user and hostname.
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
        let nodes = tailnet.candidates(owner, user, hostname, oldest);
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
            // The pods are certain, and so are their keys.
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

    /// Returns which pods the missing nodes belong to, as far as earlier checks tell.
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
            // A node came back; which pod it belongs to is unknown.
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
            // All suspects are gone, so it is certain.
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

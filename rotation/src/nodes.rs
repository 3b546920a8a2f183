//! Compares injected pods with the node list: joined, late, lost, uninvited. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::time::after;

pub use checkpoint::{NodeCheckpoint, NodeCheckpoints};
use group::{GroupState, NodeGroup};
pub use report::LATE_AFTER;
pub use report::{Counts, KeyOf, NodeFinding, NodeReport, NodeState, PodOwner};

use super::demand::Demands;
use super::owner::ServiceOwner;
use tailnet::{JoinedNode, Tailnet};

mod checkpoint;
pub mod claims;
mod group;
pub mod rename;
pub mod replicas;
mod report;
pub mod tailnet;

/// How long a service may have more nodes than pods: a rollout takes this long.
const UNINVITED_AFTER: Duration = Duration::from_secs(120);

/// State between checks of one control plane, bounded by the existing pods.
#[derive(Clone, Debug, Default)]
pub struct NodeTracker {
    /// The checkpoint of the process before this one.
    before: Option<NodeCheckpoint>,
    /// Creation time of a pod, up to which all pods have been seen.
    as_of: Option<Timestamp>,
    groups: BTreeMap<(ServiceOwner, Option<String>), GroupState>,
    /// Since when a service has had more nodes than pods.
    uninvited: BTreeMap<ServiceOwner, Timestamp>,
}

impl NodeTracker {
    /// Resumes from the checkpoint of an earlier process.
    #[must_use]
    pub fn after(before: Option<NodeCheckpoint>) -> Self {
        Self {
            as_of: before.as_ref().map(|before| before.as_of),
            before,
            ..Self::default()
        }
    }

    /// Returns the checkpoint for the next process; none before there was a pod.
    #[must_use]
    pub fn note(&self) -> Option<NodeCheckpoint> {
        let waiting = self.groups.values().flat_map(|memory| &memory.waiting);
        Some(NodeCheckpoint::new(self.as_of?, waiting))
    }

    /// Compares the pods that should have a node at `plane` with the nodes just listed. Where each pod has its own key, `key_of`
    /// tells which node belongs to which pod; elsewhere it is not called.
    pub fn look(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
        key_of: &KeyOf<'_>,
    ) -> NodeReport {
        let mut groups: BTreeMap<(ServiceOwner, Option<&str>), NodeGroup<'_>> = BTreeMap::new();
        for (namespace, demand) in &demands.namespaces {
            for fleet in &demand.replica_groups {
                if fleet.control_plane == plane {
                    let owner = ServiceOwner::new(namespace, &fleet.service);
                    let group = groups.entry((owner, fleet.hostname.as_deref()));
                    let group = group.or_default();
                    group.namespace = namespace;
                    group.fleets.push(fleet);
                }
            }
        }
        let pods = groups.values().flat_map(NodeGroup::pods);
        let settled = pods
            .map(|pod| pod.created)
            .filter(|created| checkpoint::is_settled(now, *created));
        self.as_of = settled.max().max(self.as_of);
        let mut look = NodeReport::default();
        let mut known = std::mem::take(&mut self.groups);
        for ((owner, hostname), group) in &groups {
            let key = (owner.clone(), hostname.map(str::to_owned));
            let mut memory = known.remove(&key).unwrap_or_default();
            memory.recall(self.before.as_ref(), group);
            memory.look(now, (owner, *hostname), group, (tailnet, key_of), &mut look);
            self.groups.insert(key, memory);
        }
        let mut known = std::mem::take(&mut self.uninvited);
        for (owner, user, nodes) in tailnet.services() {
            let mut places = groups.range((owner.clone(), None)..);
            let place = places
                .next()
                .filter(|((of, _), _)| of == owner)
                .and_then(|(_, group)| group.place());
            let expected = demands
                .namespaces
                .get(owner.namespace.as_str())
                .and_then(|demand| {
                    let guest = (plane.to_owned(), owner.service.clone());
                    demand.expected_nodes.get(&guest).copied()
                })
                .unwrap_or_default();
            let since = known.remove(owner);
            if let Some(since) = uninvited(now, user, nodes, expected, place, since, &mut look) {
                self.uninvited.insert(owner.clone(), since);
            }
        }
        look
    }
}

/// Counts the online nodes of a user beyond its pods; returns since when there have been any.
fn uninvited(
    now: Timestamp,
    user: &str,
    nodes: &[JoinedNode],
    pods: usize,
    place: Option<PodOwner>,
    since: Option<Timestamp>,
    look: &mut NodeReport,
) -> Option<Timestamp> {
    let online = nodes
        .iter()
        .filter(|node| node.online && node.key.is_some());
    let mut online: Vec<_> = online.map(|node| node.id).collect();
    let count = online.len().saturating_sub(pods);
    if count == 0 {
        return None;
    }
    let since = since.unwrap_or(now);
    if now < after(since, UNINVITED_AFTER) {
        return Some(since);
    }
    online.sort();
    look.counts.uninvited += count;
    look.findings.push(NodeFinding {
        state: NodeState::Uninvited,
        user: user.to_owned(),
        place,
        count,
        of: online.len(),
        pods: Vec::new(),
        nodes: online,
        expecting: false,
    });
    Some(since)
}

#[cfg(test)]
mod tests;

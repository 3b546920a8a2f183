//! Gives a service's hostname back to its newest node after a rollout, once the old node has made room, unless the name belongs
//! to another service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::NodeId;
use sidescale_core::time::after;

use super::claims;
use super::tailnet::{JoinedNode, Tailnet};
use crate::demand::Demands;
use crate::owner::ServiceOwner;

/// An old node is deleted after being offline for this long: a container restart is shorter.
const AWAY_FOR: Duration = Duration::from_secs(60);

/// How long to wait before a refused step is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// One step of the renamer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenameStep {
    /// Delete a node whose pod is gone. A node that is gone already counts as deleted.
    Delete {
        /// The node that is in the way.
        node: NodeId,
        /// Its label in the tailnet's DNS.
        name: String,
    },
    /// Give a node the name that it requested. Another node may have taken the name first, which is not an error.
    Rename {
        /// The node to rename.
        node: NodeId,
        /// Its current label.
        from: String,
        /// Its new label.
        to: String,
    },
    /// Report, once, that a node outside this service has the name.
    TellTaken {
        /// The node that requested it.
        node: NodeId,
        /// Its current label.
        from: String,
        /// The label that it requested.
        to: String,
    },
}

/// State between checks of one control plane: nodes that are offline, steps that were refused, names reported as taken.
#[derive(Clone, Debug, Default)]
pub struct NodeRenamer {
    away: BTreeMap<NodeId, Timestamp>,
    refused: BTreeMap<NodeId, Timestamp>,
    told: BTreeSet<NodeId>,
}

impl RenameStep {
    /// Returns the node of the step.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::Delete { node, .. }
            | Self::Rename { node, .. }
            | Self::TellTaken { node, .. } => *node,
        }
    }
}

impl NodeRenamer {
    /// Plans for all replica groups of `plane`, from the nodes just listed. `claimed` tells which names belong to others.
    pub fn steps(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
        claimed: &claims::HostnameReport,
    ) -> Vec<RenameStep> {
        self.note(now, tailnet);
        let conflicts = claimed.conflicts.iter();
        let anothers: BTreeSet<(&ServiceOwner, &str)> = conflicts
            .map(|conflict| (&conflict.by.owner, conflict.hostname.as_str()))
            .collect();
        let mut pods: BTreeMap<(ServiceOwner, &str), usize> = BTreeMap::new();
        for (namespace, demand) in &demands.namespaces {
            let fleets = demand.replica_groups.iter();
            for fleet in fleets.filter(|fleet| fleet.control_plane == plane) {
                if let Some(hostname) = &fleet.hostname {
                    let owner = ServiceOwner::new(namespace, &fleet.service);
                    *pods.entry((owner, hostname)).or_default() += fleet.pods.len();
                }
            }
        }
        let mut steps = Vec::new();
        // An adopted user may have nodes that are not Sidescale's.
        for ((owner, hostname), pods) in pods {
            let first = steps.len();
            self.of_host(now, &owner, hostname, pods, tailnet, &mut steps);
            if anothers.contains(&(&owner, hostname)) {
                // It only makes room for the node that the name belongs to.
                let of_host = steps.split_off(first).into_iter();
                steps.extend(of_host.filter(|step| matches!(step, RenameStep::Delete { .. })));
            }
        }
        let taken = |step: &RenameStep| matches!(step, RenameStep::TellTaken { .. });
        let told = steps
            .iter()
            .filter(|step| taken(step))
            .map(RenameStep::node);
        let told = std::mem::replace(&mut self.told, told.collect());
        steps.retain(|step| !taken(step) || !told.contains(&step.node()));
        steps
    }

    /// Records that a step was refused.
    pub fn refused(&mut self, step: &RenameStep, now: Timestamp) {
        self.refused.insert(step.node(), now);
    }

    /// Records since when our nodes are offline, and forgets those that are back.
    fn note(&mut self, now: Timestamp, tailnet: &Tailnet) {
        let away = tailnet
            .services()
            .flat_map(|(_, _, nodes)| nodes)
            .filter(|node| !node.online)
            .map(|node| (node.id, self.away.get(&node.id).copied().unwrap_or(now)));
        self.away = away.collect();
        self.refused.retain(|_, at| now < after(*at, RETRY));
    }

    fn of_host(
        &self,
        now: Timestamp,
        owner: &ServiceOwner,
        hostname: &str,
        pods: usize,
        tailnet: &Tailnet,
        steps: &mut Vec<RenameStep>,
    ) {
        // Only nodes that joined with a key of ours.
        let nodes = tailnet
            .of_service(owner)
            .iter()
            .filter(|node| node.name == hostname && node.key.is_some());
        let Some(newest) = nodes.clone().max_by_key(|node| node.created) else {
            return;
        };
        let online = nodes.clone().filter(|node| node.online).count();
        if !newest.online || pods == 0 || online < pods {
            return;
        }
        let own = nodes.clone().any(|node| node.given_name == hostname);
        let old: Vec<_> = nodes.filter(|node| self.is_over(now, node)).collect();
        let frees = old.iter().any(|node| node.given_name == hostname);
        steps.extend(old.into_iter().map(|node| RenameStep::Delete {
            node: node.id,
            name: node.given_name.clone(),
        }));
        if (frees || !tailnet.is_taken(hostname)) && !self.refused.contains_key(&newest.id) {
            steps.push(RenameStep::Rename {
                node: newest.id,
                from: newest.given_name.clone(),
                to: hostname.to_owned(),
            });
        } else if !own && tailnet.is_taken(hostname) {
            steps.push(RenameStep::TellTaken {
                node: newest.id,
                from: newest.given_name.clone(),
                to: hostname.to_owned(),
            });
        }
    }

    /// Returns whether the node will not come back: it is ephemeral, and has been offline for a minute.
    fn is_over(&self, now: Timestamp, node: &JoinedNode) -> bool {
        let since = self.away.get(&node.id);
        node.ephemeral
            && !node.online
            && since.is_some_and(|since| now >= after(*since, AWAY_FOR))
            && !self.refused.contains_key(&node.id)
    }
}

#[cfg(test)]
mod tests;

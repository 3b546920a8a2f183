//! Injected pods beside the node list: who joined, who is late, who was lost, and who came uninvited. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use group::{Group, Memory};
pub use note::{Note, Notes};

use super::demand::Demands;
use super::fleet::Member;
use super::owner::Owner;
use super::tailnet::{Joined, Tailnet};
use crate::clock::after;
use crate::control_plane::{KeyId, NodeId};

mod group;
mod note;

/// A pod without a node is late after this long.
pub(super) const LATE_AFTER: Duration = Duration::from_secs(120);

/// More nodes than pods are a matter of a rollout for this long.
const UNINVITED_AFTER: Duration = Duration::from_secs(120);

/// How a pod does in the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// It has a node.
    Joined,
    /// It is two minutes old and has none.
    Late,
    /// It had one, and that is gone or expired.
    Lost,
    /// A node that joined with a key of ours and belongs to no pod.
    Uninvited,
}

/// How many pods, or nodes, are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods with a node.
    pub joined: usize,
    /// Pods that are late.
    pub late: usize,
    /// Pods that lost their node.
    pub lost: usize,
    /// Nodes without a pod.
    pub uninvited: usize,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub state: NodeState,
    /// Headscale user.
    pub user: String,
    /// Where its pods are; empty if it has none.
    pub place: Option<Place>,
    /// How many pods, or nodes, it is about.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The pods that it may be about, the oldest first. Replicas share key and hostname: with `count` of more nobody
    /// can tell which.
    pub pods: Vec<Member>,
    /// The nodes that it may be about.
    pub nodes: Vec<NodeId>,
    /// Whether a pod of the fleet is still expected to join.
    pub expecting: bool,
}

/// Where the pods of a finding are, and where their key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Their namespace.
    pub namespace: String,
    /// The identity.
    pub service: String,
    /// Secret of their key.
    pub secret: String,
    /// Data key of their key.
    pub data_key: String,
}

/// The key that the pods of a place join with, as far as it is known.
pub type KeyOf<'a> = dyn Fn(&Place) -> Option<KeyId> + 'a;

/// What came of one look at one control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Totals.
    pub counts: Counts,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// What earlier looks at one control plane have shown. It holds no more than the pods that are there.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// What the process before this one noted.
    before: Option<Note>,
    /// How far what is known reaches: the youngest pod of which all that are older have been seen.
    as_of: Option<Timestamp>,
    groups: BTreeMap<(Owner, Option<String>), Memory>,
    /// Since when a service has had more nodes than pods.
    uninvited: BTreeMap<Owner, Timestamp>,
}

impl NodeState {
    /// Every state, for metrics that show all of them.
    pub const ALL: [Self; 4] = [Self::Joined, Self::Late, Self::Lost, Self::Uninvited];

    /// Its name in metrics and Events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "Joined",
            Self::Late => "Late",
            Self::Lost => "Lost",
            Self::Uninvited => "Uninvited",
        }
    }
}

impl Counts {
    /// How many are in a state.
    #[must_use]
    pub fn of(&self, state: NodeState) -> usize {
        match state {
            NodeState::Joined => self.joined,
            NodeState::Late => self.late,
            NodeState::Lost => self.lost,
            NodeState::Uninvited => self.uninvited,
        }
    }

    /// Adds those of another control plane.
    pub fn add(&mut self, other: &Self) {
        let Self {
            joined,
            late,
            lost,
            uninvited,
        } = other;
        self.joined += joined;
        self.late += late;
        self.lost += lost;
        self.uninvited += uninvited;
    }
}

impl Finding {
    /// Whether it is certain which pods it is about.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.count == self.pods.len()
    }
}

impl Truth {
    /// Goes on from what an earlier process has noted.
    #[must_use]
    pub fn after(before: Option<Note>) -> Self {
        Self {
            as_of: before.as_ref().map(|before| before.as_of),
            before,
            ..Self::default()
        }
    }

    /// What the next process should know; nothing before there was a pod.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        let waiting = self.groups.values().flat_map(|memory| &memory.waiting);
        Some(Note::new(self.as_of?, waiting))
    }

    /// Holds the pods that want to be nodes of `plane` against the nodes that it just listed. Where each pod has a key of
    /// its own, `key_of` tells which node is whose; elsewhere it is not asked.
    pub fn look(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
        key_of: &KeyOf<'_>,
    ) -> Look {
        let mut groups: BTreeMap<(Owner, Option<&str>), Group<'_>> = BTreeMap::new();
        for (namespace, demand) in &demands.namespaces {
            for fleet in &demand.fleets {
                if fleet.control_plane == plane {
                    let owner = Owner::new(namespace, &fleet.service);
                    let group = groups.entry((owner, fleet.hostname.as_deref()));
                    let group = group.or_default();
                    group.namespace = namespace;
                    group.fleets.push(fleet);
                }
            }
        }
        let pods = groups.values().flat_map(Group::pods);
        let settled = pods
            .map(|pod| pod.created)
            .filter(|created| note::is_settled(now, *created));
        self.as_of = settled.max().max(self.as_of);
        let mut look = Look::default();
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
                    demand.guests.get(&guest).copied()
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

/// Counts the online nodes of a user of ours that are more than its pods; says since when there have been some.
fn uninvited(
    now: Timestamp,
    user: &str,
    nodes: &[Joined],
    pods: usize,
    place: Option<Place>,
    since: Option<Timestamp>,
    look: &mut Look,
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
    look.findings.push(Finding {
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

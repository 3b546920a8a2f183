//! The result of one check of the nodes. Pure.

use std::time::Duration;

use sidescale_core::id::{KeyId, NodeId};

use crate::nodes::replicas::PodRef;

/// Age at which a pod without a node is late.
pub const LATE_AFTER: Duration = Duration::from_secs(120);

/// State of a pod or node in the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// The pod has a node.
    Joined,
    /// The pod is two minutes old and has no node.
    Late,
    /// The pod had a node, which is gone or expired.
    Lost,
    /// A node that joined with a key of ours and belongs to no pod.
    Uninvited,
}

/// How many pods or nodes are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods with a node.
    pub joined: usize,
    /// Pods that should have joined by now.
    pub late: usize,
    /// Pods whose node is gone.
    pub lost: usize,
    /// Nodes without a pod.
    pub uninvited: usize,
}

/// A problem with pods or nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFinding {
    /// What is wrong.
    pub state: NodeState,
    /// Headscale user.
    pub user: String,
    /// The place of its pods; none if it has no pods.
    pub place: Option<PodOwner>,
    /// How many pods or nodes it concerns.
    pub count: usize,
    /// How many pods or nodes there are in all.
    pub of: usize,
    /// The pods that it may concern, oldest first. Replicas share key and hostname: if there are more than `count`, which of them
    /// is unknown.
    pub pods: Vec<PodRef>,
    /// The nodes that it may concern.
    pub nodes: Vec<NodeId>,
    /// Whether a pod of the replica group is still expected to join.
    pub expecting: bool,
}

/// Where the pods of a finding and their key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOwner {
    /// Namespace of the pods.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Secret of their key.
    pub secret: String,
    /// Data key of their key.
    pub data_key: String,
}

/// Returns the key that the pods of a place join with, if known.
pub type KeyOf<'a> = dyn Fn(&PodOwner) -> Option<KeyId> + 'a;

/// The result of one check of one control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Numbers for metrics.
    pub counts: Counts,
    /// The problems found.
    pub findings: Vec<NodeFinding>,
}

impl NodeState {
    /// Every state, for metrics that show all of them.
    pub const ALL: [Self; 4] = [Self::Joined, Self::Late, Self::Lost, Self::Uninvited];

    /// Returns the name used in metrics and Events.
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
    /// Returns how many are in a state.
    #[must_use]
    pub fn of(&self, state: NodeState) -> usize {
        match state {
            NodeState::Joined => self.joined,
            NodeState::Late => self.late,
            NodeState::Lost => self.lost,
            NodeState::Uninvited => self.uninvited,
        }
    }

    /// Adds the counts of another control plane.
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

impl NodeFinding {
    /// Returns whether it is certain which pods it concerns.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.count == self.pods.len()
    }
}

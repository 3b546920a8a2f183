//! What one look at the nodes shows. Pure.

use std::time::Duration;

use crate::control_plane::{KeyId, NodeId};
use crate::rotation::replicas::PodRef;

/// A pod without a node is late after this long.
pub(in crate::rotation) const LATE_AFTER: Duration = Duration::from_secs(120);

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
pub struct NodeFinding {
    /// What.
    pub state: NodeState,
    /// Headscale user.
    pub user: String,
    /// Where its pods are; empty if it has none.
    pub place: Option<PodOwner>,
    /// How many pods, or nodes, it is about.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The pods that it may be about, the oldest first. Replicas share key and hostname: with `count` of more nobody
    /// can tell which.
    pub pods: Vec<PodRef>,
    /// The nodes that it may be about.
    pub nodes: Vec<NodeId>,
    /// Whether a pod of the fleet is still expected to join.
    pub expecting: bool,
}

/// Where the pods of a finding are, and where their key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOwner {
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
pub type KeyOf<'a> = dyn Fn(&PodOwner) -> Option<KeyId> + 'a;

/// What came of one look at one control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Totals.
    pub counts: Counts,
    /// What is not as it should be.
    pub findings: Vec<NodeFinding>,
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

impl NodeFinding {
    /// Whether it is certain which pods it is about.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.count == self.pods.len()
    }
}

//! Everything that a control plane holds, as one look has listed it. Pure.

use std::collections::BTreeMap;

use super::owner::KeyUser;
use crate::control_plane::{HeadscaleRelease, Node, PreAuthKey, UserId};

/// Everything that a control plane holds: users, then keys, then nodes.
#[derive(Clone, Debug)]
pub struct Survey {
    /// All keys, unless they are truncated.
    pub keys: Vec<PreAuthKey>,
    /// Whether there are more keys than these, which are the youngest.
    pub truncated: bool,
    /// All nodes: those that joined with one of the keys, but for the youngest, are among them.
    pub nodes: Vec<Node>,
    /// Users that keys are made for.
    pub users: BTreeMap<UserId, KeyUser>,
    /// What it behaves like.
    pub release: HeadscaleRelease,
}

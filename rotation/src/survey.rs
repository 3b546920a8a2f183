//! Everything that a control plane holds, from one listing. Pure.

use std::collections::BTreeMap;

use sidescale_core::id::UserId;
use sidescale_core::objects::{Node, PreAuthKey};
use sidescale_core::release::HeadscaleRelease;

use super::owner::KeyUser;

/// Everything that a control plane holds: users, then keys, then nodes.
#[derive(Clone, Debug)]
pub struct Survey {
    /// All keys, unless they are truncated.
    pub keys: Vec<PreAuthKey>,
    /// Whether there are more keys than these, which are the newest.
    pub truncated: bool,
    /// All nodes; of those that joined with one of the keys, only the newest may be missing.
    pub nodes: Vec<Node>,
    /// Users that keys are created for.
    pub users: BTreeMap<UserId, KeyUser>,
    /// Release that the control plane behaves like.
    pub release: HeadscaleRelease,
}

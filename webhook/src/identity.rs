//! Owner -> service -> user, hostname, Secret key: the one place, shared with rotation. Pure.

use std::borrow::Cow;

/// Names a pod's controller, from its ownerReference with `controller: true`.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// For example `ReplicaSet`.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
}

/// Holds a name in the tailnet: at most 63 letters, digits and dashes, once the kubelet has filled in what only it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname<'a> {
    /// The name; holds `$(POD_NAME)` or `$(NODE_NAME)` where the flags below say so.
    pub text: Cow<'a, str>,
    /// Whether the pod's name is to be filled in.
    pub needs_pod_name: bool,
    /// Whether the node's name is to be filled in.
    pub needs_node_name: bool,
}

//! Owner -> service -> user, hostname, Secret key: the one place, shared with rotation. Pure.

/// Names a pod's controller, from its ownerReference with `controller: true`.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// For example `ReplicaSet`.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
}

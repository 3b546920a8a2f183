//! Inputs of an injection decision: metadata, and the caller. Pure.

use crate::identity::WorkloadOwner;
use crate::lookup::{Lookup, NamespaceMetadata};

/// Inputs of an injection decision: metadata alone, which lets rotation decide the same from a metadata watch.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name; empty if `generateName` is not filled in yet.
    pub name: &'a str,
    /// All annotations of the pod, or at least those under [`crate::keys::PREFIX`].
    pub annotations: &'a dyn Lookup,
    /// Labels of the pod.
    pub labels: &'a dyn Lookup,
    /// The controller, if the pod has one.
    pub owner: Option<WorkloadOwner<'a>>,
    /// Metadata of the namespace; `None` if it was not seen yet.
    pub namespace_metadata: Option<&'a NamespaceMetadata>,
    /// Whether the namespace's own label opts in, known at admission from the request's path.
    pub namespace_opted_in: bool,
    /// Profile that the receipt names, when an existing pod is examined; replaces the choice of one.
    pub profile: Option<&'a str>,
    /// Reader of the messages.
    pub caller: Caller,
    /// Uid of the request that creates the pod, or the digits from it in the name of the per-pod key.
    pub request: &'a str,
}

/// Caller that gets the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The API server, verified by its client certificate; or only Sidescale itself.
    Verified,
    /// Any client in the pod network: no text reveals what depends on the namespace that the request names.
    Unverified,
}

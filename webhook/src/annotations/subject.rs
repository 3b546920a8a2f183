//! What decides an injection: metadata, and who is answered. Pure.

use crate::identity::WorkloadOwner;
use crate::lookup::{Lookup, NamespaceMetadata};

/// Holds what decides an injection: metadata alone, so that rotation can decide the same from a metadata watch.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name; empty where `generateName` is still to be filled in.
    pub name: &'a str,
    /// Every annotation of the pod, or at least those under [`crate::keys::PREFIX`].
    pub annotations: &'a dyn Lookup,
    /// Labels of the pod.
    pub labels: &'a dyn Lookup,
    /// The controller, if the pod has one.
    pub owner: Option<WorkloadOwner<'a>>,
    /// What is known of the namespace; `None` if it was not seen yet.
    pub namespace_metadata: Option<&'a NamespaceMetadata>,
    /// Whether the namespace's own label opts in, which the request's path says at admission.
    pub namespace_opted_in: bool,
    /// Profile that the receipt names, where a pod is looked at again; it takes the place of choosing one.
    pub profile: Option<&'a str>,
    /// Who reads what is said of it.
    pub caller: Caller,
    /// Uid of the request that makes the pod, or the digits of it that the name of the pod's own key holds.
    pub request: &'a str,
}

/// Says who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The API server, by its client certificate; or nobody but ourselves.
    Verified,
    /// Anybody in the pod network: no text tells what depends on the namespace that the request names.
    Unverified,
}

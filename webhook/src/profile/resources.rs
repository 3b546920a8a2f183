//! Requests and limits of a sidecar. Pure.

use std::borrow::Cow;

/// Kubernetes quantities, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources<'a> {
    /// For example `50m`.
    pub cpu_request: Cow<'a, str>,
    /// For example `200m`.
    pub cpu_limit: Cow<'a, str>,
    /// For example `128Mi`.
    pub memory_request: Cow<'a, str>,
    /// For example `256Mi`.
    pub memory_limit: Cow<'a, str>,
}

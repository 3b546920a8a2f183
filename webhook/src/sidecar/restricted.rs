//! What a sidecar may do: no more than Pod Security's level *restricted* lets it. Pure.

use super::shapes::SidecarSecurityContext;

/// Is the sidecar's user and group.
// Tailscale's image runs as root; Pod Security "restricted" and the kubelet want a number that is not 0.
pub(crate) const USER: i64 = 65_532;

/// What Pod Security's level *restricted* takes.
pub(crate) fn security_context() -> SidecarSecurityContext {
    SidecarSecurityContext::of(Some(USER), Some(USER), true)
}

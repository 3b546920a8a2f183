//! Security context of a sidecar, within Pod Security's level *restricted*. Pure.

use super::shapes::SidecarSecurityContext;

/// User and group of the sidecar.
// Tailscale's image runs as root; Pod Security "restricted" and the kubelet require a number that is not 0.
pub(crate) const USER: i64 = 65_532;

/// Returns what Pod Security's level *restricted* accepts.
pub(crate) fn security_context() -> SidecarSecurityContext {
    SidecarSecurityContext::of(Some(USER), Some(USER), true)
}

//! Whether another service owns the hostname that a pod's node will ask for. Pure.

use crate::annotations::Injection;
use crate::hostnames::ClaimedHostnames;
use crate::profile::Policy;

/// Returns a warning if so, which never names the owner; `None` if only the kubelet knows the hostname.
pub(super) fn remark(
    injection: &Injection<'_>,
    namespace: &str,
    hostnames: &ClaimedHostnames,
    policy: &Policy,
) -> Option<String> {
    let sidecar = injection.tailscale.as_ref()?;
    let (hostname, service) = (&sidecar.hostname, sidecar.service);
    if hostname.needs_pod_name || hostname.needs_node_name {
        return None;
    }
    let whose = match policy.reserved_hostnames.get(&*hostname.text) {
        Some(owner) if owner.namespace == namespace && owner.service == service => return None,
        Some(_) => "the operator reserved it for another service",
        None if hostnames.is_anothers(sidecar.control_plane, &hostname.text, namespace) => {
            "it belongs to a service of another namespace"
        }
        None => return None,
    };
    Some(format!(
        "hostname '{}': {whose}, so Sidescale does not give it to nodes of service '{service}': set annotation \
         'sidescale.io/hostname' to another name, such as '{{service}}-{{namespace}}'",
        hostname.text
    ))
}

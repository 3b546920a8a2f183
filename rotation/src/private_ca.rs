//! The `ca.crt` beside the keys: certificate authorities of their control planes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sidescale_webhook::profile::ControlPlaneSettings;

use super::demand::KeyDemand;

/// Data key that a sidecar mounts if its control plane has a private certificate authority.
pub const DATA_KEY: &str = "ca.crt";

/// Returns the PEM of all private authorities that pods need; none if the public ones are enough.
#[must_use]
pub fn bundle(
    demand: &BTreeMap<String, KeyDemand>,
    control_planes: &BTreeMap<String, ControlPlaneSettings>,
) -> Option<Vec<u8>> {
    let named: BTreeSet<&String> = demand.values().map(|key| &key.control_plane).collect();
    let mut pem = String::new();
    for authority in named
        .into_iter()
        .filter_map(|name| control_planes.get(name)?.ca_bundle.as_ref())
    {
        pem.push_str(authority.trim_end());
        pem.push('\n');
    }
    (!pem.is_empty()).then(|| pem.into_bytes())
}

#[cfg(test)]
mod tests {
    use sidescale_webhook::profile::Policy;

    use super::*;
    use crate::record::KeySpec;

    fn demand(control_planes: &[&str]) -> BTreeMap<String, KeyDemand> {
        let demand = |(index, name): (usize, &&str)| {
            let key = KeyDemand {
                service: "web".into(),
                control_plane: (*name).into(),
                asked: KeySpec {
                    user: "shop.web".into(),
                    tags: Vec::new(),
                    reusable: true,
                    ephemeral: true,
                },
                expiration: std::time::Duration::ZERO,
                buffer: std::time::Duration::ZERO,
                pods: 1,
                differing: 0,
                since: jiff::Timestamp::UNIX_EPOCH,
                hostname: None,
            };
            (format!("web{index}-authkey"), key)
        };
        control_planes.iter().enumerate().map(demand).collect()
    }

    fn policy(ca_bundle: Option<&str>) -> Policy {
        let mut policy = Policy::for_login_server("https://headscale.example.com").unwrap();
        let default = policy.control_planes.get_mut("default").unwrap();
        default.ca_bundle = ca_bundle.map(str::to_owned);
        policy
    }

    #[test]
    fn names_each_authority_once() {
        let policy = policy(Some("-----BEGIN-----\n\n"));
        let pem = bundle(&demand(&["default", "default"]), &policy.control_planes);
        assert_eq!(pem.as_deref(), Some(b"-----BEGIN-----\n".as_slice()));
    }

    #[test]
    fn is_nothing_where_the_public_authorities_do() {
        let policy = policy(None);
        assert_eq!(bundle(&demand(&["default"]), &policy.control_planes), None);
        assert_eq!(bundle(&demand(&["gone"]), &policy.control_planes), None);
    }
}

//! Injected pods as the tailnet should show them: by user and hostname. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sidescale_webhook::identity::Hostname;

/// Maximum length of a DNS label, and so of a name in the tailnet.
const LONGEST_LABEL: usize = 63;

/// Pods that share a user and a hostname: replicas of a service, or one pod where each has its own hostname.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaGroup {
    /// Name of the control plane in the configuration.
    pub control_plane: String,
    /// Headscale user of their key.
    pub user: String,
    /// Name of the service, whose user owns the nodes.
    pub service: String,
    /// Secret of their key.
    pub secret: String,
    /// Data key of their key.
    pub data_key: String,
    /// Hostname that their nodes request; none where only the kubelet knows it.
    pub hostname: Option<String>,
    /// The pods, oldest first, without terminating ones.
    pub pods: Vec<PodRef>,
}

/// A pod of a replica group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// When the pod was created.
    pub created: Timestamp,
    /// Uid of the pod.
    pub uid: u128,
    /// Name of the pod.
    pub name: Arc<str>,
}

/// The properties that all pods of a replica group share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupIdentity {
    pub control_plane: String,
    pub user: String,
    pub service: String,
    pub secret: String,
    pub data_key: String,
}

/// Collects the replica groups of a namespace.
#[derive(Debug, Default)]
pub(crate) struct ReplicaGroups(BTreeMap<(GroupIdentity, Option<String>), Vec<PodRef>>);

impl ReplicaGroups {
    /// Adds pods whose hostnames come from one template.
    pub(crate) fn add(
        &mut self,
        identity: &GroupIdentity,
        hostname: &Hostname<'_>,
        pods: impl Iterator<Item = PodRef>,
    ) {
        if hostname.needs_pod_name && !hostname.needs_node_name {
            for pod in pods {
                let name = expanded(&hostname.text, &pod.name);
                let fleet = self.0.entry((identity.clone(), Some(name))).or_default();
                fleet.push(pod);
            }
            return;
        }
        let name = (!hostname.needs_node_name).then(|| hostname.text.clone().into_owned());
        let mut pods = pods.peekable();
        if pods.peek().is_some() {
            self.0
                .entry((identity.clone(), name))
                .or_default()
                .extend(pods);
        }
    }

    pub(crate) fn finish(self) -> Vec<ReplicaGroup> {
        let fleet = |((identity, hostname), mut pods): ((GroupIdentity, _), Vec<PodRef>)| {
            pods.sort();
            pods.shrink_to_fit();
            let GroupIdentity {
                control_plane,
                user,
                service,
                secret,
                data_key,
            } = identity;
            ReplicaGroup {
                control_plane,
                user,
                service,
                secret,
                data_key,
                hostname,
                pods,
            }
        };
        self.0.into_iter().map(fleet).collect()
    }
}

/// Returns the hostname of the single pod's node; none where only the kubelet knows it.
pub(crate) fn name_of(hostname: &Hostname<'_>, pod: &str) -> Option<String> {
    (!hostname.needs_node_name).then(|| expanded(&hostname.text, pod))
}

/// Returns what tailscaled makes of a hostname that the kubelet filled in: a label has no dots and a maximum length.
pub fn expanded(text: &str, pod: &str) -> String {
    let mut name = text.replace("$(POD_NAME)", pod).replace('.', "-");
    name.truncate(LONGEST_LABEL);
    name.truncate(name.trim_end_matches('-').len());
    name
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn identity() -> GroupIdentity {
        GroupIdentity {
            control_plane: "default".into(),
            user: "shop.db".into(),
            service: "db".into(),
            secret: "headscale-auth-keys".into(),
            data_key: "db-authkey".into(),
        }
    }

    fn member(name: &str, second: i64) -> PodRef {
        PodRef {
            created: Timestamp::from_second(second).unwrap(),
            uid: u128::from(second.unsigned_abs()),
            name: name.into(),
        }
    }

    fn hostname(text: &'static str) -> Hostname<'static> {
        Hostname {
            text: Cow::Borrowed(text),
            needs_pod_name: text.contains("POD"),
            needs_node_name: text.contains("NODE"),
        }
    }

    fn fleets(text: &'static str, pods: &[(&str, i64)]) -> Vec<(Option<String>, Vec<String>)> {
        let mut fleets = ReplicaGroups::default();
        let pods = pods.iter().map(|(name, second)| member(name, *second));
        fleets.add(&identity(), &hostname(text), pods);
        let shown = |fleet: ReplicaGroup| {
            let names = fleet.pods.iter().map(|pod| pod.name.to_string());
            (fleet.hostname, names.collect())
        };
        fleets.finish().into_iter().map(shown).collect()
    }

    #[test]
    fn pods_of_one_hostname_are_one_fleet_and_the_oldest_comes_first() {
        assert_eq!(
            fleets("db", &[("db-b", 2), ("db-a", 1)]),
            [(Some("db".into()), vec!["db-a".into(), "db-b".into()])]
        );
        assert_eq!(fleets("db", &[]), []);
    }

    #[test]
    fn a_pod_with_a_name_of_its_own_is_a_fleet_of_its_own() {
        let long = "x".repeat(70);
        let cut = format!("pre-{}", "x".repeat(59));
        assert_eq!(
            fleets("pre-$(POD_NAME)", &[("db-0", 1), ("a.b", 2), (&long, 3)]),
            [
                (Some("pre-a-b".into()), vec!["a.b".into()]),
                (Some("pre-db-0".into()), vec!["db-0".into()]),
                (Some(cut), vec![long]),
            ]
        );
        assert_eq!(
            fleets("$(NODE_NAME)-$(POD_NAME)", &[("db-0", 1), ("db-1", 2)]),
            [(None, vec!["db-0".into(), "db-1".into()])]
        );
    }
}

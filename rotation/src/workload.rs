//! The workload that runs a service's pods: its owner wants to know that a key was replaced. Pure.

use sidescale_webhook::forms::is_dns_subdomain;

/// An object that creates pods, as far as a pod's metadata tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Kind of the owner.
    pub kind: OwnerKind,
    /// Name of the owner.
    pub name: Box<str>,
    /// Its uid; none where the pod's metadata lacks it: only the ReplicaSet knows the uid of its Deployment.
    pub uid: Option<u128>,
}

/// The kinds of objects with a known API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// Found by the name of its ReplicaSet.
    Deployment,
    /// Argo's Rollout, found by the name of its ReplicaSet.
    Rollout,
    /// A ReplicaSet without an owner, judging by its name.
    ReplicaSet,
    /// The direct owner of the pods.
    StatefulSet,
    /// The direct owner of the pods.
    DaemonSet,
    /// Found by the name of its Job.
    CronJob,
    /// A Job without a CronJob, judging by its name.
    Job,
    /// A pod without an owner.
    Pod,
}

impl OwnerKind {
    /// Returns the kind in the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::Rollout => "Rollout",
            Self::ReplicaSet => "ReplicaSet",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
            Self::Pod => "Pod",
        }
    }

    /// Returns the API version of the kind.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Deployment | Self::ReplicaSet | Self::StatefulSet | Self::DaemonSet => "apps/v1",
            Self::Rollout => "argoproj.io/v1alpha1",
            Self::CronJob | Self::Job => "batch/v1",
            Self::Pod => "v1",
        }
    }
}

impl Workload {
    /// Returns the workload of a pod with that owner; none if the kind is unknown, or the name is not valid for any object: the
    /// author of a pod may write any text there.
    ///
    /// `hashes` are the values of `pod-template-hash` and `rollouts-pod-template-hash`.
    #[must_use]
    pub fn of_owner(
        kind: &str,
        name: &str,
        uid: Option<u128>,
        hashes: [Option<&str>; 2],
    ) -> Option<Self> {
        if !is_dns_subdomain(name, 253) {
            return None;
        }
        let itself = |kind| Self {
            kind,
            name: name.into(),
            uid,
        };
        match kind {
            "ReplicaSet" => {
                let [of_deployment, of_rollout] = hashes;
                let made_by = |kind, hash: Option<&str>| {
                    let stem = name.strip_suffix(hash?)?.strip_suffix('-')?;
                    (!stem.is_empty()).then(|| Self {
                        kind,
                        name: stem.into(),
                        uid: None,
                    })
                };
                let above = made_by(OwnerKind::Rollout, of_rollout);
                let above = above.or_else(|| made_by(OwnerKind::Deployment, of_deployment));
                Some(above.unwrap_or_else(|| itself(OwnerKind::ReplicaSet)))
            }
            "StatefulSet" => Some(itself(OwnerKind::StatefulSet)),
            "DaemonSet" => Some(itself(OwnerKind::DaemonSet)),
            "Job" => {
                let made_at = |end: &str| end.len() >= 8 && end.bytes().all(|b| b.is_ascii_digit());
                let above = name.rsplit_once('-');
                let above = above.filter(|(stem, end)| !stem.is_empty() && made_at(end));
                Some(above.map_or_else(
                    || itself(OwnerKind::Job),
                    |(stem, _)| Self {
                        kind: OwnerKind::CronJob,
                        name: stem.into(),
                        uid: None,
                    },
                ))
            }
            _ => None,
        }
    }

    /// Returns the workload of a pod without an owner.
    #[must_use]
    pub fn pod(name: &str) -> Self {
        Self {
            kind: OwnerKind::Pod,
            name: name.into(),
            uid: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_from_a_pods_owner() {
        let hash = Some("7c9d8f6b5");
        let none = [None, None];
        let label = "x".repeat(63);
        let long = [label.as_str(); 4].join(".").split_off(1);
        let table = [
            (
                "ReplicaSet",
                "web-7c9d8f6b5",
                [hash, None],
                Some((OwnerKind::Deployment, "web", None)),
            ),
            (
                "ReplicaSet",
                "web-blue-7c9d8f6b5",
                [hash, None],
                Some((OwnerKind::Deployment, "web-blue", None)),
            ),
            (
                "ReplicaSet",
                "web-7c9d8f6b5",
                [None, hash],
                Some((OwnerKind::Rollout, "web", None)),
            ),
            (
                "ReplicaSet",
                "web-7c9d8f6b5",
                none,
                Some((OwnerKind::ReplicaSet, "web-7c9d8f6b5", Some(7))),
            ),
            ("ReplicaSet", "-7c9d8f6b5", [hash, None], None),
            (
                "StatefulSet",
                "db",
                none,
                Some((OwnerKind::StatefulSet, "db", Some(7))),
            ),
            (
                "DaemonSet",
                "log",
                none,
                Some((OwnerKind::DaemonSet, "log", Some(7))),
            ),
            (
                "Job",
                "backup-28600000",
                none,
                Some((OwnerKind::CronJob, "backup", None)),
            ),
            (
                "Job",
                "backup-1",
                none,
                Some((OwnerKind::Job, "backup-1", Some(7))),
            ),
            ("CloneSet", "web", none, None),
            (
                "StatefulSet",
                &long[1..],
                none,
                Some((OwnerKind::StatefulSet, &long[1..], Some(7))),
            ),
            ("StatefulSet", &long, none, None),
            ("DaemonSet", "log\u{1b}[2J", none, None),
            ("Job", "", none, None),
            ("ReplicaSet", "web shop-7c9d8f6b5", [hash, None], None),
        ];
        for (kind, name, hashes, want) in table {
            let found = Workload::of_owner(kind, name, Some(7), hashes);
            let found = found
                .as_ref()
                .map(|found| (found.kind, &*found.name, found.uid));
            assert_eq!(found, want, "{kind} {name}");
        }
    }
}

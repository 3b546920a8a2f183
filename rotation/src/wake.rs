//! Which pods wait for a key that was just written. Pure.

use jiff::{SignedDuration, Timestamp};
use sidescale_core::secret::SecretRef;

use super::nodes::replicas::{PodRef, ReplicaGroup};
use super::outcome::CreatedKey;
use super::plan::KeyReason;

/// Maximum age of a pod that is woken: an older one has been looked at repeatedly.
const YOUNG: SignedDuration = SignedDuration::from_mins(10);

/// Pods of one namespace whose kubelets have to be woken.
#[derive(Debug, PartialEq, Eq)]
pub struct Wake {
    /// Namespace of the pods.
    pub namespace: String,
    /// The pods that wait.
    pub pods: Vec<PodRef>,
}

/// Returns the young pods of the keys that a job has written where there was no value before.
///
/// A pod is woken once per key: nothing else wakes it, and a wake that is refused is not repeated.
pub fn waiting(
    secret: &SecretRef,
    created: &[CreatedKey],
    groups: &[ReplicaGroup],
    now: Timestamp,
) -> Option<Wake> {
    // For any other reason there was a value to start with.
    let was_missing =
        |created: &&CreatedKey| matches!(created.why, KeyReason::First | KeyReason::ValueLost);
    let waited_for = |group: &&ReplicaGroup| {
        let mut missing = created.iter().filter(was_missing);
        group.secret == secret.name && missing.any(|key| key.data_key == group.data_key)
    };
    let is_young = |pod: &&PodRef| now.duration_since(pod.created) <= YOUNG;
    let groups = groups.iter().filter(waited_for);
    let pods = groups.flat_map(|group| &group.pods).filter(is_young);
    let pods: Vec<_> = pods.cloned().collect();
    (!pods.is_empty()).then(|| Wake {
        namespace: secret.namespace.clone(),
        pods,
    })
}

#[cfg(test)]
mod tests {
    use sidescale_core::id::KeyId;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, created: i64) -> PodRef {
        PodRef {
            created: at(created),
            uid: 7,
            name: name.into(),
        }
    }

    fn group(secret: &str, service: &str, pods: Vec<PodRef>) -> ReplicaGroup {
        ReplicaGroup {
            control_plane: "default".into(),
            user: format!("shop.{service}"),
            service: service.into(),
            secret: secret.into(),
            data_key: format!("{service}-authkey"),
            hostname: Some(service.into()),
            pods,
        }
    }

    fn created(service: &str, why: KeyReason) -> CreatedKey {
        CreatedKey {
            data_key: format!("{service}-authkey"),
            control_plane: "default".into(),
            id: KeyId::from(7),
            created: at(NOW),
            replaced: None,
            why,
        }
    }

    fn woken(created: &[CreatedKey]) -> Vec<String> {
        let groups = [
            group(
                "keys",
                "web",
                vec![pod("web-old", NOW - 601), pod("web-0", NOW - 600)],
            ),
            group("keys", "web", vec![pod("web-1", NOW + 1)]),
            group("keys", "api", vec![pod("api-0", NOW)]),
            group("others", "web", vec![pod("other", NOW)]),
        ];
        let wake = waiting(&SecretRef::new("shop", "keys"), created, &groups, at(NOW));
        let names = |wake: Wake| {
            assert_eq!(wake.namespace, "shop");
            wake.pods.iter().map(|pod| pod.name.to_string()).collect()
        };
        wake.map(names).unwrap_or_default()
    }

    #[test]
    fn wakes_the_young_pods_of_a_key_that_was_missing_and_no_others() {
        let table: [(&[CreatedKey], &[&str]); 6] = [
            (&[], &[]),
            (&[created("web", KeyReason::First)], &["web-0", "web-1"]),
            (&[created("web", KeyReason::ValueLost)], &["web-0", "web-1"]),
            (&[created("web", KeyReason::Due)], &[]),
            (
                &[
                    created("api", KeyReason::First),
                    created("web", KeyReason::Changed),
                ],
                &["api-0"],
            ),
            (&[created("db", KeyReason::First)], &[]),
        ];
        for (created, want) in table {
            assert_eq!(woken(created), want, "{created:?}");
        }
    }
}

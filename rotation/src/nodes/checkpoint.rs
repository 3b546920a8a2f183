//! State that a process leaves to the next, to tell lost nodes from nodes that never joined. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sidescale_core::time::after;
use uuid::Uuid;

use super::super::nodes::replicas::PodRef;

/// How long after its creation a pod is seen at the latest.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// Checkpoints by name of the control plane.
pub type NodeCheckpoints = BTreeMap<String, NodeCheckpoint>;

/// The pods that had not joined. A pod as old as the checkpoint that is not listed has joined: few pods wait, many have
/// joined.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCheckpoint {
    /// Pods created later are unknown.
    pub as_of: Timestamp,
    /// Uids of pods that had no node yet.
    pub waiting: BTreeSet<String>,
}

impl NodeCheckpoint {
    /// Lists the waiting pods that are not younger than `as_of`.
    pub(super) fn new<'a>(
        as_of: Timestamp,
        waiting: impl Iterator<Item = &'a (u128, Timestamp)>,
    ) -> Self {
        let waiting = waiting.filter(|(_, created)| *created <= as_of);
        Self {
            as_of,
            waiting: waiting.map(|(uid, _)| text(*uid)).collect(),
        }
    }

    /// Returns whether the pod had joined.
    pub(super) fn has_joined(&self, pod: &PodRef) -> bool {
        pod.created <= self.as_of && !self.waiting.contains(&text(pod.uid))
    }
}

fn text(uid: u128) -> String {
    Uuid::from_u128(uid).to_string()
}

/// Returns whether every pod as old as this one has been seen by now.
pub(super) fn is_settled(now: Timestamp, created: Timestamp) -> bool {
    now >= after(created, SEEN_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_those_that_wait_and_says_nothing_of_the_young() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let note = NodeCheckpoint::new(at(100), [(1, at(90)), (2, at(101))].iter());
        let text = serde_json::to_string(&note).unwrap();
        let want =
            r#"{"asOf":"1970-01-01T00:01:40Z","waiting":["00000000-0000-0000-0000-000000000001"]}"#;
        assert_eq!(text, want);
        assert_eq!(serde_json::from_str::<NodeCheckpoint>(&text).unwrap(), note);
        let pod = |uid, created| PodRef {
            created: at(created),
            uid,
            name: "api".into(),
        };
        let table = [
            (pod(1, 90), false),
            (pod(2, 101), false),
            (pod(3, 101), false),
            (pod(4, 100), true),
        ];
        for (pod, want) in table {
            assert_eq!(note.has_joined(&pod), want, "{pod:?}");
        }
        assert!(is_settled(at(160), at(100)) && !is_settled(at(159), at(100)));
    }
}

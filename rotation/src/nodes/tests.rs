//! Pods and nodes come and go, and each check tells which is which.

use std::sync::Arc;

use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::Node;
use sidescale_webhook::identity::POD_SECRET;

use super::*;
use crate::demand::NamespaceDemand;
use crate::nodes::replicas::{PodRef, ReplicaGroup};
use crate::nodes::tailnet::{ForeignRows, KeyOrigin};
use crate::owner::{KeyUser, ServiceOwner};

/// A cluster and a tailnet, checked every fifteen seconds.
struct World {
    now: i64,
    truth: NodeTracker,
    /// Hostname (none: only the kubelet knows it), creation time, uid.
    pods: Vec<(Option<&'static str>, i64, u128)>,
    /// Id, host, when it joined, whether it is connected.
    nodes: Vec<(u64, &'static str, i64, bool)>,
    /// Pods that may be connected in addition to those above.
    leaving: usize,
    ephemeral: bool,
    ours: bool,
    /// Whether each pod has its own key, with which the node with the next id joined.
    own_keys: bool,
}

const START: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            now: START,
            truth: NodeTracker::default(),
            pods: Vec::new(),
            nodes: Vec::new(),
            leaving: 0,
            ephemeral: true,
            ours: true,
            own_keys: false,
        }
    }

    /// Pods and nodes of one hostname that started together long ago.
    fn joined(pods: u128) -> Self {
        let mut world = Self::new();
        for n in 0..pods {
            world.pods.push((Some("api"), START, n));
            let id = u64::try_from(n).unwrap() + 1;
            world.nodes.push((id, "api", START + 5, true));
        }
        world.now += 600;
        world.look();
        world
    }

    fn look(&mut self) -> NodeReport {
        self.now += 15;
        let mut fleets: BTreeMap<(Option<&str>, Option<u128>), Vec<PodRef>> = BTreeMap::new();
        for (host, created, uid) in &self.pods {
            let own = Some(*uid).filter(|_| self.own_keys);
            fleets.entry((*host, own)).or_default().push(PodRef {
                created: at(*created),
                uid: *uid,
                name: format!("pod-{uid}").into(),
            });
        }
        let own_keys = self.own_keys;
        let secret = if own_keys {
            POD_SECRET
        } else {
            "headscale-auth-keys"
        };
        let fleets = fleets
            .into_iter()
            .map(|((hostname, own), pods)| ReplicaGroup {
                control_plane: "default".into(),
                user: "shop.api".into(),
                service: "api".into(),
                secret: secret.into(),
                data_key: own.map_or_else(|| "api-authkey".to_owned(), |uid| uid.to_string()),
                hostname: hostname.map(str::to_owned),
                pods,
            });
        let demand = NamespaceDemand {
            replica_groups: fleets.collect(),
            expected_nodes: [(
                ("default".into(), "api".into()),
                self.pods.len() + self.leaving,
            )]
            .into(),
            ..NamespaceDemand::default()
        };
        let demands = Demands {
            synced: true,
            namespaces: [(Arc::from("shop"), Arc::new(demand))].into(),
            ..Demands::default()
        };
        let nodes = self.nodes.iter().map(|(id, name, created, online)| Node {
            id: NodeId::from(*id),
            name: (*name).into(),
            given_name: format!("{name}-{id}"),
            user: Some(UserId::from(1)),
            online: *online,
            pre_auth_key: Some(KeyId::from(if own_keys { *id } else { 1 })),
            tags: Vec::new(),
            created_at: Some(at(*created)),
            last_seen: None,
            expiry: None,
        });
        let key = KeyOrigin {
            user: UserId::from(1),
            ephemeral: self.ephemeral,
        };
        let user = KeyUser {
            name: "shop.api".into(),
            owner: self.ours.then(|| ServiceOwner::new("shop", "api")),
            created: None,
        };
        let tailnet = Tailnet::new(
            at(self.now),
            nodes.collect(),
            &(1..10).map(|id| (KeyId::from(id), key)).collect(),
            &[(UserId::from(1), user)].into(),
            &ForeignRows::new(),
        );
        let key_of = |place: &PodOwner| {
            assert!(own_keys, "of a shared key it tells nothing");
            Some(KeyId::from(place.data_key.parse::<u64>().unwrap() + 1))
        };
        self.truth
            .look(at(self.now), "default", &demands, &tailnet, &key_of)
    }

    /// Joined, late, lost, uninvited.
    fn counts(&mut self) -> (usize, usize, usize, usize) {
        let Counts {
            joined,
            late,
            lost,
            uninvited,
        } = self.look().counts;
        (joined, late, lost, uninvited)
    }
}

fn uids(finding: &NodeFinding) -> Vec<u128> {
    finding.pods.iter().map(|pod| pod.uid).collect()
}

#[test]
fn a_pod_is_late_after_two_minutes_and_joined_when_its_node_is_there() {
    let mut world = World::new();
    world.pods.push((Some("api"), START, 7));
    assert_eq!(world.counts(), (0, 0, 0, 0));
    world.now = START + 104;
    assert_eq!(world.counts(), (0, 0, 0, 0), "a second too early");
    let look = world.look();
    assert_eq!(look.counts.late, 1);
    let [late] = &look.findings[..] else {
        panic!("{look:?}")
    };
    assert_eq!((late.state, uids(late)), (NodeState::Late, vec![7]));
    world.nodes.push((1, "api", world.now, true));
    assert_eq!(world.counts(), (1, 0, 0, 0));
}

#[test]
fn a_node_that_was_there_and_is_gone_at_two_looks_is_lost() {
    let mut world = World::joined(1);
    world.nodes[0].3 = false;
    assert_eq!(
        world.counts(),
        (1, 0, 0, 0),
        "an offline node comes back by itself"
    );
    world.nodes.clear();
    assert_eq!(world.counts(), (0, 0, 0, 0), "one look may be unlucky");
    let look = world.look();
    assert_eq!(look.counts.lost, 1);
    let lost = &look.findings[0];
    assert_eq!((lost.state, uids(lost)), (NodeState::Lost, vec![0]));
    assert!(lost.is_certain() && !lost.expecting);
    assert_eq!(lost.place.as_ref().unwrap().namespace, "shop");
    assert_eq!(world.counts(), (0, 0, 1, 0), "it stays so");
    world.nodes.push((9, "api", world.now, true));
    assert_eq!(world.counts(), (1, 0, 0, 0), "its container was restarted");
}

#[test]
fn a_node_that_was_away_for_one_look_was_not_lost() {
    let mut world = World::joined(1);
    let nodes = std::mem::take(&mut world.nodes);
    world.look();
    world.nodes = nodes;
    assert_eq!(world.counts(), (1, 0, 0, 0));
    world.nodes.clear();
    assert_eq!(world.counts(), (0, 0, 0, 0), "the count begins anew");
}

#[test]
fn of_three_replicas_nobody_can_tell_which_one_is_lost_unless_all_are() {
    let mut world = World::joined(3);
    world.nodes.pop();
    world.look();
    let look = world.look();
    assert_eq!((look.counts.joined, look.counts.lost), (2, 1));
    let lost = &look.findings[0];
    assert_eq!((lost.count, lost.of, uids(lost)), (1, 3, vec![0, 1, 2]));
    assert!(!lost.is_certain());
    world.nodes.clear();
    world.look();
    let look = world.look();
    assert!(look.findings[0].is_certain());
    assert_eq!(look.counts.lost, 3);
}

#[test]
fn while_lost_replicas_are_replaced_the_rest_stays_lost_and_the_new_ones_are_expected() {
    let mut world = World::joined(3);
    world.nodes.clear();
    world.look();
    world.look();
    world.pods.remove(0);
    world.pods.push((Some("api"), world.now, 7));
    let look = world.look();
    assert_eq!((look.counts.lost, uids(&look.findings[0])), (2, vec![1, 2]));
    assert!(
        look.findings[0].expecting,
        "the replacement has not joined yet"
    );
    world.nodes.push((8, "api", world.now, true));
    let look = world.look();
    assert_eq!((look.counts.joined, look.counts.lost), (1, 2));
    assert!(!look.findings[0].expecting);
    // One of the two comes back: the other one is lost, whichever that is.
    world.nodes.push((9, "api", world.now, true));
    world.look();
    let look = world.look();
    assert_eq!((look.counts.joined, look.counts.lost), (2, 1));
    assert!(!look.findings[0].is_certain());
}

#[test]
fn the_node_of_the_pod_before_is_not_taken_for_the_new_pods_own() {
    let mut world = World::joined(1);
    world.pods[0] = (Some("api"), world.now, 7);
    assert_eq!(
        world.counts(),
        (0, 0, 0, 0),
        "not joined, and nothing is lost"
    );
    world.now += 200;
    assert_eq!(world.counts(), (0, 1, 0, 0));
    // A node that outlives its pod is the pod's own.
    world.ephemeral = false;
    assert_eq!(world.counts(), (1, 0, 0, 0));
}

#[test]
fn pods_with_names_of_their_own_are_told_apart() {
    let mut world = World::new();
    world.pods = vec![(Some("db-0"), START, 0), (Some("db-1"), START, 1)];
    world.nodes = vec![(1, "db-0", START + 5, true), (2, "db-1", START + 5, true)];
    assert_eq!(world.counts(), (2, 0, 0, 0));
    world.nodes.remove(0);
    world.look();
    let look = world.look();
    assert_eq!(uids(&look.findings[0]), [0]);
    assert!(look.findings[0].is_certain());
    assert_eq!((look.counts.joined, look.counts.lost), (1, 1));
}

#[test]
fn where_each_pod_has_a_key_of_its_own_it_is_certain_whose_node_is_missing() {
    let mut world = World {
        own_keys: true,
        ..World::joined(0)
    };
    world.pods = (0..3).map(|uid| (Some("api"), START, uid)).collect();
    world.nodes = (1..=3).map(|id| (id, "api", START + 5, true)).collect();
    assert_eq!(world.counts(), (3, 0, 0, 0));
    world.nodes.remove(1);
    world.look();
    let look = world.look();
    assert_eq!((look.counts.joined, look.counts.lost), (2, 1));
    let [lost] = &look.findings[..] else {
        panic!("{:?}", look.findings);
    };
    assert_eq!((uids(lost), lost.count, lost.of), (vec![1], 1, 1));
    assert_eq!(lost.place.as_ref().unwrap().data_key, "1");
    world.nodes.remove(1);
    world.look();
    let look = world.look();
    let found: Vec<_> = look.findings.iter().map(uids).collect();
    assert_eq!(found, [[1], [2]]);
    world.nodes.push((3, "api", START + 5, true));
    // Its pod is replaced, and the next pod does not join: the nodes of the others are not taken for its own.
    world.pods[1] = (Some("api"), world.now, 3);
    world.now += 120;
    let look = world.look();
    assert_eq!((look.counts.late, look.counts.lost), (1, 0));
    assert_eq!(uids(&look.findings[0]), [3]);
    // A node that joined with an unknown key may belong to any pod.
    world.nodes.push((9, "api", world.now, true));
    assert_eq!(world.counts(), (3, 0, 0, 0));
}

#[test]
fn where_only_the_kubelet_knows_the_hostname_any_node_of_the_user_counts() {
    let mut world = World::new();
    world.pods = vec![(None, START, 0), (None, START, 1)];
    world.nodes = vec![(1, "worker-a", START, true), (2, "worker-b", START, true)];
    assert_eq!(world.counts(), (2, 0, 0, 0));
}

#[test]
fn more_nodes_than_pods_for_two_minutes_were_not_invited() {
    let mut world = World::joined(1);
    world.nodes.push((2, "laptop", world.now, true));
    world.look();
    world.now += 104;
    assert_eq!(world.counts(), (1, 0, 0, 0), "it may be a rollout");
    let look = world.look();
    let [found] = &look.findings[..] else {
        panic!("{look:?}")
    };
    assert_eq!(found.state, NodeState::Uninvited);
    assert_eq!((found.count, found.of), (1, 2));
    assert_eq!(found.nodes, [NodeId::from(1), NodeId::from(2)]);
    world.leaving = 1;
    assert_eq!(
        world.counts(),
        (1, 0, 0, 0),
        "a pod that is leaving may still be connected"
    );
    world.leaving = 0;
    assert_eq!(world.counts(), (1, 0, 0, 0), "the two minutes begin anew");
    world.now += 200;
    assert_eq!(world.counts(), (1, 0, 0, 1));
    world.nodes[1].3 = false;
    assert_eq!(world.counts(), (1, 0, 0, 0), "who is away has left");
}

#[test]
fn a_user_without_any_pod_may_have_uninvited_nodes_and_a_lent_user_has_none() {
    for (ours, want) in [(true, 1), (false, 0)] {
        let mut world = World::new();
        world.ours = ours;
        world.nodes.push((1, "laptop", START, true));
        world.look();
        world.now += 300;
        let look = world.look();
        assert_eq!(look.counts.uninvited, want);
        if let Some(found) = look.findings.first() {
            assert_eq!(
                (found.place.as_ref(), found.user.as_str()),
                (None, "shop.api")
            );
        }
    }
}

#[test]
fn nothing_is_remembered_of_what_is_gone() {
    let mut world = World::joined(3);
    world.nodes.push((9, "laptop", START, true));
    world.look();
    assert_eq!(
        (world.truth.groups.len(), world.truth.uninvited.len()),
        (1, 1)
    );
    world.pods.clear();
    world.nodes.clear();
    world.look();
    assert_eq!(
        (world.truth.groups.len(), world.truth.uninvited.len()),
        (0, 0)
    );
}

#[test]
fn the_next_process_knows_who_had_joined_and_who_waited() {
    let mut world = World::joined(1);
    world.pods.push((Some("db"), START + 10, 7));
    world.look();
    let noted = world.truth.note().unwrap();
    assert_eq!(noted.as_of, at(START + 10));
    world.nodes.clear();
    let states = |world: &mut World| {
        world.look();
        let look = world.look();
        let found = look
            .findings
            .iter()
            .map(|finding| (finding.state, finding.count));
        found.collect::<Vec<_>>()
    };
    let (lost, late) = ((NodeState::Lost, 1), (NodeState::Late, 1));
    world.truth = NodeTracker::after(Some(noted.clone()));
    assert_eq!(
        states(&mut world),
        [lost, late],
        "api had joined, db waited"
    );
    assert_eq!(world.truth.note(), Some(noted.clone()));
    world.truth = NodeTracker::default();
    assert_eq!(states(&mut world), [late, late], "nothing is known");
    // Pods created later are unknown too, and a checkpoint never knows less than the one before it.
    world.pods = vec![(Some("api"), START + 400, 9)];
    world.truth = NodeTracker::after(Some(noted));
    assert_eq!(states(&mut world), [late]);
    world.pods.clear();
    world.look();
    assert_eq!(world.truth.note().unwrap().as_of, at(START + 400));
    assert!(NodeTracker::default().note().is_none());
}

//! Rollouts at a control plane, and what the renamer plans.

use std::sync::Arc;

use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::Node;

use super::*;
use crate::demand::NamespaceDemand;
use crate::nodes::replicas::{PodRef, ReplicaGroup};
use crate::nodes::tailnet::{ForeignRows, KeyOrigin};
use crate::owner::KeyUser;

/// Key 1 is ours and ephemeral, key 2 ours and not, key 3 of an adopted user, key 4 a stranger's.
fn tailnet(now: i64, nodes: &[(u64, &str, bool, u64)]) -> Tailnet {
    let users = [(1, "shop.api", Some("api")), (3, "adopted", None)];
    let users = users.map(|(id, name, service): (_, &str, Option<&str>)| {
        let user = KeyUser {
            name: name.to_owned(),
            owner: service.map(|service| ServiceOwner::new("shop", service)),
            created: None,
        };
        (UserId::from(id), user)
    });
    let keys = [(1, 1, true), (2, 1, false), (3, 3, true), (4, 4, true)];
    let keys = keys.map(|(id, user, ephemeral)| {
        let user = UserId::from(user);
        (KeyId::from(id), KeyOrigin { user, ephemeral })
    });
    let nodes = nodes.iter().map(|(id, given_name, online, key)| Node {
        id: NodeId::from(*id),
        name: "api".into(),
        given_name: (*given_name).into(),
        user: None,
        online: *online,
        pre_auth_key: Some(KeyId::from(*key)),
        tags: Vec::new(),
        created_at: Some(at(*id as i64)),
        last_seen: None,
        expiry: None,
    });
    Tailnet::new(
        at(now),
        nodes.collect(),
        &keys.into(),
        &users.into(),
        &ForeignRows::new(),
    )
}

const NOTHING: [i64; 0] = [];

/// No name belongs to another service.
fn ours() -> claims::HostnameReport {
    claims::HostnameReport::default()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn demands(user: &str, pods: usize) -> Demands {
    let pods = (0..pods).map(|n| PodRef {
        created: at(0),
        uid: n as u128,
        name: "api".into(),
    });
    let fleet = ReplicaGroup {
        control_plane: "default".into(),
        user: user.into(),
        service: "api".into(),
        secret: "headscale-auth-keys".into(),
        data_key: "api-authkey".into(),
        hostname: Some("api".into()),
        pods: pods.collect(),
    };
    let demand = NamespaceDemand {
        replica_groups: vec![fleet],
        ..NamespaceDemand::default()
    };
    Demands {
        synced: true,
        namespaces: [(Arc::from("shop"), Arc::new(demand))].into(),
        ..Demands::default()
    }
}

/// Checks at second 0 and again at `second`, and returns the steps of the second check: `-3` deletes, `+3` renames.
fn after_looks(user: &str, pods: usize, nodes: &[(u64, &str, bool, u64)], second: i64) -> Vec<i64> {
    let mut names = NodeRenamer::default();
    let demands = demands(user, pods);
    names.steps(at(0), "default", &demands, &tailnet(0, nodes), &ours());
    let steps = names.steps(
        at(second),
        "default",
        &demands,
        &tailnet(second, nodes),
        &ours(),
    );
    let other = names.steps(
        at(second),
        "other",
        &demands,
        &tailnet(second, nodes),
        &ours(),
    );
    assert!(other.is_empty());
    let number = |node: &NodeId| node.0.number().unwrap() as i64;
    let shown = steps.iter().map(|step| match step {
        RenameStep::Delete { node, .. } => -number(node),
        RenameStep::Rename { node, from, to } => {
            assert!(from != to && to == "api");
            number(node)
        }
        RenameStep::TellTaken { .. } => panic!("told once, at the first look"),
    });
    shown.collect()
}

#[test]
fn an_old_node_makes_room_and_the_newest_gets_the_name() {
    let rollout = [(1, "api", false, 1), (2, "api-1", true, 1)];
    assert_eq!(after_looks("shop.api", 1, &rollout, 59), NOTHING);
    assert_eq!(after_looks("shop.api", 1, &rollout, 60), [-1, 2]);
    // Headscale itself was faster, or, on 0.29, the node.
    assert_eq!(after_looks("shop.api", 1, &[(2, "api-1", true, 1)], 0), [2]);
    assert_eq!(
        after_looks("shop.api", 1, &[(2, "api", true, 1)], 90),
        NOTHING
    );
    // With two replicas the newest takes over from the pair before.
    let pairs = [
        (1, "api", false, 1),
        (2, "api-1", false, 1),
        (3, "api-2", true, 1),
        (4, "api-3", true, 1),
    ];
    assert_eq!(after_looks("shop.api", 2, &pairs, 60), [-1, -2, 4]);
}

#[test]
fn nothing_is_done_while_a_pod_may_still_come_back() {
    for (why, pods, nodes) in [
        (
            "the newest is away",
            1,
            [(1, "api", true, 1), (2, "api-1", false, 1)],
        ),
        (
            "a pod's container restarts",
            2,
            [(1, "api", false, 1), (2, "api-1", true, 1)],
        ),
        (
            "both are there",
            1,
            [(1, "api", true, 1), (2, "api-1", true, 1)],
        ),
        (
            "the old one outlives its pod",
            1,
            [(1, "api", false, 2), (2, "api-1", true, 1)],
        ),
        (
            "no pod is there",
            0,
            [(1, "api", false, 1), (2, "api-1", true, 1)],
        ),
    ] {
        assert_eq!(after_looks("shop.api", pods, &nodes, 600), NOTHING, "{why}");
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let lent = [(1, "api", false, 3), (2, "api-1", true, 3)];
    assert_eq!(after_looks("adopted", 1, &lent, 600), NOTHING);
    // Another cluster's node has the name: it keeps it, online or not.
    for online in [true, false] {
        let strange = [(1, "api", online, 4), (2, "api-1", true, 1)];
        assert_eq!(after_looks("shop.api", 1, &strange, 600), NOTHING);
    }
}

#[test]
fn a_name_that_another_has_is_told_once_until_it_is_free() {
    let mut names = NodeRenamer::default();
    let demands = demands("shop.api", 1);
    let mut steps =
        |nodes: &[_]| names.steps(at(0), "default", &demands, &tailnet(0, nodes), &ours());
    let strange = [(1, "api", true, 4), (2, "api-1", true, 1)];
    let (from, to) = ("api-1".to_owned(), "api".to_owned());
    let node = NodeId::from(2);
    let told = RenameStep::TellTaken { node, from, to };
    assert_eq!(steps(&strange), std::slice::from_ref(&told));
    assert_eq!(steps(&strange), []);
    assert!(matches!(
        steps(&strange[1..])[..],
        [RenameStep::Rename { .. }]
    ));
    assert_eq!(steps(&strange), [told], "taken anew");
    // Its own old node is not reported: it makes room.
    assert_eq!(steps(&[(1, "api", true, 1), (2, "api-1", true, 1)]), []);
}

#[test]
fn a_name_that_belongs_to_another_is_given_to_no_node_and_the_old_one_makes_room() {
    let mut names = NodeRenamer::default();
    let demands = demands("shop.api", 1);
    let party = |namespace| claims::Party {
        owner: ServiceOwner::new(namespace, "api"),
        secret: "headscale-auth-keys".into(),
    };
    let conflict = |hostname: &str, by| claims::Conflict {
        hostname: hostname.into(),
        by: party(by),
        holders: Vec::new(),
        reserved: false,
    };
    let mut steps = |second, nodes: &[_], conflict| {
        let claimed = claims::HostnameReport {
            conflicts: vec![conflict],
            ..claims::HostnameReport::default()
        };
        names.steps(
            at(second),
            "default",
            &demands,
            &tailnet(second, nodes),
            &claimed,
        )
    };
    let free = [(2, "api-1", true, 1)];
    assert_eq!(steps(0, &free, conflict("api", "shop")), []);
    let taken = [(1, "api", true, 4), (2, "api-1", true, 1)];
    assert_eq!(
        steps(0, &taken, conflict("api", "shop")),
        [],
        "said elsewhere"
    );
    // Headscale itself gave it the name.
    let rollout = [(1, "api", false, 1), (2, "api-1", true, 1)];
    steps(0, &rollout, conflict("api", "shop"));
    let room = steps(60, &rollout, conflict("api", "shop"));
    assert!(
        matches!(
            &room[..],
            [RenameStep::Delete { node, .. }] if *node == NodeId::from(1)
        ),
        "{room:?}"
    );
    for elsewhere in [conflict("api-2", "shop"), conflict("api", "other")] {
        let renamed = steps(61, &free, elsewhere);
        assert!(
            matches!(renamed[..], [RenameStep::Rename { .. }]),
            "{renamed:?}"
        );
    }
}

#[test]
fn who_came_back_in_between_is_away_anew_and_a_refusal_is_tried_again_a_minute_later() {
    let mut names = NodeRenamer::default();
    let demands = demands("shop.api", 1);
    let mut steps = |second, nodes: &[_]| {
        names.steps(
            at(second),
            "default",
            &demands,
            &tailnet(second, nodes),
            &ours(),
        )
    };
    let rollout = [(1, "api", false, 1), (2, "api-1", true, 1)];
    steps(0, &rollout);
    steps(30, &[(1, "api", true, 1), (2, "api-1", true, 1)]);
    steps(45, &rollout);
    assert!(steps(104, &rollout).is_empty());
    let planned = steps(105, &rollout);
    assert_eq!(planned.len(), 2);
    for step in &planned {
        names.refused(step, at(105));
    }
    let mut steps = |second| {
        names.steps(
            at(second),
            "default",
            &demands,
            &tailnet(second, &rollout),
            &ours(),
        )
    };
    assert!(steps(164).is_empty());
    assert_eq!(steps(165), planned);
}

//! Which service gets a name: by the age of its user, pods, nodes, the operator's rules and how long ago it asked.

use std::sync::Arc;

use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::Node;

use super::*;
use crate::demand::NamespaceDemand;
use crate::nodes::replicas::{PodRef, ReplicaGroup};
use crate::nodes::tailnet::{ForeignRows, KeyOrigin};
use crate::owner::KeyUser;

mod bounds;

const DAY: i64 = 86_400;

/// The world: users with the second of their creation, pods and nodes with the name that they ask for.
#[derive(Clone, Debug, Default)]
struct World {
    users: Vec<(&'static str, Option<i64>)>,
    pods: Vec<(&'static str, &'static str)>,
    nodes: Vec<(&'static str, &'static str)>,
    reserved: Vec<(&'static str, &'static str)>,
    most_of_namespace: usize,
    most: usize,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn owner(text: &str) -> ServiceOwner {
    let (namespace, service) = text.split_once('/').unwrap();
    ServiceOwner::new(namespace, service)
}

/// Services of three namespaces; the users of `old` and `young` were created at seconds 10 and 20.
fn world() -> World {
    World {
        users: vec![("old/a", Some(10)), ("young/b", Some(20))],
        most_of_namespace: 10,
        most: 100,
        ..World::default()
    }
}

impl World {
    fn pods(&self, pods: &[(&'static str, &'static str)]) -> Self {
        Self {
            pods: pods.to_vec(),
            ..self.clone()
        }
    }

    fn nodes(&self, nodes: &[(&'static str, &'static str)]) -> Self {
        Self {
            nodes: nodes.to_vec(),
            ..self.clone()
        }
    }

    fn demands(&self) -> Demands {
        let mut demands = Demands {
            synced: true,
            ..Demands::default()
        };
        let mut namespaces: BTreeMap<Arc<str>, NamespaceDemand> = BTreeMap::new();
        for (service, hostname) in &self.pods {
            let ServiceOwner { namespace, service } = owner(service);
            let pod = PodRef {
                created: at(0),
                uid: 1,
                name: "pod".into(),
            };
            let fleet = ReplicaGroup {
                control_plane: "default".into(),
                user: format!("{namespace}.{service}"),
                secret: "keys".into(),
                data_key: format!("{service}-authkey"),
                service,
                hostname: Some((*hostname).into()),
                pods: vec![pod],
            };
            let demand = namespaces.entry(namespace.as_str().into()).or_default();
            demand.replica_groups.push(fleet);
        }
        let namespaces = namespaces.into_iter();
        demands.namespaces = namespaces
            .map(|(name, demand)| (name, Arc::new(demand)))
            .collect();
        demands
    }

    fn tailnet(&self) -> Tailnet {
        let users = self.users.iter().zip(1..);
        let users = users.map(|((name, created), id)| {
            let user = KeyUser {
                name: (*name).to_owned(),
                // The user `adopted` has no owner.
                owner: (!name.starts_with("adopted")).then(|| owner(name)),
                created: created.map(at),
            };
            (UserId::from(id), user)
        });
        let users: BTreeMap<_, _> = users.collect();
        let keys = users.keys().map(|id| {
            let origin = KeyOrigin {
                user: *id,
                ephemeral: true,
            };
            (KeyId(id.0), origin)
        });
        let nodes = self.nodes.iter().zip(1..).map(|((service, name), id)| {
            let mut named = users.iter().filter(|(_, user)| user.name == *service);
            Node {
                id: NodeId::from(id),
                name: (*name).into(),
                given_name: format!("{name}-{id}"),
                user: None,
                online: false,
                pre_auth_key: named.next().map(|(user, _)| KeyId(user.0)),
                tags: Vec::new(),
                created_at: None,
                last_seen: None,
                expiry: None,
            }
        });
        Tailnet::new(
            at(0),
            nodes.collect(),
            &keys.collect(),
            &users,
            &ForeignRows::new(),
        )
    }

    fn look(&self, claims: &mut Claims, second: i64) -> HostnameReport {
        let reserved = self.reserved.iter().map(|(hostname, service)| {
            let ServiceOwner { namespace, service } = owner(service);
            ((*hostname).to_owned(), HostnameOwner { namespace, service })
        });
        let rules = Rules {
            reserved: &reserved.collect(),
            most_of_namespace: self.most_of_namespace,
            most: self.most,
        };
        let (demands, tailnet) = (self.demands(), self.tailnet());
        claims.look(at(second), "default", &demands, &tailnet, &rules)
    }

    /// Returns the services that ask in vain, at a check in this second.
    fn refused(&self, claims: &mut Claims, second: i64) -> Vec<String> {
        let look = self.look(claims, second);
        let by = look
            .conflicts
            .iter()
            .map(|conflict| conflict.by.owner.to_string());
        by.collect()
    }
}

const NONE: [&str; 0] = [];

#[test]
fn of_two_that_were_never_seen_apart_the_older_user_has_the_name() {
    let both = [("young/b", "vault"), ("old/a", "vault")];
    let adopted = ("adopted", Some(1));
    for (what, users, want) in [
        (
            "the first is older",
            vec![("old/a", Some(10)), ("young/b", Some(20))],
            "young/b",
        ),
        (
            "the second is older",
            vec![("old/a", Some(20)), ("young/b", Some(10))],
            "old/a",
        ),
        ("one has no user yet", vec![("young/b", Some(20))], "old/a"),
        (
            "no time is known of one",
            vec![("old/a", None), ("young/b", Some(20))],
            "old/a",
        ),
        (
            "one has an adopted user",
            vec![adopted, ("young/b", Some(20))],
            "old/a",
        ),
        (
            "both of one second",
            vec![("old/a", Some(10)), ("young/b", Some(10))],
            "young/b",
        ),
        ("no time is known of both", vec![], "young/b"),
        (
            "a user of an earlier installation counts",
            vec![
                ("old/a", Some(10)),
                ("young/b", Some(20)),
                ("young/b", Some(5)),
            ],
            "old/a",
        ),
    ] {
        let world = World { users, ..world() };
        let refused = world.pods(&both).refused(&mut Claims::default(), 100);
        assert_eq!(refused, [want], "{what}");
    }
}

#[test]
fn only_pods_and_nodes_of_services_ask_for_names() {
    let world = world();
    let pods = [("young/b", "vault"), ("old/a", "other")];
    let refused = |world: World| world.refused(&mut Claims::default(), 100);
    assert_eq!(refused(world.pods(&pods)), NONE, "names of their own");
    // A node without a pod keeps the name too.
    let nodes = world.pods(&pods).nodes(&[("old/a", "vault")]);
    assert_eq!(refused(nodes), ["young/b"]);
    let mine = world
        .pods(&[("old/a", "vault")])
        .nodes(&[("young/b", "vault")]);
    assert_eq!(refused(mine), NONE);
    // Nodes of a person and of an adopted user do not claim a name for a namespace.
    let strangers = [("stranger", "vault"), ("adopted", "vault")];
    let world = World {
        users: vec![("adopted", Some(1)), ("young/b", Some(20))],
        ..world
    };
    assert_eq!(refused(world.pods(&pods[..1]).nodes(&strangers)), NONE);
    let elsewhere = world.pods(&[("old/a", "vault"), ("young/b", "vault")]);
    let (demands, tailnet) = (elsewhere.demands(), elsewhere.tailnet());
    let rules = Rules {
        reserved: &BTreeMap::new(),
        most_of_namespace: 10,
        most: 100,
    };
    let mut claims = Claims::default();
    let look = claims.look(at(1), "lab", &demands, &tailnet, &rules);
    assert_eq!(
        (look, claims),
        Default::default(),
        "another control plane's"
    );
}

#[test]
fn within_a_namespace_a_name_is_free() {
    let world = World {
        users: vec![
            ("old/a", Some(10)),
            ("old/c", Some(30)),
            ("young/b", Some(20)),
        ],
        ..world()
    };
    let mut claims = Claims::default();
    let two = world.pods(&[("old/a", "vault"), ("old/c", "vault")]);
    assert_eq!(two.refused(&mut claims, 100), NONE);
    // The other service of the namespace keeps it, although its user is younger than the stranger's.
    let one = world.pods(&[("old/c", "vault"), ("young/b", "vault")]);
    assert_eq!(one.refused(&mut claims, 200), ["young/b"]);
    assert_eq!(one.refused(&mut claims, 200 + 30 * DAY), ["young/b"]);
}

#[test]
fn a_name_is_kept_for_seven_days_after_its_last_pod_and_node() {
    let world = world();
    let mut claims = Claims::default();
    let younger = [("young/b", "vault")];
    assert_eq!(
        world.pods(&[("old/a", "vault")]).refused(&mut claims, 0),
        NONE
    );
    // Its pod is gone, its node is not.
    let node = world.pods(&younger).nodes(&[("old/a", "vault")]);
    assert_eq!(node.refused(&mut claims, 20 * DAY), ["young/b"]);
    // Neither pod nor node is left.
    let gone = world.pods(&younger);
    assert_eq!(gone.refused(&mut claims, 20 * DAY + 15), ["young/b"]);
    assert_eq!(
        gone.refused(&mut claims, 27 * DAY + 14),
        ["young/b"],
        "a second too early"
    );
    // A new process knows it from the stored text.
    let mut noted = Claims::read(&claims.text());
    assert_eq!(noted, claims);
    assert_eq!(gone.refused(&mut noted, 27 * DAY + 14), ["young/b"]);
    assert_eq!(gone.refused(&mut noted, 27 * DAY + 15), NONE);
    // Now it belongs to the other namespace, although that has the younger user.
    let both = world.pods(&[("old/a", "vault"), ("young/b", "vault")]);
    assert_eq!(both.refused(&mut noted, 27 * DAY + 30), ["old/a"]);
    // It came back in time: the seven days begin when it goes again.
    assert_eq!(both.refused(&mut claims, 27 * DAY + 14), ["young/b"]);
    assert_eq!(gone.refused(&mut claims, 27 * DAY + 15), ["young/b"]);
    assert_eq!(gone.refused(&mut claims, 34 * DAY + 14), ["young/b"]);
    assert_eq!(gone.refused(&mut claims, 34 * DAY + 15), NONE);
}

#[test]
fn a_name_cannot_be_taken_by_an_older_service_that_asks_for_it_later() {
    let world = world();
    let mut claims = Claims::default();
    world.look(&mut claims, 0);
    assert_eq!(
        world.pods(&[("young/b", "vault")]).refused(&mut claims, 0),
        NONE
    );
    // A tenant with an old service gives it the younger one's name, by annotation or with a node.
    let annotated = world.pods(&[("young/b", "vault"), ("old/a", "vault")]);
    assert_eq!(annotated.refused(&mut claims, 15), ["old/a"]);
    let away = world
        .pods(&[("old/a", "vault")])
        .nodes(&[("old/a", "vault")]);
    assert_eq!(away.refused(&mut claims, 30), ["old/a"]);
    assert_eq!(annotated.refused(&mut claims, 6 * DAY), ["old/a"]);
}

#[test]
fn a_reserved_name_belongs_to_one_service_even_if_another_was_first() {
    let world = World {
        reserved: vec![("vault", "prod/vault")],
        ..world()
    };
    let mut claims = Claims::default();
    let first = World {
        reserved: Vec::new(),
        ..world.pods(&[("old/a", "vault")])
    };
    first.look(&mut claims, 0);
    let all = world.pods(&[
        ("old/a", "vault"),
        ("prod/other", "vault"),
        ("prod/vault", "vault"),
        ("young/b", "web"),
    ]);
    let look = all.look(&mut claims, 15);
    let by: Vec<_> = look
        .conflicts
        .iter()
        .map(|one| one.by.owner.to_string())
        .collect();
    assert_eq!(
        by,
        ["old/a", "prod/other"],
        "another service of that namespace neither"
    );
    assert!(look.conflicts.iter().all(|conflict| conflict.reserved));
    assert_eq!(look.conflicts[0].holders[0].owner, owner("prod/vault"));
    // The service need not exist, and never did.
    let alone = world.pods(&[("old/a", "vault")]);
    let look = alone.look(&mut Claims::default(), 365 * DAY);
    assert_eq!(
        (look.conflicts.len(), look.conflicts[0].holders.len()),
        (1, 0)
    );
}

#[test]
fn a_conflict_names_those_with_pods_on_both_sides() {
    let world = World {
        users: vec![
            ("old/a", Some(10)),
            ("old/c", Some(30)),
            ("young/b", Some(20)),
        ],
        ..world()
    };
    let party = |service| Party {
        owner: owner(service),
        secret: "keys".into(),
    };
    let pods = world.pods(&[("old/a", "vault"), ("young/b", "vault")]);
    let look = pods
        .nodes(&[("old/c", "vault")])
        .look(&mut Claims::default(), 0);
    let want = Conflict {
        hostname: "vault".into(),
        by: party("young/b"),
        holders: vec![party("old/a")],
        reserved: false,
    };
    assert_eq!(look.conflicts, [want]);
}

//! After a rollout the newest node gets its service's name again, once the old one has made room for it, unless that name belongs
//! to another service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::claims;
use super::demand::Demands;
use super::owner::Owner;
use super::tailnet::{Joined, Tailnet};
use crate::clock::after;
use crate::control_plane::NodeId;

/// An old node is removed after being away for this long: a restart of its container is shorter.
const AWAY_FOR: Duration = Duration::from_secs(60);

/// What was refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(60);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove a node whose pod is gone. One that is gone already counts as removed.
    Delete {
        /// Which.
        node: NodeId,
        /// Its label in the tailnet's DNS.
        name: String,
    },
    /// Give a node the name that it asked for. Another node may have taken it first, which is no error.
    Rename {
        /// Which.
        node: NodeId,
        /// Its label now.
        from: String,
        /// The name.
        to: String,
    },
    /// Tell people that a node which is none of this service has the name; once.
    TellTaken {
        /// The node that asked for it.
        node: NodeId,
        /// Its label now.
        from: String,
        /// The name.
        to: String,
    },
}

/// What earlier looks at one control plane have shown: no more than the nodes that are away, and what was refused.
#[derive(Clone, Debug, Default)]
pub struct Names {
    away: BTreeMap<NodeId, Timestamp>,
    refused: BTreeMap<NodeId, Timestamp>,
    told: BTreeSet<NodeId>,
}

impl Step {
    /// The node that it is about.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::Delete { node, .. }
            | Self::Rename { node, .. }
            | Self::TellTaken { node, .. } => *node,
        }
    }
}

impl Names {
    /// Plans for all fleets of `plane`, from the nodes that it just listed. `claimed` says which names belong to others.
    pub fn steps(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
        claimed: &claims::Look,
    ) -> Vec<Step> {
        self.note(now, tailnet);
        let conflicts = claimed.conflicts.iter();
        let anothers: BTreeSet<(&Owner, &str)> = conflicts
            .map(|conflict| (&conflict.by.owner, conflict.hostname.as_str()))
            .collect();
        let mut pods: BTreeMap<(Owner, &str), usize> = BTreeMap::new();
        for (namespace, demand) in &demands.namespaces {
            let fleets = demand.fleets.iter();
            for fleet in fleets.filter(|fleet| fleet.control_plane == plane) {
                if let Some(hostname) = &fleet.hostname {
                    let owner = Owner::new(namespace, &fleet.service);
                    *pods.entry((owner, hostname)).or_default() += fleet.pods.len();
                }
            }
        }
        let mut steps = Vec::new();
        // An adopted user may have nodes that are none of our business.
        for ((owner, hostname), pods) in pods {
            let first = steps.len();
            self.of_host(now, &owner, hostname, pods, tailnet, &mut steps);
            if anothers.contains(&(&owner, hostname)) {
                // It only makes room, for the one whose name it is.
                let of_host = steps.split_off(first).into_iter();
                steps.extend(of_host.filter(|step| matches!(step, Step::Delete { .. })));
            }
        }
        let taken = |step: &Step| matches!(step, Step::TellTaken { .. });
        let told = steps.iter().filter(|step| taken(step)).map(Step::node);
        let told = std::mem::replace(&mut self.told, told.collect());
        steps.retain(|step| !taken(step) || !told.contains(&step.node()));
        steps
    }

    /// Notes that a step was refused.
    pub fn refused(&mut self, step: &Step, now: Timestamp) {
        self.refused.insert(step.node(), now);
    }

    /// Remembers since when nodes of ours are away, and forgets those that are not any more.
    fn note(&mut self, now: Timestamp, tailnet: &Tailnet) {
        let away = tailnet
            .services()
            .flat_map(|(_, _, nodes)| nodes)
            .filter(|node| !node.online)
            .map(|node| (node.id, self.away.get(&node.id).copied().unwrap_or(now)));
        self.away = away.collect();
        self.refused.retain(|_, at| now < after(*at, RETRY));
    }

    fn of_host(
        &self,
        now: Timestamp,
        owner: &Owner,
        hostname: &str,
        pods: usize,
        tailnet: &Tailnet,
        steps: &mut Vec<Step>,
    ) {
        // Only what a key of ours made.
        let nodes = tailnet
            .of_service(owner)
            .iter()
            .filter(|node| node.name == hostname && node.key.is_some());
        let Some(newest) = nodes.clone().max_by_key(|node| node.id) else {
            return;
        };
        let online = nodes.clone().filter(|node| node.online).count();
        if !newest.online || pods == 0 || online < pods {
            return;
        }
        let own = nodes.clone().any(|node| node.given_name == hostname);
        let old: Vec<_> = nodes.filter(|node| self.is_over(now, node)).collect();
        let frees = old.iter().any(|node| node.given_name == hostname);
        steps.extend(old.into_iter().map(|node| Step::Delete {
            node: node.id,
            name: node.given_name.clone(),
        }));
        if (frees || !tailnet.is_taken(hostname)) && !self.refused.contains_key(&newest.id) {
            steps.push(Step::Rename {
                node: newest.id,
                from: newest.given_name.clone(),
                to: hostname.to_owned(),
            });
        } else if !own && tailnet.is_taken(hostname) {
            steps.push(Step::TellTaken {
                node: newest.id,
                from: newest.given_name.clone(),
                to: hostname.to_owned(),
            });
        }
    }

    /// Whether nothing will come back as this node: it is ephemeral, and has been away for a minute.
    fn is_over(&self, now: Timestamp, node: &Joined) -> bool {
        let since = self.away.get(&node.id);
        node.ephemeral
            && !node.online
            && since.is_some_and(|since| now >= after(*since, AWAY_FOR))
            && !self.refused.contains_key(&node.id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::{KeyId, Node, UserId};
    use crate::rotation::demand::NamespaceDemand;
    use crate::rotation::fleet::{Fleet, Member};
    use crate::rotation::owner::KeyUser;
    use crate::rotation::tailnet::{KeyOrigin, Lent};

    /// Key 1 is ours and ephemeral, key 2 ours and not, key 3 of a user that was lent, key 4 a stranger's.
    fn tailnet(now: i64, nodes: &[(u64, &str, bool, u64)]) -> Tailnet {
        let users = [(1, "shop.api", Some("api")), (3, "adopted", None)];
        let users = users.map(|(id, name, service): (_, &str, Option<&str>)| {
            let user = KeyUser {
                name: name.to_owned(),
                owner: service.map(|service| Owner::new("shop", service)),
                created: None,
            };
            (UserId(id), user)
        });
        let keys = [(1, 1, true), (2, 1, false), (3, 3, true), (4, 4, true)];
        let keys = keys.map(|(id, user, ephemeral)| {
            let user = UserId(user);
            (KeyId(id), KeyOrigin { user, ephemeral })
        });
        let nodes = nodes.iter().map(|(id, given_name, online, key)| Node {
            id: NodeId(*id),
            name: "api".into(),
            given_name: (*given_name).into(),
            user: None,
            online: *online,
            pre_auth_key: Some(KeyId(*key)),
            tags: Vec::new(),
            created_at: None,
            last_seen: None,
            expiry: None,
        });
        Tailnet::new(
            at(now),
            nodes.collect(),
            &keys.into(),
            &users.into(),
            &Lent::new(),
        )
    }

    const NOTHING: [i64; 0] = [];

    /// No name is another's.
    fn ours() -> claims::Look {
        claims::Look::default()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn demands(user: &str, pods: usize) -> Demands {
        let pods = (0..pods).map(|n| Member {
            created: at(0),
            uid: n as u128,
            name: "api".into(),
        });
        let fleet = Fleet {
            control_plane: "default".into(),
            user: user.into(),
            service: "api".into(),
            secret: "headscale-auth-keys".into(),
            data_key: "api-authkey".into(),
            hostname: Some("api".into()),
            pods: pods.collect(),
        };
        let demand = NamespaceDemand {
            fleets: vec![fleet],
            ..NamespaceDemand::default()
        };
        Demands {
            synced: true,
            namespaces: [(Arc::from("shop"), Arc::new(demand))].into(),
            ..Demands::default()
        }
    }

    /// Looks at second 0 and again at `second`, and says what is to be done then: `-3` deletes, `+3` renames.
    fn after_looks(
        user: &str,
        pods: usize,
        nodes: &[(u64, &str, bool, u64)],
        second: i64,
    ) -> Vec<i64> {
        let mut names = Names::default();
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
        let shown = steps.iter().map(|step| match step {
            Step::Delete { node, .. } => -(node.0 as i64),
            Step::Rename { node, from, to } => {
                assert!(from != to && to == "api");
                node.0 as i64
            }
            Step::TellTaken { .. } => panic!("told once, at the first look"),
        });
        shown.collect()
    }

    #[test]
    fn an_old_node_makes_room_and_the_newest_gets_the_name() {
        let rollout = [(1, "api", false, 1), (2, "api-1", true, 1)];
        assert_eq!(after_looks("shop.api", 1, &rollout, 59), NOTHING);
        assert_eq!(after_looks("shop.api", 1, &rollout, 60), [-1, 2]);
        // Headscale itself was faster, or on 0.29 the node.
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
        let mut names = Names::default();
        let demands = demands("shop.api", 1);
        let mut steps =
            |nodes: &[_]| names.steps(at(0), "default", &demands, &tailnet(0, nodes), &ours());
        let strange = [(1, "api", true, 4), (2, "api-1", true, 1)];
        let (from, to) = ("api-1".to_owned(), "api".to_owned());
        let node = NodeId(2);
        let told = Step::TellTaken { node, from, to };
        assert_eq!(steps(&strange), std::slice::from_ref(&told));
        assert_eq!(steps(&strange), []);
        assert!(matches!(steps(&strange[1..])[..], [Step::Rename { .. }]));
        assert_eq!(steps(&strange), [told], "taken anew");
        // Its own old node is not worth a word: it makes room.
        assert_eq!(steps(&[(1, "api", true, 1), (2, "api-1", true, 1)]), []);
    }

    #[test]
    fn a_name_that_belongs_to_another_is_given_to_no_node_and_the_old_one_makes_room() {
        let mut names = Names::default();
        let demands = demands("shop.api", 1);
        let party = |namespace| claims::Party {
            owner: Owner::new(namespace, "api"),
            secret: "headscale-auth-keys".into(),
        };
        let conflict = |hostname: &str, by| claims::Conflict {
            hostname: hostname.into(),
            by: party(by),
            holders: Vec::new(),
            reserved: false,
        };
        let mut steps = |second, nodes: &[_], conflict| {
            let claimed = claims::Look {
                conflicts: vec![conflict],
                ..claims::Look::default()
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
        // It had the name by Headscale's own doing.
        let rollout = [(1, "api", false, 1), (2, "api-1", true, 1)];
        steps(0, &rollout, conflict("api", "shop"));
        let room = steps(60, &rollout, conflict("api", "shop"));
        assert!(
            matches!(
                &room[..],
                [Step::Delete {
                    node: NodeId(1),
                    ..
                }]
            ),
            "{room:?}"
        );
        for elsewhere in [conflict("api-2", "shop"), conflict("api", "other")] {
            let renamed = steps(61, &free, elsewhere);
            assert!(matches!(renamed[..], [Step::Rename { .. }]), "{renamed:?}");
        }
    }

    #[test]
    fn who_came_back_in_between_is_away_anew_and_a_refusal_is_tried_again_a_minute_later() {
        let mut names = Names::default();
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
}

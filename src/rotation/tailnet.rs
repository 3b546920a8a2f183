//! The nodes of one control plane, as far as users of ours have to do with them. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;

use crate::control_plane::{KeyId, Node, NodeId, UserId};

/// What is kept of a pre-auth key: whose it is, and what its nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOrigin {
    /// The user it belongs to.
    pub user: UserId,
    /// Whether its nodes vanish when they go away.
    pub ephemeral: bool,
}

/// A user that keys are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUser {
    /// Its name.
    pub name: String,
    /// Whether it bears our mark; the others were lent to us (`adoptUsers`).
    pub ours: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A node that a key of such a user made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id; a younger node has a greater one.
    pub id: NodeId,
    /// The host's own name.
    pub name: String,
    /// The label in the tailnet's DNS.
    pub given_name: String,
    /// Whether it is connected.
    pub online: bool,
    /// When it joined.
    pub created: Option<Timestamp>,
    /// Whether it vanishes when it goes away.
    pub ephemeral: bool,
    /// The key it joined with; none if that was deleted since.
    pub key: Option<KeyId>,
}

/// The nodes of one control plane.
#[derive(Clone, Debug, Default)]
pub struct Tailnet {
    users: BTreeMap<String, Vec<Joined>>,
    /// Nodes of which nobody can tell whose they are: their key's row is gone and tags took them from their user, or their
    /// key is another's, whom pods share it with.
    nobodys: BTreeMap<String, Vec<Joined>>,
    given_names: HashSet<String>,
    marked: HashSet<String>,
}

impl Tailnet {
    /// Sorts the nodes that a control plane listed by the users of ours whose keys made them; expired ones are none.
    /// `lent` are keys of others that stand or stood in Secrets of ours.
    #[must_use]
    pub fn new(
        now: Timestamp,
        nodes: Vec<Node>,
        keys: &BTreeMap<KeyId, KeyOrigin>,
        users: &BTreeMap<UserId, KeyUser>,
        lent: &BTreeSet<KeyId>,
    ) -> Self {
        let mut tailnet = Self::default();
        let marked = users.values().filter(|user| user.ours);
        tailnet.marked = marked.map(|user| user.name.clone()).collect();
        for node in nodes {
            tailnet.given_names.insert(node.given_name.clone());
            if node.expiry.is_some_and(|expiry| expiry <= now) {
                continue;
            }
            let origin = node.pre_auth_key.and_then(|key| keys.get(&key));
            let is_lent = node.pre_auth_key.is_some_and(|key| lent.contains(&key));
            let owner = origin.map(|origin| origin.user).or(node.user);
            let joined = Joined {
                id: node.id,
                name: node.name,
                given_name: node.given_name,
                online: node.online,
                created: node.created_at,
                ephemeral: origin.is_some_and(|origin| origin.ephemeral),
                key: node.pre_auth_key.filter(|_| origin.is_some()),
            };
            if let Some(user) = owner.and_then(|owner| users.get(&owner)) {
                tailnet
                    .users
                    .entry(user.name.clone())
                    .or_default()
                    .push(joined);
            } else if is_lent || node.pre_auth_key.is_none() && !node.tags.is_empty() {
                let name = joined.name.clone();
                tailnet.nobodys.entry(name).or_default().push(joined);
            }
        }
        tailnet
    }

    /// All users with nodes, and their nodes.
    pub fn users(&self) -> impl Iterator<Item = (&str, &[Joined])> {
        self.users
            .iter()
            .map(|(user, nodes)| (user.as_str(), nodes.as_slice()))
    }

    /// The nodes of a user.
    #[must_use]
    pub fn of_user(&self, user: &str) -> &[Joined] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Users and host names of all nodes that are online.
    #[must_use]
    pub fn online(&self) -> BTreeSet<(String, String)> {
        let nodes = self.users.iter();
        let nodes = nodes.flat_map(|(user, nodes)| nodes.iter().map(move |node| (user, node)));
        let online = nodes.filter(|(_, node)| node.online);
        online
            .map(|(user, node)| (user.clone(), node.name.clone()))
            .collect()
    }

    /// Nodes of that host's name that might be anybody's: in doubt a pod is not called lost.
    #[must_use]
    pub fn nobodys(&self, name: &str) -> &[Joined] {
        self.nobodys.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the user bears our mark.
    #[must_use]
    pub fn is_ours(&self, user: &str) -> bool {
        self.marked.contains(user)
    }

    /// Whether any node, ours or not, has this label in the tailnet's DNS.
    #[must_use]
    pub fn is_taken(&self, given_name: &str) -> bool {
        self.given_names.contains(given_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, key: Option<u64>, user: Option<u64>, tags: &[&str]) -> Node {
        Node {
            id: NodeId(id),
            name: "api".into(),
            given_name: format!("api-{id}"),
            user: user.map(UserId),
            online: true,
            pre_auth_key: key.map(KeyId),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            created_at: None,
            last_seen: None,
            expiry: None,
        }
    }

    #[test]
    fn a_node_belongs_to_the_user_of_the_key_that_it_joined_with() {
        let now = Timestamp::from_second(1_000).unwrap();
        let user = |name: &str, ours| KeyUser {
            name: name.into(),
            ours,
            created: None,
        };
        let users = [
            (UserId(1), user("shop.api", true)),
            (UserId(2), user("lent", false)),
        ];
        let key = |user, ephemeral| KeyOrigin {
            user: UserId(user),
            ephemeral,
        };
        let keys = [
            (KeyId(10), key(1, true)),
            (KeyId(20), key(2, false)),
            (KeyId(30), key(3, true)),
            (KeyId(31), key(3, true)),
        ];
        let expired = Node {
            expiry: Some(now),
            ..node(8, Some(10), Some(1), &[])
        };
        let nodes = vec![
            // With tags it is listed under a user that nobody made.
            node(1, Some(10), Some(2_147_455_555), &["tag:web"]),
            node(2, Some(10), Some(1), &[]),
            node(3, Some(20), Some(2), &[]),
            // Another's key, and no key: the first is none of ours, the second by its user alone.
            node(4, Some(30), Some(3), &[]),
            node(5, None, Some(1), &[]),
            // The row of its key was deleted.
            node(6, None, Some(2_147_455_555), &["tag:web"]),
            node(7, Some(99), None, &["tag:web"]),
            expired,
            // Another's key again, which stands in a Secret of ours.
            Node {
                name: "web".into(),
                ..node(9, Some(31), Some(3), &[])
            },
        ];
        let lent = BTreeSet::from([KeyId(31), KeyId(10)]);
        let tailnet = Tailnet::new(now, nodes, &keys.into(), &users.into(), &lent);
        let seen: Vec<_> = tailnet
            .users()
            .map(|(user, nodes)| {
                let nodes = nodes.iter().map(|node| (node.id.0, node.ephemeral));
                (user, nodes.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("lent", vec![(3, false)]),
                ("shop.api", vec![(1, true), (2, true), (5, false)])
            ]
        );
        assert_eq!(tailnet.of_user("shop.api")[2].key, None);
        assert_eq!(tailnet.nobodys("api")[0].id, NodeId(6));
        assert_eq!(tailnet.nobodys("web")[0].id, NodeId(9));
        assert!(tailnet.is_ours("shop.api") && !tailnet.is_ours("lent"));
        assert!(tailnet.is_taken("api-4") && tailnet.is_taken("api-8") && !tailnet.is_taken("api"));
    }
}

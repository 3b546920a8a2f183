//! The nodes of one control plane that concern users of Sidescale. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::Node;

use crate::owner::{KeyHolder, KeyUser, ServiceOwner};

/// Maximum difference between the clocks of Headscale and the API server.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// Owner and kind of a pre-auth key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOrigin {
    /// User that the key belongs to.
    pub user: UserId,
    /// Whether Headscale deletes its nodes when they disconnect.
    pub ephemeral: bool,
}

/// A node that joined with a key of such a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedNode {
    /// Id of the node.
    pub id: NodeId,
    /// Hostname reported by the node.
    pub name: String,
    /// Label in the tailnet's DNS.
    pub given_name: String,
    /// Whether the node is connected.
    pub online: bool,
    /// When the node joined, if known.
    pub created: Option<Timestamp>,
    /// Whether Headscale deletes it when it disconnects.
    pub ephemeral: bool,
    /// The key it joined with; none if that was deleted since.
    pub key: Option<KeyId>,
}

/// The nodes of one control plane.
#[derive(Clone, Debug, Default)]
pub struct Tailnet {
    holders: BTreeMap<KeyHolder, HolderNodes>,
    /// Nodes with unknown owner, by name: their key's row is gone, and tags took them from their user.
    nobodys: BTreeMap<String, Vec<JoinedNode>>,
    /// Nodes that joined with foreign keys, by the namespaces whose Secrets contain those keys, and by name.
    lent: BTreeMap<(String, String), Vec<JoinedNode>>,
    given_names: HashSet<String>,
    /// When the first user of each service was created.
    created: BTreeMap<ServiceOwner, Timestamp>,
}

/// Nodes of one holder.
#[derive(Clone, Debug, Default)]
struct HolderNodes {
    /// Name of the user listed last.
    user: String,
    nodes: Vec<JoinedNode>,
}

/// Foreign keys that are or were in Secrets of keys, each with that Secret's namespace.
pub type ForeignRows = BTreeSet<(KeyId, String)>;

impl Tailnet {
    /// Groups the listed nodes by the holders of the keys that they joined with; expired nodes are ignored.
    #[must_use]
    pub fn new(
        now: Timestamp,
        nodes: Vec<Node>,
        keys: &BTreeMap<KeyId, KeyOrigin>,
        users: &BTreeMap<UserId, KeyUser>,
        lent: &ForeignRows,
    ) -> Self {
        let mut tailnet = Self::default();
        for user in users.values() {
            if let (Some(owner), Some(created)) = (&user.owner, user.created) {
                let first = tailnet.created.entry(owner.clone()).or_insert(created);
                *first = created.min(*first);
            }
        }
        for node in nodes {
            tailnet.given_names.insert(node.given_name.clone());
            if node.expiry.is_some_and(|expiry| expiry <= now) {
                continue;
            }
            let origin = node.pre_auth_key.and_then(|key| keys.get(&key));
            let owner = origin.map(|origin| origin.user).or(node.user);
            let joined = JoinedNode {
                id: node.id,
                name: node.name,
                given_name: node.given_name,
                online: node.online,
                created: node.created_at,
                ephemeral: origin.is_some_and(|origin| origin.ephemeral),
                key: node.pre_auth_key.filter(|_| origin.is_some()),
            };
            if let Some(user) = owner.and_then(|owner| users.get(&owner)) {
                let held = tailnet.holders.entry(user.holder()).or_default();
                user.name.clone_into(&mut held.user);
                held.nodes.push(joined);
                continue;
            }
            let Some(key) = node.pre_auth_key else {
                if !node.tags.is_empty() {
                    let name = joined.name.clone();
                    tailnet.nobodys.entry(name).or_default().push(joined);
                }
                continue;
            };
            // The key counts only for the namespace of the Secret that contains it.
            for (_, namespace) in lent
                .range((key, String::new())..)
                .take_while(|one| one.0 == key)
            {
                let name = (namespace.clone(), joined.name.clone());
                tailnet.lent.entry(name).or_default().push(joined.clone());
            }
        }
        tailnet
    }

    /// Returns services with nodes: the owner, the name of a user, and the nodes.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceOwner, &str, &[JoinedNode])> {
        self.holders
            .iter()
            .filter_map(|(holder, held)| match holder {
                KeyHolder::Service(owner) => {
                    Some((owner, held.user.as_str(), held.nodes.as_slice()))
                }
                KeyHolder::Adopted(_) => None,
            })
    }

    /// Returns the nodes of a service.
    #[must_use]
    pub fn of_service(&self, owner: &ServiceOwner) -> &[JoinedNode] {
        self.of(&KeyHolder::Service(owner.clone()))
    }

    /// Returns the nodes of a service, and those of the adopted user of that name.
    pub fn of_service_or_adopted(
        &self,
        owner: &ServiceOwner,
        user: &str,
    ) -> impl Iterator<Item = &JoinedNode> {
        let adopted = self.of(&KeyHolder::Adopted(user.to_owned()));
        self.of_service(owner).iter().chain(adopted)
    }

    fn of(&self, holder: &KeyHolder) -> &[JoinedNode] {
        self.holders
            .get(holder)
            .map_or(&[], |held| held.nodes.as_slice())
    }

    /// Returns when the first user of a service was created; none if the user is adopted or does not exist yet.
    #[must_use]
    pub fn created(&self, owner: &ServiceOwner) -> Option<Timestamp> {
        self.created.get(owner).copied()
    }

    /// Returns the holders and hostnames of nodes that are online.
    #[must_use]
    pub fn online(&self) -> BTreeSet<(KeyHolder, String)> {
        let nodes = self.holders.iter();
        let nodes =
            nodes.flat_map(|(holder, held)| held.nodes.iter().map(move |node| (holder, node)));
        let online = nodes.filter(|(_, node)| node.online);
        online
            .map(|(holder, node)| (holder.clone(), node.name.clone()))
            .collect()
    }

    /// Returns nodes of that hostname that may belong to a pod of the namespace: in doubt, a pod is not reported as lost.
    pub fn unowned(&self, namespace: &str, name: &str) -> impl Iterator<Item = &JoinedNode> {
        let lent = self.lent.get(&(namespace.to_owned(), name.to_owned()));
        let nobodys = self.nobodys.get(name).into_iter();
        nobodys.chain(lent).flatten()
    }

    /// Returns the nodes that may belong to pods of a service, the oldest of which was created at `oldest`; with a hostname, only
    /// nodes that report it, and those whose owner is unknown as well.
    pub fn candidates(
        &self,
        owner: &ServiceOwner,
        user: &str,
        hostname: Option<&str>,
        oldest: Timestamp,
    ) -> impl Iterator<Item = &JoinedNode> {
        let strays = hostname.map(|name| self.unowned(&owner.namespace, name));
        let nodes = self.of_service_or_adopted(owner, user);
        let nodes = nodes.chain(strays.into_iter().flatten());
        // Each pod gets a new ephemeral node.
        let from = oldest.checked_sub(SKEW).unwrap_or(Timestamp::MIN);
        nodes.filter(move |node| {
            hostname.is_none_or(|name| node.name == name)
                && (!node.ephemeral || node.created.is_none_or(|created| created >= from))
        })
    }

    /// Returns whether any node of the tailnet has this DNS label.
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
            id: NodeId::from(id),
            name: "api".into(),
            given_name: format!("api-{id}"),
            user: user.map(UserId::from),
            online: true,
            pre_auth_key: key.map(KeyId::from),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            created_at: None,
            last_seen: None,
            expiry: None,
        }
    }

    #[test]
    fn a_node_belongs_to_the_user_of_the_key_that_it_joined_with() {
        let now = Timestamp::from_second(1_000).unwrap();
        let user = |name: &str, owner| KeyUser {
            name: name.into(),
            owner,
            created: None,
        };
        let api = ServiceOwner::new("shop", "api");
        let users = [
            (UserId::from(1), user("shop.api", Some(api.clone()))),
            (UserId::from(2), user("adopted", None)),
        ];
        let key = |user, ephemeral| KeyOrigin {
            user: UserId::from(user),
            ephemeral,
        };
        let keys = [
            (KeyId::from(10), key(1, true)),
            (KeyId::from(20), key(2, false)),
            (KeyId::from(30), key(3, true)),
            (KeyId::from(31), key(3, true)),
        ];
        let expired = Node {
            expiry: Some(now),
            ..node(8, Some(10), Some(1), &[])
        };
        let nodes = vec![
            // With tags it is listed under a user that was never created.
            node(1, Some(10), Some(2_147_455_555), &["tag:web"]),
            node(2, Some(10), Some(1), &[]),
            node(3, Some(20), Some(2), &[]),
            // Another owner's key, and no key: the first is not ours, the second is by its user only.
            node(4, Some(30), Some(3), &[]),
            node(5, None, Some(1), &[]),
            // The row of its key was deleted.
            node(6, None, Some(2_147_455_555), &["tag:web"]),
            node(7, Some(99), None, &["tag:web"]),
            expired,
            // Another owner's key again, which is in a Secret of keys.
            Node {
                name: "web".into(),
                ..node(9, Some(31), Some(3), &[])
            },
        ];
        let shop = || "shop".to_owned();
        let lent = ForeignRows::from([(KeyId::from(31), shop()), (KeyId::from(10), shop())]);
        let tailnet = Tailnet::new(now, nodes, &keys.into(), &users.into(), &lent);
        let ids = |nodes: &[JoinedNode]| {
            let nodes = nodes
                .iter()
                .map(|node| (node.id.0.number().unwrap(), node.ephemeral));
            nodes.collect::<Vec<_>>()
        };
        let services: Vec<_> = tailnet.services().collect();
        assert!(matches!(services[..], [(owner, "shop.api", _)] if *owner == api));
        let own = tailnet.of_service(&api);
        assert_eq!(ids(own), [(1, true), (2, true), (5, false)]);
        assert_eq!(own[2].key, None);
        let with_adopted = tailnet.of_service_or_adopted(&api, "adopted");
        assert_eq!(with_adopted.last().unwrap().id, NodeId::from(3));
        let web = ServiceOwner::new("shop", "web");
        let adopted: Vec<_> = tailnet.of_service_or_adopted(&web, "adopted").collect();
        assert_eq!(adopted.len(), 1);
        let nobodys = |namespace: &str, name: &str| {
            let nodes = tailnet.unowned(namespace, name);
            nodes
                .filter_map(|node| node.id.0.number())
                .collect::<Vec<_>>()
        };
        assert_eq!(nobodys("any", "api"), [6]);
        assert_eq!(nobodys("shop", "web"), [9]);
        let none: [u64; 0] = [];
        assert_eq!(nobodys("other", "web"), none, "another namespace's word");
        assert!(tailnet.is_taken("api-4") && tailnet.is_taken("api-8") && !tailnet.is_taken("api"));
    }
}

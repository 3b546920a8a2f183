//! The content of a control plane, and keys that differ from their record. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{Node, PreAuthKey, User};
use sidescale_core::problem::Problem;
use sidescale_rotation::nodes::tailnet::{ForeignRows, KeyOrigin, Tailnet};
use sidescale_rotation::owner::{KeyUser, ServiceOwner};
use sidescale_rotation::plan::IssuedKeys;
use sidescale_rotation::record::{self, KeyRecord, Origin};

/// What is known about a control plane.
#[derive(Clone, Debug)]
pub(crate) enum PlaneView {
    /// Its content.
    Held(ServerSnapshot),
    /// Why it could not be read.
    Trouble(Problem),
}

/// The content of a control plane.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerSnapshot {
    pub(crate) users: Vec<User>,
    pub(crate) keys: Vec<PreAuthKey>,
    pub(crate) nodes: Vec<Node>,
}

/// A node that joined with a key of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    /// Its label in the tailnet's DNS.
    pub(crate) name: String,
    pub(crate) online: bool,
    pub(crate) last_seen: Option<Timestamp>,
}

impl ServerSnapshot {
    pub(crate) fn issued(&self, now: Timestamp) -> IssuedKeys {
        let keys = self.keys.iter().map(|key| (key.id, key.clone()));
        IssuedKeys {
            keys: Arc::new(keys.collect()),
            truncated: false,
            users: Arc::new(self.key_users()),
            online: self.tailnet(now, &ForeignRows::new()).online(),
        }
    }

    /// Returns its users, each with the service that it was created for, by any installation.
    fn key_users(&self) -> BTreeMap<UserId, KeyUser> {
        let users = self.users.iter().filter(|user| !user.from_provider);
        let users = users.map(|user| {
            let key_user = KeyUser {
                name: user.name.clone(),
                owner: ServiceOwner::of_any_installation(&user.display_name),
                created: user.created_at,
            };
            (user.id, key_user)
        });
        users.collect()
    }

    /// Returns the nodes that joined with a key of this user.
    pub(crate) fn nodes_of(&self, user: Option<&str>, key: Option<&KeyRecord>) -> Vec<NodeRow> {
        let user = self.users.iter().find(|known| Some(&*known.name) == user);
        let mut ids: BTreeSet<KeyId> = key
            .into_iter()
            .flat_map(|key| {
                let previous = key.previous.iter().map(|previous| previous.id);
                previous.chain(key.current.as_ref().map(|current| current.id))
            })
            .collect();
        if let Some(user) = user {
            let of_user = self.keys.iter().filter(|key| key.user == Some(user.id));
            ids.extend(of_user.map(|key| key.id));
        }
        let of_service = |node: &&Node| {
            node.pre_auth_key.is_some_and(|key| ids.contains(&key))
                || user.is_some_and(|user| node.user == Some(user.id))
        };
        let nodes = self.nodes.iter().filter(of_service).map(|node| NodeRow {
            id: node.id,
            name: node.given_name.clone(),
            online: node.online,
            last_seen: node.last_seen,
        });
        nodes.collect()
    }

    /// Returns its nodes in the form that rotation uses.
    pub(crate) fn tailnet(&self, now: Timestamp, lent: &ForeignRows) -> Tailnet {
        let origin = |key: &PreAuthKey| {
            let origin = KeyOrigin {
                user: key.user.unwrap_or(UserId::from(0)),
                ephemeral: key.ephemeral,
            };
            (key.id, origin)
        };
        Tailnet::new(
            now,
            self.nodes.clone(),
            &self.keys.iter().map(origin).collect(),
            &self.key_users(),
            lent,
        )
    }

    /// Returns how the key differs from its record, if it does.
    pub(crate) fn difference(
        &self,
        now: Timestamp,
        owner: &ServiceOwner,
        current: &record::IssuedKey,
    ) -> Option<String> {
        let Some(key) = self.keys.iter().find(|key| key.id == current.id) else {
            return Some("no longer exists".to_owned());
        };
        let expires = key.expiration.unwrap_or(Timestamp::MIN);
        if expires <= now {
            return Some("has expired".to_owned());
        }
        if !same_fingerprint(expires, current.expires) {
            return Some(format!("expires at {expires}, want {}", current.expires));
        }
        if current.origin != Origin::Ours {
            // The owner of a manual key decides about its user and its tags.
            return None;
        }
        let asked = &current.asked;
        let users = self.key_users();
        let user = key.user.and_then(|user| users.get(&user));
        if !user.is_some_and(|user| user.serves(owner, &asked.user)) {
            let name = user.map_or("nobody", |user| user.name.as_str());
            return Some(format!("belongs to user {name:?}, want {:?}", asked.user));
        }
        let mut tags = key.tags.clone();
        tags.sort();
        if tags != asked.tags {
            return Some(format!("has tags {tags:?}, want {:?}", asked.tags));
        }
        let properties = (key.reusable, key.ephemeral);
        (properties != (asked.reusable, asked.ephemeral))
            .then(|| "is not reusable or ephemeral as requested".to_owned())
    }
}

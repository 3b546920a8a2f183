//! What a control plane holds, beside what the cluster says: keys that differ, and pods without a node. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::report::{NodeRow, Problem, Row};
use crate::commands::inventory::Inventory;
use crate::control_plane::{KeyId, Node, PreAuthKey, User, UserId};
use crate::rotation::demand::{Demands, SecretRef};
use crate::rotation::nodes::{Finding, NodeState, Place, Truth};
use crate::rotation::owner::{KeyUser, Owner};
use crate::rotation::plan::Issued;
use crate::rotation::problem::Trouble;
use crate::rotation::record::{self, KeyRecord, Origin, same_fingerprint};
use crate::rotation::tailnet::{KeyOrigin, Lent, Tailnet};
use crate::rotation::{joining, lent};

/// So many pods are named.
const MOST_NAMED: usize = 5;

/// What is known of a control plane.
#[derive(Clone, Debug)]
pub(crate) enum PlaneView {
    /// What it holds.
    Held(Held),
    /// Why it could not be asked.
    Trouble(Trouble),
}

/// What a control plane holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) users: Vec<User>,
    pub(crate) keys: Vec<PreAuthKey>,
    pub(crate) nodes: Vec<Node>,
}

impl Held {
    pub(super) fn issued(&self, now: Timestamp) -> Issued {
        let keys = self.keys.iter().map(|key| (key.id, key.clone()));
        Issued {
            keys: Arc::new(keys.collect()),
            truncated: false,
            users: Arc::new(self.key_users()),
            online: self.tailnet(now, &Lent::new()).online(),
        }
    }

    /// Its users, each with the service that whichever installation created it for.
    fn key_users(&self) -> BTreeMap<UserId, KeyUser> {
        let users = self.users.iter().filter(|user| !user.from_provider);
        let users = users.map(|user| {
            let key_user = KeyUser {
                name: user.name.clone(),
                owner: Owner::of_any_installation(&user.display_name),
                created: user.created_at,
            };
            (user.id, key_user)
        });
        users.collect()
    }

    /// The nodes that came with a key of this user.
    pub(super) fn nodes_of(&self, user: Option<&str>, key: Option<&KeyRecord>) -> Vec<NodeRow> {
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

    /// Its nodes as rotation sees them.
    fn tailnet(&self, now: Timestamp, lent: &Lent) -> Tailnet {
        let origin = |key: &PreAuthKey| {
            let origin = KeyOrigin {
                user: key.user.unwrap_or(UserId(0)),
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

    /// How the key differs from what the record says, if it does.
    pub(crate) fn difference(
        &self,
        now: Timestamp,
        owner: &Owner,
        current: &record::Issued,
    ) -> Option<String> {
        let Some(key) = self.keys.iter().find(|key| key.id == current.id) else {
            return Some("is not there any more".to_owned());
        };
        let expires = key.expiration.unwrap_or(Timestamp::MIN);
        if expires <= now {
            return Some("has ended".to_owned());
        }
        if !same_fingerprint(expires, current.expires) {
            return Some(format!("ends at {expires}, want {}", current.expires));
        }
        if current.origin != Origin::Ours {
            // Its user and its tags are up to whoever put it there.
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
            return Some(format!("gives tags {tags:?}, want {:?}", asked.tags));
        }
        let properties = (key.reusable, key.ephemeral);
        (properties != (asked.reusable, asked.ephemeral))
            .then(|| "is not reusable or ephemeral as it was asked for".to_owned())
    }
}

/// Holds the pods against the nodes, as rotation does, and writes into the rows which have none.
pub(super) fn miss(
    now: Timestamp,
    rows: &mut [Row],
    inventory: &Inventory,
    planes: &BTreeMap<String, PlaneView>,
) {
    let demands = Demands {
        synced: true,
        namespaces: inventory.demands.clone(),
        ..Demands::default()
    };
    let joining = joining(&inventory.secrets);
    let key_of = |place: &Place| {
        let secret = SecretRef {
            namespace: place.namespace.clone(),
            name: place.secret.clone(),
        };
        joining.get(&(&secret, place.data_key.clone())).copied()
    };
    for (plane, view) in planes {
        let PlaneView::Held(held) = view else {
            continue;
        };
        let lent = lent(inventory.secrets.values()).into_iter();
        let lent = lent.filter(|(of, ..)| of == plane);
        let lent = lent.map(|(_, id, namespace)| (id, namespace));
        let tailnet = held.tailnet(now, &lent.collect());
        let look = Truth::default().look(now, plane, &demands, &tailnet, &key_of);
        for row in rows.iter_mut().filter(|row| row.control_plane == *plane) {
            let findings = look.findings.iter().filter(|finding| {
                let state = matches!(finding.state, NodeState::Late | NodeState::Lost);
                state && finding.place.as_ref().is_some_and(|place| row.is_at(place))
            });
            let findings = Vec::from_iter(findings);
            if !findings.is_empty() {
                row.problems.push(missing(row, &findings));
            }
        }
    }
}

/// Pods with a hostname of their own have a finding each, replicas that share one have one together.
fn missing(row: &Row, findings: &[&Finding]) -> Problem {
    let count: usize = findings.iter().map(|finding| finding.count).sum();
    let pods = findings.iter().flat_map(|finding| &finding.pods);
    let pods = Vec::from_iter(pods.map(|pod| &*pod.name));
    let certain = findings.iter().all(|finding| finding.is_certain());
    let mut names = pods[..pods.len().min(MOST_NAMED)].join(", ");
    if pods.len() > MOST_NAMED {
        names.push_str(&format!(" and {} more", pods.len() - MOST_NAMED));
    }
    let (of, among) = (row.pods, if certain { "" } else { "some of " });
    let have = if count == 1 { "pod has" } else { "pods have" };
    let first = pods.first().copied().unwrap_or("POD");
    Problem {
        text: format!("{count} of {of} {have} no node in the tailnet: {among}{names}"),
        fix: Some(format!(
            "kubectl logs --namespace {} {first} --container tailscale (says why)",
            row.namespace
        )),
    }
}

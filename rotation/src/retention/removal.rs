//! What is no longer used in a control plane: one decision for the regular sweep and `cleanup`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::PreAuthKey;
use sidescale_core::time::after;
use sidescale_webhook::profile::{Policy, UserPolicy};

use super::orphans;
use super::unused::{self, ServerView};
use crate::demand::Demands;
use crate::owner::{KeyUser, ServiceOwner};
use crate::record::{KeyRecord, Record};
use crate::survey::Survey;

/// Something to remove, in this order: a working key, a row, a node, a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal<'a> {
    /// A working key that no Secret knows; its namespace is checked once more before the key is expired.
    Orphan {
        /// The key.
        key: &'a PreAuthKey,
        /// Name of its user.
        user: &'a str,
        /// The service that the user was created for.
        owner: &'a ServiceOwner,
    },
    /// The row of a key that expired long ago.
    Row {
        /// Id of the expired key.
        key: KeyId,
    },
    /// A node that was away for long, of an unused user. Removed only when a person asks.
    Node {
        /// Id of the node.
        id: NodeId,
        /// Its label in the tailnet's DNS.
        name: &'a str,
        /// Name of its user.
        user: &'a str,
        /// When the control plane last saw it.
        seen: Timestamp,
    },
    /// An unused user.
    User {
        /// Id of the user.
        id: UserId,
        /// Name at the control plane.
        name: &'a str,
    },
}

/// The records of all Secrets of keys, by namespace.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Records that could be read. A record speaks only for services in its own namespace.
    pub read: BTreeMap<String, Vec<Record>>,
    /// Namespaces with an unreadable record: it may name anything there, so nothing of the namespace is removed.
    pub unreadable: BTreeSet<String>,
}

/// Returns what to remove from one control plane. Secrets and pods were read after it. Without them only orphans are found,
/// and only if each namespace is asked once more. If the control plane holds more keys than are read, only rows of expired keys
/// are removed, to bring it back below the limit.
#[must_use]
pub fn decide<'a>(
    now: Timestamp,
    control_plane: &str,
    survey: &'a Survey,
    records: Option<&Records>,
    demands: &Demands,
    policy: &Policy,
) -> Vec<Removal<'a>> {
    let Survey {
        keys,
        truncated,
        nodes,
        users,
        release,
    } = survey;
    if !policy.control_planes.contains_key(control_plane) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let age = policy.rotation.orphaned_keys_after;
    let unreadable = |owner: &ServiceOwner| {
        records.is_some_and(|records| records.unreadable.contains(&owner.namespace))
    };
    let candidates = orphans::candidates(now, keys, users, age);
    for (owner, user, key) in candidates.into_iter().filter(|_| !truncated) {
        let is_known = records.is_some_and(|records| {
            let mut own = records.of(&owner.namespace);
            own.any(|record| orphans::is_known(record, control_plane, owner, key))
        });
        if !is_known && !unreadable(owner) {
            let user = user.name.as_str();
            found.push(Removal::Orphan { key, user, owner });
        }
    }
    let Some(records) = records.filter(|_| demands.synced) else {
        return found;
    };
    let readable = records.users(users);
    let view = ServerView {
        keys,
        nodes,
        users: &readable,
        named: &named(control_plane, survey, records),
        wanted: &wanted(control_plane, &readable, records, demands),
    };
    let rows = unused::rows(now, &view).into_iter();
    found.extend(rows.map(|key| Removal::Row { key }));
    if policy.rotation.users == UserPolicy::Never || *truncated {
        return found;
    }
    let over = unused::users(now, &view, *release, policy.rotation.unused_users_after);
    let over = over
        .into_iter()
        .filter_map(|id| Some((id, users.get(&id)?.name.as_str())));
    found.extend(over.map(|(id, name)| Removal::User { id, name }));
    found
}

/// Returns the nodes left behind by keys that were not ephemeral: of users that Sidescale created, that no pod and no record names,
/// not seen for as long as makes a user unused. The regular sweep leaves them: somebody may still look for such a node.
#[must_use]
pub fn away<'a>(
    now: Timestamp,
    control_plane: &str,
    survey: &'a Survey,
    records: &Records,
    demands: &Demands,
    policy: &Policy,
) -> Vec<Removal<'a>> {
    if !demands.synced || survey.truncated {
        return Vec::new();
    }
    let readable = records.users(&survey.users);
    let wanted = wanted(control_plane, &readable, records, demands);
    let owners = survey
        .keys
        .iter()
        .filter_map(|key| Some((key.id, key.user?)));
    let owners: BTreeMap<KeyId, UserId> = owners.collect();
    let away = survey.nodes.iter().filter_map(|node| {
        let of_key = node.pre_auth_key.and_then(|key| owners.get(&key).copied());
        let id = of_key.or(node.user)?;
        let ours = readable.get(&id)?.owner.is_some();
        let user = survey.users.get(&id)?;
        let seen = node.last_seen.filter(|_| !node.online)?;
        let long = now >= after(seen, policy.rotation.unused_users_after);
        (ours && long && !wanted.contains(&id)).then(|| Removal::Node {
            id: node.id,
            name: &node.given_name,
            user: &user.name,
            seen,
        })
    });
    away.collect()
}

impl Records {
    /// Returns the records of one namespace.
    fn of(&self, namespace: &str) -> impl Iterator<Item = &Record> {
        self.read.get(namespace).into_iter().flatten()
    }

    /// Returns the users, without those of namespaces with an unreadable record.
    fn users(&self, users: &BTreeMap<UserId, KeyUser>) -> BTreeMap<UserId, KeyUser> {
        let is_readable = |user: &KeyUser| {
            let owner = user.owner.as_ref();
            owner.is_none_or(|owner| !self.unreadable.contains(&owner.namespace))
        };
        let readable = users.iter().filter(|(_, user)| is_readable(user));
        readable.map(|(id, user)| (*id, user.clone())).collect()
    }

    /// Returns the keys in records, with the namespace of each record.
    fn entries<'a>(&'a self, plane: &'a str) -> impl Iterator<Item = (&'a str, &'a KeyRecord)> {
        let entries = self.read.iter().flat_map(|(namespace, records)| {
            let keys = records.iter().flat_map(|record| record.keys.values());
            keys.map(move |key| (namespace.as_str(), key))
        });
        entries.filter(move |(_, key)| key.control_plane == plane)
    }
}

/// Returns the ids of all keys that a record of their own service names.
fn named(name: &str, survey: &Survey, records: &Records) -> BTreeSet<KeyId> {
    let owned = survey.keys.iter().filter_map(|key| {
        let owner = survey.users.get(&key.user?)?.owner.as_ref()?;
        Some((key.id, (owner.namespace.as_str(), owner.service.as_str())))
    });
    let owned: BTreeMap<KeyId, (&str, &str)> = owned.collect();
    let named = records.entries(name).flat_map(|(namespace, key)| {
        let current = key.current.iter().map(|current| current.id);
        let ids = current.chain(key.previous.iter().map(|previous| previous.id));
        let service = (namespace, key.service.as_str());
        ids.filter(|id| owned.get(id) == Some(&service))
            .collect::<Vec<_>>()
    });
    named.collect()
}

/// Returns the users that a record or a pod of their own namespace names.
fn wanted(
    name: &str,
    users: &BTreeMap<UserId, KeyUser>,
    records: &Records,
    demands: &Demands,
) -> BTreeSet<UserId> {
    let recorded = records.entries(name).flat_map(|(namespace, key)| {
        let current = key.current.iter().map(|current| &current.asked);
        let intents = key
            .intent
            .iter()
            .chain(key.abandoned.iter().map(|abandoned| &abandoned.intent));
        let asked = current.chain(intents.map(|intent| &intent.asked));
        asked.map(move |asked| (namespace, asked.user.as_str()))
    });
    let namespaces = demands.namespaces.iter();
    let asked = namespaces.clone().flat_map(|(namespace, demand)| {
        let keys = demand.secrets.values().flat_map(BTreeMap::values);
        let here = keys.filter(|key| key.control_plane == name);
        here.map(|key| (&**namespace, key.asked.user.as_str()))
    });
    let named: BTreeSet<(&str, &str)> = recorded.chain(asked).collect();
    let guests = namespaces.flat_map(|(namespace, demand)| {
        let here = demand
            .expected_nodes
            .keys()
            .filter(|(plane, _)| plane == name);
        here.map(|(_, service)| (&**namespace, service.as_str()))
    });
    let guests: BTreeSet<(&str, &str)> = guests.collect();
    let wanted = users.iter().filter(|(_, user)| {
        user.owner.as_ref().is_some_and(|owner| {
            let namespace = owner.namespace.as_str();
            named.contains(&(namespace, &user.name))
                || guests.contains(&(namespace, &owner.service))
        })
    });
    wanted.map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests;

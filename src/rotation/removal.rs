//! What of a control plane nothing uses any more, of all that is there: one decision for the hourly sweep and `cleanup`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use sidescale_webhook::profile::{Policy, Users};

use super::cleanup::{self, View};
use super::demand::Demands;
use super::orphans;
use super::plane::Survey;
use super::record::{KeyRecord, Record};
use crate::clock::after;
use crate::control_plane::{KeyId, NodeId, PreAuthKey, UserId};

/// Something to remove. In this order: what still works, what is only a row, what is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal<'a> {
    /// A key that still works and that no Secret knows; its namespace has to say so once more before it is ended.
    Orphan {
        /// The key.
        key: &'a PreAuthKey,
        /// Name of its user.
        user: &'a str,
        /// The namespace that the user's name holds.
        namespace: String,
    },
    /// The row of a key that ended long ago.
    Row {
        /// The key.
        key: KeyId,
    },
    /// A node that was away for long, of a user that nothing needs. Only a person has these removed.
    Node {
        /// The node.
        id: NodeId,
        /// Its label in the tailnet's DNS.
        name: &'a str,
        /// Name of its user.
        user: &'a str,
        /// When the control plane saw it last.
        seen: Timestamp,
    },
    /// A user that nothing needs.
    User {
        /// The user.
        id: UserId,
        /// Its name.
        name: &'a str,
    },
}

/// Decides about one control plane. Secrets and pods were read after it; without them only orphans can be told, and
/// only for as long as each namespace is asked again.
#[must_use]
pub fn decide<'a>(
    now: Timestamp,
    control_plane: &str,
    survey: &'a Survey,
    records: Option<&[Record]>,
    demands: &Demands,
    policy: &Policy,
) -> Vec<Removal<'a>> {
    let Survey {
        keys,
        nodes,
        users,
        release,
    } = survey;
    let Some(config) = policy.control_planes.get(control_plane) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let age = policy.rotation.orphaned_keys_after;
    for (user, keys) in orphans::candidates(now, keys, users, age) {
        // A user that another template named may be of a namespace that its name does not tell.
        let Some(namespace) = orphans::namespace_of(&config.user_template, user) else {
            continue;
        };
        let is_known = |key: &PreAuthKey| {
            let mut records = records.unwrap_or_default().iter();
            records.any(|record| orphans::is_known(record, control_plane, key))
        };
        let unknown = keys.into_iter().filter(|key| !is_known(key));
        found.extend(unknown.map(|key| Removal::Orphan {
            key,
            user,
            namespace: namespace.clone(),
        }));
    }
    let Some(records) = records.filter(|_| demands.synced) else {
        return found;
    };
    let view = View {
        keys,
        nodes,
        users,
        named: &named(control_plane, records),
        wanted: &wanted(control_plane, records, demands),
    };
    let rows = cleanup::rows(now, &view).into_iter();
    found.extend(rows.map(|key| Removal::Row { key }));
    if policy.rotation.users == Users::Never {
        return found;
    }
    let over = cleanup::users(now, &view, *release, policy.rotation.unused_users_after);
    let over = over
        .into_iter()
        .filter_map(|id| Some((id, users.get(&id)?.name.as_str())));
    found.extend(over.map(|(id, name)| Removal::User { id, name }));
    found
}

/// The nodes that stay behind where keys were not ephemeral: of users of ours that no pod and no record names, not seen for
/// as long as makes a user unused. The hourly sweep leaves them: a node may be what somebody still looks for.
#[must_use]
pub fn away<'a>(
    now: Timestamp,
    control_plane: &str,
    survey: &'a Survey,
    records: &[Record],
    demands: &Demands,
    policy: &Policy,
) -> Vec<Removal<'a>> {
    if !demands.synced {
        return Vec::new();
    }
    let wanted = wanted(control_plane, records, demands);
    let owners = survey
        .keys
        .iter()
        .filter_map(|key| Some((key.id, key.user?)));
    let owners: BTreeMap<KeyId, UserId> = owners.collect();
    let away = survey.nodes.iter().filter_map(|node| {
        let of_key = node.pre_auth_key.and_then(|key| owners.get(&key).copied());
        let user = survey.users.get(&of_key.or(node.user)?)?;
        let seen = node.last_seen.filter(|_| !node.online)?;
        let long = now >= after(seen, policy.rotation.unused_users_after);
        (user.ours && long && !wanted.contains(&user.name)).then(|| Removal::Node {
            id: node.id,
            name: &node.given_name,
            user: &user.name,
            seen,
        })
    });
    away.collect()
}

fn of_plane<'a>(name: &'a str, records: &'a [Record]) -> impl Iterator<Item = &'a KeyRecord> {
    let keys = records.iter().flat_map(|record| record.keys.values());
    keys.filter(move |key| key.control_plane == name)
}

/// The ids of all keys that records name.
fn named(name: &str, records: &[Record]) -> BTreeSet<KeyId> {
    let ids = of_plane(name, records).flat_map(|key| {
        let current = key.current.iter().map(|current| current.id);
        current.chain(key.previous.iter().map(|previous| previous.id))
    });
    ids.collect()
}

/// The names of all users that a record or a pod names.
fn wanted(name: &str, records: &[Record], demands: &Demands) -> BTreeSet<String> {
    let recorded = of_plane(name, records).flat_map(|key| {
        let current = key.current.iter().map(|current| &current.asked);
        let intents = key
            .intent
            .iter()
            .chain(key.abandoned.iter().map(|abandoned| &abandoned.intent));
        current.chain(intents.map(|intent| &intent.asked))
    });
    let recorded = recorded.map(|asked| asked.user.clone());
    let demands = demands.namespaces.values();
    let asked = demands.clone().flat_map(|demand| {
        let keys = demand.secrets.values().flat_map(BTreeMap::values);
        keys.filter(|key| key.control_plane == name)
            .map(|key| key.asked.user.clone())
    });
    let guests = demands.flat_map(|demand| demand.guests.keys());
    let guests = guests.filter(|(plane, _)| plane == name);
    recorded
        .chain(asked)
        .chain(guests.map(|(_, user)| user.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::{Node, Release};
    use crate::rotation::record::{Asked, Issued};
    use crate::rotation::tailnet::KeyUser;

    const DAY: i64 = 86_400;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    /// Key `id` of `user`, made on day 0, that ends on `day`.
    fn key(id: u64, user: u64, day: i64) -> PreAuthKey {
        PreAuthKey {
            prefix: None,
            id: KeyId(id),
            user: Some(UserId(user)),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: Some(at(day)),
            created_at: Some(at(0)),
            tags: Vec::new(),
        }
    }

    /// What the Secret of `shop` remembers.
    fn record(id: u64) -> Record {
        let mut key = KeyRecord::new("api", "default");
        key.current = Some(Issued {
            origin: crate::rotation::record::Origin::Ours,
            id: KeyId(id),
            created: at(0),
            expires: at(200),
            asked: Asked {
                user: "shop.api".into(),
                tags: Vec::new(),
                reusable: true,
                ephemeral: true,
            },
        });
        Record {
            keys: [("api-authkey".to_owned(), key)].into(),
            ..Record::default()
        }
    }

    fn survey(release: Release) -> Survey {
        let user = |name: &str| KeyUser {
            name: name.into(),
            ours: name != "lent.api",
            created: None,
        };
        let names = [
            (1, "shop.api"),
            (2, "gone.web"),
            (3, "old.db"),
            (4, "lent.api"),
            (5, "UPPER"),
        ];
        let keys = vec![
            // In force; one that ended long ago, and one that ended six days ago.
            key(7, 1, 200),
            key(5, 1, 10),
            key(6, 1, 94),
            // Nobody knows it: its namespace is gone.
            key(8, 2, 200),
            // Ended long ago, and nothing else is left of the service.
            key(9, 3, 20),
            // Not ours, and of a name that tells no namespace.
            key(10, 4, 200),
            key(11, 5, 200),
        ];
        Survey {
            keys,
            nodes: Vec::new(),
            users: names.map(|(id, name)| (UserId(id), user(name))).into(),
            release,
        }
    }

    fn shown(removals: Vec<Removal<'_>>) -> Vec<String> {
        let shown = removals.into_iter().map(|removal| match removal {
            Removal::Orphan {
                key,
                user,
                namespace,
            } => format!("key {} of {user} in {namespace}", key.id.0),
            Removal::Row { key } => format!("row {}", key.0),
            Removal::Node { id, user, .. } => format!("node {} of {user}", id.0),
            Removal::User { id, name } => format!("user {} {name}", id.0),
        });
        shown.collect()
    }

    #[test]
    fn nodes_that_were_away_for_long_stay_behind_where_nobody_needs_their_user() {
        let policy = Policy::for_login_server("https://headscale.example.com").unwrap();
        let node = |id: u64, key: Option<u64>, user: Option<u64>, seen: Option<i64>| Node {
            id: NodeId(id),
            name: "host".into(),
            given_name: "host".into(),
            user: user.map(UserId),
            online: false,
            pre_auth_key: key.map(KeyId),
            tags: Vec::new(),
            created_at: None,
            last_seen: seen.map(at),
            expiry: None,
        };
        let online = Node {
            online: true,
            ..node(4, Some(8), None, Some(1))
        };
        let nodes = vec![
            // A record names its user, whose key it came with.
            node(1, Some(7), None, Some(1)),
            // By its key, whatever user tags gave it; and by its user.
            node(2, Some(8), Some(2_147_455_555), Some(70)),
            node(3, None, Some(3), Some(1)),
            online,
            node(5, Some(8), None, Some(71)),
            node(6, Some(8), None, None),
            // Of somebody else, and of nobody.
            node(7, Some(10), None, Some(1)),
            node(8, None, None, Some(1)),
            node(9, Some(99), Some(2_147_455_555), Some(1)),
        ];
        let survey = Survey {
            nodes,
            ..survey(Release::V0_28)
        };
        let away = |synced| {
            let demands = Demands {
                synced,
                ..Demands::default()
            };
            let found = away(at(100), "default", &survey, &[record(7)], &demands, &policy);
            shown(found)
        };
        assert_eq!(away(true), ["node 2 of gone.web", "node 3 of old.db"]);
        assert_eq!(away(false), Vec::<String>::new());
    }

    #[test]
    fn finds_what_nothing_uses_and_leaves_the_rest() {
        let policy = Policy::for_login_server("https://headscale.example.com").unwrap();
        let synced = Demands {
            synced: true,
            ..Demands::default()
        };
        let records = [record(7)];
        let decided = |release, records: Option<&[Record]>, demands: &Demands| {
            shown(decide(
                at(100),
                "default",
                &survey(release),
                records,
                demands,
                &policy,
            ))
        };
        let (orphan, row) = ("key 8 of gone.web in gone", "row 5");
        let all = decided(Release::V0_29, Some(&records), &synced);
        assert_eq!(all, [orphan, row, "user 3 old.db"]);
        let old = decided(Release::V0_28, Some(&records), &synced);
        assert_eq!(old, [orphan, row], "users of 0.28 stay");
        let mut theirs = policy.clone();
        theirs.rotation.users = Users::Never;
        let kept = survey(Release::V0_29);
        let kept = decide(at(100), "default", &kept, Some(&records), &synced, &theirs);
        assert_eq!(shown(kept), [orphan, row], "people remove users");
        let unsure = decided(Release::V0_29, Some(&records), &Demands::default());
        assert_eq!(unsure, [orphan], "pods may be missing");
        let unread = decided(Release::V0_29, None, &synced);
        let known = "key 7 of shop.api in shop";
        assert_eq!(unread, [orphan, known], "their namespaces are asked");
        let nobody = Policy {
            control_planes: BTreeMap::new(),
            ..policy.clone()
        };
        let survey = survey(Release::V0_29);
        let none = decide(
            at(100),
            "default",
            &survey,
            Some(&records),
            &synced,
            &nobody,
        );
        assert_eq!(none, []);
    }

    #[test]
    fn what_a_pod_or_an_intent_names_is_wanted() {
        let mut record = Record::default();
        let mut key = KeyRecord::new("db", "default");
        let intent = |user: &str, second| crate::rotation::record::Intent {
            op: "a".into(),
            writer: "w".into(),
            started_at: at(0),
            expires: Timestamp::from_second(second).unwrap(),
            asked: Asked {
                user: user.into(),
                tags: Vec::new(),
                reusable: true,
                ephemeral: true,
            },
        };
        key.intend(intent("shop.before", 1), at(0));
        key.intend(intent("shop.db", 2), at(0));
        record.keys.insert("db-authkey".into(), key);
        let mut namespace = crate::rotation::demand::NamespaceDemand::default();
        let guest = ("default".to_owned(), "shop.guest".to_owned());
        namespace.guests.insert(guest, 1);
        let elsewhere = ("other".to_owned(), "shop.elsewhere".to_owned());
        namespace.guests.insert(elsewhere, 1);
        let mut demands = Demands::default();
        demands
            .namespaces
            .insert("shop".into(), std::sync::Arc::new(namespace));
        let wanted = wanted("default", &[record], &demands);
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        assert_eq!(wanted, ["shop.before", "shop.db", "shop.guest"]);
    }
}

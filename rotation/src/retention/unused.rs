//! What is no longer needed: keys of services without pods, rows of expired keys, and users. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::{Node, PreAuthKey};
use sidescale_core::release::HeadscaleRelease;
use sidescale_core::time::after;

use crate::owner::KeyUser;
use crate::record::KeyRecord;

/// How long the newest rows of a user's expired keys are kept: they tell which user a node belonged to.
const ROWS_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How many rows of a user are its newest.
const NEWEST: usize = 2;

/// How long the other rows are kept: a node that joined a moment ago is not in the list of nodes yet.
const OLDER_ROWS_FOR: Duration = Duration::from_secs(3_600);

/// What to do about an unused or used key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// Nothing: it is used, or already retired.
    Used,
    /// Record since when it is unused; none: it is used again.
    Note(Option<Timestamp>),
    /// Nothing before that time.
    Wait(Timestamp),
    /// Take it out of its Secret, and expire it.
    Retire,
    /// Forget it: nothing is left to remember.
    Forget,
}

/// Returns what to do about a key, by whether pods demand it; all pods must have been seen.
#[must_use]
pub fn unused(now: Timestamp, key: &KeyRecord, demanded: bool, kept_for: Duration) -> Unused {
    match key.unused_since {
        Some(_) if demanded => Unused::Note(None),
        None if demanded => Unused::Used,
        Some(_) | None if key.is_empty() => Unused::Forget,
        Some(_) | None if key.current.is_none() => Unused::Used,
        // A time in the future was written by a clock that is off.
        Some(since) if since <= now => {
            let until = after(since, kept_for);
            if now < until {
                Unused::Wait(until)
            } else {
                Unused::Retire
            }
        }
        Some(_) | None => Unused::Note(Some(now)),
    }
}

/// Everything at one control plane, listed in this order: keys, then nodes. Records were read after both.
#[derive(Clone, Copy, Debug)]
pub struct ServerView<'a> {
    /// All keys.
    pub keys: &'a [PreAuthKey],
    /// All nodes.
    pub nodes: &'a [Node],
    /// Users that keys are created for.
    pub users: &'a BTreeMap<UserId, KeyUser>,
    /// Ids of keys that a record of their own service names.
    pub named: &'a BTreeSet<KeyId>,
    /// Users that a record or a pod of their own namespace names.
    pub wanted: &'a BTreeSet<UserId>,
}

/// Returns the rows that may be deleted: of users that Sidescale created, named by no node and no record, and expired for an
/// hour, or for a week if among the newest two of a user.
///
/// A node is ephemeral only through its key's row: without the row it would stay forever. The last row of a user stays as
/// well: it tells since when the user was not needed.
#[must_use]
pub fn rows(now: Timestamp, view: &ServerView<'_>) -> Vec<KeyId> {
    let used: BTreeSet<KeyId> = view
        .nodes
        .iter()
        .filter_map(|node| node.pre_auth_key)
        .collect();
    let mut last: BTreeMap<UserId, (Timestamp, KeyId)> = BTreeMap::new();
    let mut over: BTreeMap<UserId, Vec<(Timestamp, KeyId)>> = BTreeMap::new();
    for (user, end, key) in ends(view) {
        let entry = last.entry(user).or_insert((end, key.id));
        *entry = (*entry).max((end, key.id));
        let since = over_since(key, end);
        if since <= now {
            over.entry(user).or_default().push((since, key.id));
        }
    }
    let mut found = Vec::new();
    for (user, mut rows) in over {
        rows.sort_by(|one, other| other.cmp(one));
        let last = last.get(&user).map(|(_, key)| *key);
        for (index, (since, key)) in rows.into_iter().enumerate() {
            let kept = if index < NEWEST {
                ROWS_FOR
            } else {
                OLDER_ROWS_FOR
            };
            let named = used.contains(&key) || view.named.contains(&key);
            if now >= after(since, kept) && last != Some(key) && !named {
                found.push(key);
            }
        }
    }
    found.sort();
    found
}

/// Returns since when the key is useless. The time when a single-use key was used is unknown: its creation time is the earliest.
fn over_since(key: &PreAuthKey, end: Timestamp) -> Timestamp {
    match key.created_at {
        Some(created) if key.used && !key.reusable => end.min(created),
        Some(_) | None => end,
    }
}

/// Returns the users that may be deleted: created by Sidescale, without nodes and working keys, needed by no pod or record, their
/// last key expired `unused` ago. A user without rows of keys, because its first key was never created or its rows were
/// deleted, counts from its creation. None on 0.28, where deleting a user deletes every pre-auth key of the server.
#[must_use]
pub fn users(
    now: Timestamp,
    view: &ServerView<'_>,
    release: HeadscaleRelease,
    unused: Duration,
) -> Vec<UserId> {
    match release {
        HeadscaleRelease::V0_28 => return Vec::new(),
        HeadscaleRelease::V0_29 | HeadscaleRelease::V0_30 => {}
    }
    let owners: BTreeMap<KeyId, UserId> = view
        .keys
        .iter()
        .filter_map(|key| Some((key.id, key.user?)))
        .collect();
    let of_keys = view.nodes.iter().filter_map(|node| node.pre_auth_key);
    let of_keys = of_keys.filter_map(|key| owners.get(&key).copied());
    let with_nodes: BTreeSet<UserId> = view
        .nodes
        .iter()
        .filter_map(|node| node.user)
        .chain(of_keys)
        .collect();
    let with_keys: BTreeSet<UserId> = owners.values().copied().collect();
    let mut last: BTreeMap<UserId, Timestamp> = BTreeMap::new();
    for (user, end, _) in ends(view) {
        let entry = last.entry(user).or_insert(end);
        *entry = (*entry).max(end);
    }
    let over = view.users.iter().filter(|(id, user)| {
        let idle_since = last
            .get(id)
            .copied()
            .or(user.created.filter(|_| !with_keys.contains(id)));
        let ended = idle_since.is_some_and(|since| now >= after(since, unused));
        user.owner.is_some() && ended && !with_nodes.contains(id) && !view.wanted.contains(id)
    });
    over.map(|(id, _)| *id).collect()
}

/// Returns the keys of users that Sidescale created, and when each expires; a row without expiry was never a key.
fn ends<'a>(view: &ServerView<'a>) -> impl Iterator<Item = (UserId, Timestamp, &'a PreAuthKey)> {
    let users = view.users;
    view.keys.iter().filter_map(move |key| {
        let user = key.user?;
        users.get(&user)?.owner.as_ref()?;
        // A key created after its own expiry was expired by a clock that is off.
        let end = key.expiration?.max(key.created_at?);
        Some((user, end, key))
    })
}

#[cfg(test)]
mod tests {
    use sidescale_core::id::NodeId;

    use super::*;
    use crate::owner::ServiceOwner;

    const DAY: i64 = 86_400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_key_goes_when_no_pod_has_needed_it_for_long() {
        let week = Duration::from_secs(7 * 86_400);
        let mut key = KeyRecord::new("api", "default");
        let now = at(100 * DAY);
        assert_eq!(unused(now, &key, false, week), Unused::Forget);
        assert_eq!(unused(now, &key, true, week), Unused::Used);
        key.previous.push(crate::record::Previous {
            id: KeyId::from(1),
            expire_at: at(0),
            expires: at(0),
            revoked: false,
        });
        assert_eq!(
            unused(now, &key, false, week),
            Unused::Used,
            "on its way out"
        );
        let current = r#"{"id":2,"created":"2026-01-01T00:00:00Z","expires":"2026-01-01T00:00:00Z",
            "user":"shop.api","reusable":true,"ephemeral":true}"#;
        key.current = Some(serde_json::from_str(current).unwrap());
        assert_eq!(unused(now, &key, true, week), Unused::Used);
        assert_eq!(unused(now, &key, false, week), Unused::Note(Some(now)));
        for (since, want) in [
            (100 * DAY, Unused::Wait(at(107 * DAY))),
            (93 * DAY + 1, Unused::Wait(at(100 * DAY + 1))),
            (93 * DAY, Unused::Retire),
            (0, Unused::Retire),
            (101 * DAY, Unused::Note(Some(now))),
        ] {
            key.unused_since = Some(at(since));
            assert_eq!(unused(now, &key, false, week), want, "{since}");
            assert_eq!(unused(now, &key, true, week), Unused::Note(None));
        }
    }

    /// Key `id` of `user`, that expires on `day`.
    fn key(id: u64, user: u64, day: i64) -> PreAuthKey {
        PreAuthKey {
            prefix: None,
            id: KeyId::from(id),
            user: Some(UserId::from(user)),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: Some(at(day * DAY)),
            created_at: Some(at(0)),
            tags: Vec::new(),
        }
    }

    fn node(key: Option<u64>, user: Option<u64>) -> Node {
        Node {
            id: NodeId::from(1),
            name: "api".into(),
            given_name: "api".into(),
            user: user.map(UserId::from),
            online: false,
            pre_auth_key: key.map(KeyId::from),
            tags: Vec::new(),
            created_at: None,
            last_seen: None,
            expiry: None,
        }
    }

    /// Users 1 and 2 are ours, 3 is adopted.
    fn known() -> BTreeMap<UserId, KeyUser> {
        let user = |(id, name, service): (_, _, Option<&str>)| {
            let user = KeyUser {
                name: String::from(name),
                owner: service.map(|service| ServiceOwner::new("shop", service)),
                created: Some(at(0)),
            };
            (UserId::from(id), user)
        };
        [
            (1, "shop.api", Some("api")),
            (2, "shop.db", Some("db")),
            (3, "adopted", None),
        ]
        .map(user)
        .into()
    }

    fn rows_over(keys: &[PreAuthKey], nodes: &[Node], named: &[u64], now: Timestamp) -> Vec<u64> {
        let users = known();
        let view = ServerView {
            keys,
            nodes,
            users: &users,
            named: &named.iter().map(|id| KeyId::from(*id)).collect(),
            wanted: &BTreeSet::new(),
        };
        let rows = super::rows(now, &view);
        rows.iter().filter_map(|id| id.0.number()).collect()
    }

    #[test]
    fn the_newest_rows_of_a_user_go_a_week_after_their_end_unless_something_names_them() {
        let keys = [
            key(1, 1, 10),
            key(4, 1, 12),
            key(5, 3, 10),
            // Of another owner's user.
            key(6, 9, 10),
            // The last of its user.
            key(7, 2, 10),
        ];
        let nodes = [node(None, Some(1))];
        let rows = |day: i64, second: i64, nodes: &[Node], named: &[u64]| {
            rows_over(&keys, nodes, named, at(day * DAY + second))
        };
        let none: [u64; 0] = [];
        assert_eq!(rows(17, -1, &nodes, &[]), none);
        assert_eq!(rows(17, 0, &nodes, &[]), [1]);
        assert_eq!(
            rows(1_000, 0, &nodes, &[]),
            [1],
            "4 is the last of its user"
        );
        assert_eq!(rows(1_000, 0, &nodes, &[1]), none, "a record names it");
        let by_node = [node(Some(1), None)];
        assert_eq!(rows(1_000, 0, &by_node, &[]), none, "a node names it");
    }

    #[test]
    fn older_rows_go_after_an_hour_and_so_do_those_of_used_keys() {
        let used = |id, end| PreAuthKey {
            used: true,
            reusable: false,
            ..key(id, 1, end)
        };
        let keys: Vec<_> = (1..=4)
            .map(|id| key(id, 1, 10))
            .chain([key(5, 1, 20), used(6, 30)])
            .collect();
        let rows = |second: i64, named: &[u64]| rows_over(&keys, &[], named, at(10 * DAY + second));
        let none: [u64; 0] = [];
        // 6 no longer works, and is the last of its user by its expiry.
        assert_eq!(rows(3_599, &[]), none);
        assert_eq!(rows(3_600, &[]), [1, 2]);
        assert_eq!(rows(3_600, &[2]), [1], "a record names it");
        let single: Vec<_> = (1..=4)
            .map(|id| used(id, 1))
            .chain([key(5, 1, 9)])
            .collect();
        assert_eq!(rows_over(&single, &[], &[], at(3_599)), none);
        assert_eq!(rows_over(&single, &[], &[], at(3_600)), [1, 2]);
        assert_eq!(
            rows_over(&single, &[node(Some(1), None)], &[], at(3_600)),
            [2]
        );
    }

    #[test]
    fn a_user_goes_thirty_days_after_its_last_key_if_nothing_is_left_of_it() {
        let month = Duration::from_secs(30 * 86_400);
        let keys = [
            key(1, 1, 10),
            key(2, 1, 8),
            key(3, 2, 10),
            key(4, 3, 10),
            key(5, 9, 10),
        ];
        let all = known();
        let over = |day: i64, nodes: &[Node], wanted: &[u64], release| {
            let wanted = wanted.iter().map(|id| UserId::from(*id)).collect();
            let view = ServerView {
                keys: &keys,
                nodes,
                users: &all,
                named: &BTreeSet::new(),
                wanted: &wanted,
            };
            let users = users(at(day * DAY), &view, release, month);
            users
                .iter()
                .filter_map(|id| id.0.number())
                .collect::<Vec<_>>()
        };
        let new = HeadscaleRelease::V0_29;
        assert_eq!(over(39, &[], &[], new), Vec::<u64>::new());
        assert_eq!(over(40, &[], &[], new), [1, 2]);
        assert_eq!(over(40, &[], &[1], new), [2]);
        assert_eq!(
            over(40, &[node(Some(2), None)], &[], new),
            [2],
            "by its key"
        );
        assert_eq!(
            over(40, &[node(None, Some(2))], &[], new),
            [1],
            "by its user"
        );
        assert_eq!(
            over(4_000, &[], &[], HeadscaleRelease::V0_28),
            Vec::<u64>::new()
        );
        assert_eq!(over(40, &[], &[], HeadscaleRelease::V0_30), [1, 2]);
    }

    #[test]
    fn a_user_that_never_had_a_key_counts_from_when_it_was_made() {
        let month = Duration::from_secs(30 * 86_400);
        let mut all = known();
        let gone = |day: i64, second: i64, all: &BTreeMap<_, _>, keys: &[PreAuthKey]| {
            let view = ServerView {
                keys,
                nodes: &[],
                users: all,
                named: &BTreeSet::new(),
                wanted: &BTreeSet::new(),
            };
            let now = at(day * DAY + second);
            let users = users(now, &view, HeadscaleRelease::V0_29, month);
            users
                .iter()
                .filter_map(|id| id.0.number())
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(30, -1, &all, &[]), Vec::<u64>::new());
        assert_eq!(gone(30, 0, &all, &[]), [1, 2], "3 was lent");
        let mut odd = key(1, 1, 10);
        odd.expiration = None;
        assert_eq!(gone(60, 0, &all, &[odd]), [2], "1 has a key of some kind");
        all.get_mut(&UserId::from(1)).unwrap().created = None;
        assert_eq!(gone(4_000, 0, &all, &[]), [2], "nobody knows how old 1 is");
    }

    #[test]
    fn a_user_with_a_live_key_stays() {
        let keys = [key(1, 1, 10), key(2, 1, 100)];
        let all = known();
        let view = ServerView {
            keys: &keys,
            nodes: &[],
            users: &all,
            named: &BTreeSet::new(),
            wanted: &BTreeSet::new(),
        };
        let month = Duration::from_secs(30 * 86_400);
        let gone = users(at(60 * DAY), &view, HeadscaleRelease::V0_29, month);
        assert_eq!(gone, [UserId::from(2)], "it has none");
    }
}

//! Valid keys of our users that no Secret knows: left behind by deleted namespaces, found by the owner tag. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::id::UserId;
use sidescale_core::objects::PreAuthKey;
use sidescale_core::time::after;

use crate::owner::{KeyUser, ServiceOwner};
use crate::record::{Intent, KeyRecord, Record};

/// Returns valid keys older than `age`, of users that Sidescale created, each with the service of its user. They are orphans if no
/// Secret knows them.
pub fn candidates<'a>(
    now: Timestamp,
    keys: &'a [PreAuthKey],
    users: &'a BTreeMap<UserId, KeyUser>,
    age: Duration,
) -> impl Iterator<Item = (&'a ServiceOwner, &'a KeyUser, &'a PreAuthKey)> {
    keys.iter().filter_map(move |key| {
        let user = users.get(&key.user?)?;
        let owner = user.owner.as_ref()?;
        // A single-use key that was used is useless.
        let over = key.used && !key.reusable;
        let alive = !over && key.expiration.is_some_and(|end| now < end);
        let old = key.created_at.is_some_and(|made| now >= after(made, age));
        (alive && old).then_some((owner, user, key))
    })
}

/// Returns whether the record, of a Secret in the owner's namespace, knows the key or may have requested it.
#[must_use]
pub fn is_known(
    record: &Record,
    control_plane: &str,
    owner: &ServiceOwner,
    key: &PreAuthKey,
) -> bool {
    let known = |record: &KeyRecord| {
        let KeyRecord {
            current,
            previous,
            intent,
            abandoned,
            ..
        } = record;
        let ends = |at| key.expiration.is_some_and(|end| same_fingerprint(end, at));
        let asked = |intent: &Intent| ends(intent.expires);
        let is = |id, expires| id == key.id && ends(expires);
        let in_force = current.as_ref();
        in_force.is_some_and(|current| is(current.id, current.expires))
            || previous
                .iter()
                .any(|previous| is(previous.id, previous.expires))
            || intent.as_ref().is_some_and(asked)
            || abandoned.iter().any(|abandoned| asked(&abandoned.intent))
    };
    let keys = record.keys.values();
    keys.filter(|record| record.control_plane == control_plane && record.service == owner.service)
        .any(known)
}

#[cfg(test)]
mod tests {
    use sidescale_core::id::KeyId;

    use super::*;
    use crate::record::{IssuedKey, KeySpec, Previous};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(id: u64, user: Option<u64>, created: i64, expires: i64) -> PreAuthKey {
        PreAuthKey {
            prefix: None,
            id: KeyId::from(id),
            user: user.map(UserId::from),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: Some(at(expires)),
            created_at: Some(at(created)),
            tags: Vec::new(),
        }
    }

    #[test]
    fn only_old_live_keys_of_users_of_ours_may_be_orphans() {
        let user = |name: &str, owner: Option<&str>| KeyUser {
            name: name.into(),
            owner: owner.map(|service| ServiceOwner::new("shop", service)),
            created: None,
        };
        let users = BTreeMap::from([
            (UserId::from(1), user("any name", Some("api"))),
            (UserId::from(2), user("adopted", None)),
        ]);
        let mut ageless = key(6, Some(1), 0, 9_000);
        ageless.created_at = None;
        let used_up = PreAuthKey {
            used: true,
            reusable: false,
            ..key(8, Some(1), 400, 9_000)
        };
        let keys = [
            key(1, Some(1), 400, 9_000),
            key(2, Some(2), 400, 9_000),
            key(3, None, 400, 9_000),
            key(4, Some(1), 401, 9_000),
            key(5, Some(1), 400, 1_000),
            ageless,
            used_up,
            key(7, Some(3), 400, 9_000),
        ];
        let found = candidates(at(1_000), &keys, &users, Duration::from_secs(600));
        let found: Vec<_> = found
            .map(|(owner, _, key)| (owner.to_string(), key.id))
            .collect();
        assert_eq!(found, [("shop/api".to_owned(), KeyId::from(1))]);
    }

    #[test]
    fn a_record_knows_what_it_has_had_and_asked_for() {
        let asked = || KeySpec {
            user: "shop.api".into(),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
        };
        let intent = |expires| Intent {
            op: "a".into(),
            writer: "w".into(),
            started_at: at(0),
            expires: at(expires),
            asked: asked(),
        };
        let mut api = KeyRecord::new("api", "default");
        api.current = Some(IssuedKey {
            origin: crate::record::Origin::Ours,
            id: KeyId::from(1),
            created: at(0),
            expires: at(9_001),
            asked: asked(),
        });
        api.previous.push(Previous {
            revoked: false,
            id: KeyId::from(2),
            expire_at: at(1),
            expires: at(9_002),
        });
        api.intend(intent(9_003), at(0));
        api.intend(intent(9_004), at(0));
        let mut record = Record::default();
        record.keys.insert("api-authkey".into(), api);
        let owner = ServiceOwner::new("shop", "api");
        for (id, expires, want) in [
            (1, 9_001, true),
            (2, 9_002, true),
            (3, 9_003, true),
            (4, 9_004, true),
            (5, 9_001, false),
            // Headscale was restored, and reassigned the ids.
            (1, 5_000, false),
            (2, 5_000, false),
        ] {
            let key = key(id, Some(1), 0, expires);
            assert_eq!(is_known(&record, "default", &owner, &key), want, "{id}");
            assert!(!is_known(&record, "other", &owner, &key));
            let other = ServiceOwner::new("shop", "web");
            assert!(!is_known(&record, "default", &other, &key));
        }
    }
}

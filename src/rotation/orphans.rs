//! Live keys of users of ours that no Secret knows: what a deleted namespace leaves behind, found by our mark. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_webhook::identity;

use super::record::{Intent, KeyRecord, Record, same_fingerprint};
use super::tailnet::KeyUser;
use crate::clock::after;
use crate::control_plane::{PreAuthKey, UserId};

/// The live keys of users of ours that are older than `age`, by user. They may be orphans, if no Secret knows them.
#[must_use]
pub fn candidates<'a>(
    now: Timestamp,
    keys: &'a [PreAuthKey],
    users: &'a BTreeMap<UserId, KeyUser>,
    age: Duration,
) -> BTreeMap<&'a str, Vec<&'a PreAuthKey>> {
    let mut found: BTreeMap<&str, Vec<&PreAuthKey>> = BTreeMap::new();
    for key in keys {
        let user = key.user.and_then(|user| users.get(&user));
        // One that works once and was used is good for nothing.
        let over = key.used && !key.reusable;
        let alive = !over && key.expiration.is_some_and(|end| now < end);
        let old = key.created_at.is_some_and(|made| now >= after(made, age));
        if let Some(user) = user.filter(|user| user.ours && alive && old) {
            found.entry(&user.name).or_default().push(key);
        }
    }
    found
}

/// The namespace that a user's name holds; none if the name did not come from this template.
#[must_use]
pub fn namespace_of(template: &str, user: &str) -> Option<String> {
    let whole = std::iter::once(user);
    // A name that would not begin with a letter was given these.
    let bare = user.strip_prefix("n_");
    whole.chain(bare).find_map(|text| {
        let (namespace, service) = split(template, text)?;
        let again = identity::user(template, namespace, service);
        (again == user && is_label(namespace)).then(|| namespace.to_owned())
    })
}

/// Whether the record knows the key, or may have asked for it.
#[must_use]
pub fn is_known(record: &Record, control_plane: &str, key: &PreAuthKey) -> bool {
    let known = |record: &KeyRecord| {
        let KeyRecord {
            current,
            previous,
            intent,
            abandoned,
            ..
        } = record;
        let asked = |intent: &Intent| {
            let end = key.expiration;
            end.is_some_and(|end| same_fingerprint(end, intent.expires))
        };
        current.as_ref().is_some_and(|current| current.id == key.id)
            || previous.iter().any(|previous| previous.id == key.id)
            || intent.as_ref().is_some_and(asked)
            || abandoned.iter().any(|abandoned| asked(&abandoned.intent))
    };
    let keys = record.keys.values();
    keys.filter(|record| record.control_plane == control_plane)
        .any(known)
}

/// Cuts the namespace and the service out of a name: a namespace has none of the characters that part the two.
fn split<'a>(template: &str, user: &'a str) -> Option<(&'a str, &'a str)> {
    const NAMESPACE: &str = "{namespace}";
    const SERVICE: &str = "{service}";
    let parts = |c: char| matches!(c, '.' | '_' | '@');
    let (n, s) = (template.find(NAMESPACE)?, template.find(SERVICE)?);
    let (first, second) = if n < s {
        (NAMESPACE, SERVICE)
    } else {
        (SERVICE, NAMESPACE)
    };
    let (before, rest) = template.split_once(first)?;
    let (between, behind) = rest.split_once(second)?;
    let middle = user.strip_prefix(before)?.strip_suffix(behind)?;
    if n < s {
        let end = middle.find(parts)?.checked_sub(between.find(parts)?)?;
        Some((middle.get(..end)?, middle.get(end + between.len()..)?))
    } else {
        let tail = between.len() - between.rfind(parts)?;
        let start = middle.rfind(parts)? + tail;
        let end = start.checked_sub(between.len())?;
        Some((middle.get(start..)?, middle.get(..end)?))
    }
}

fn is_label(namespace: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !namespace.is_empty() && namespace.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::KeyId;
    use crate::rotation::record::{Asked, Issued, Previous};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(id: u64, user: Option<u64>, created: i64, expires: i64) -> PreAuthKey {
        PreAuthKey {
            prefix: None,
            id: KeyId(id),
            user: user.map(UserId),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: Some(at(expires)),
            created_at: Some(at(created)),
            tags: Vec::new(),
        }
    }

    #[test]
    fn only_old_live_keys_of_marked_users_may_be_orphans() {
        let user = |name: &str, ours| KeyUser {
            name: name.into(),
            ours,
            created: None,
        };
        let users = [
            (UserId(1), user("shop.api", true)),
            (UserId(2), user("lent", false)),
        ];
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
        let users = users.into();
        let found = candidates(at(1_000), &keys, &users, Duration::from_secs(600));
        let found: Vec<_> = found
            .iter()
            .map(|(user, keys)| (*user, keys.iter().map(|key| key.id.0).collect::<Vec<_>>()))
            .collect();
        assert_eq!(found, [("shop.api", vec![1])]);
    }

    #[test]
    fn a_name_gives_its_namespace_back_and_a_strangers_does_not() {
        let default = "{namespace}.{service}";
        for (template, user, want) in [
            (default, "shop.api", Some("shop")),
            (default, "shop.api_v2", Some("shop")),
            (default, "n_1shop.api", Some("1shop")),
            (default, "n-1shop.api", Some("n-1shop")),
            (default, "shop", None),
            (default, "Shop.api", None),
            (default, ".api", None),
            (default, "", None),
            (
                "prod-{namespace}-x.{service}@k8s",
                "prod-a-x-x.api@k8s",
                Some("a-x"),
            ),
            ("prod-{namespace}-x.{service}@k8s", "shop.api", None),
            // Where the cluster has a name.
            ("prod.{namespace}.{service}", "prod.shop.api", Some("shop")),
            ("prod.{namespace}.{service}", "test.shop.api", None),
            ("prod.{namespace}.{service}", "shop.api", None),
            (
                "{service}.in_{namespace}-z",
                "api_v2.in_shop-z",
                Some("shop"),
            ),
            ("{service}@{namespace}", "a.b@shop", None),
            ("{service}@{namespace}", "a_b@shop", Some("shop")),
        ] {
            assert_eq!(
                namespace_of(template, user).as_deref(),
                want,
                "{template} {user}"
            );
        }
        for namespace in ["shop", "1-a", "a--b"] {
            for service in ["api", "a.b", "0"] {
                for template in [
                    default,
                    "x{service}_in.{namespace}y",
                    "{service}@k.{namespace}",
                ] {
                    let user = identity::user(template, namespace, service);
                    assert_eq!(
                        namespace_of(template, &user).as_deref(),
                        Some(namespace),
                        "{user}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_record_knows_what_it_has_had_and_asked_for() {
        let asked = || Asked {
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
        api.current = Some(Issued {
            origin: crate::rotation::record::Origin::Ours,
            id: KeyId(1),
            created: at(0),
            expires: at(9_001),
            asked: asked(),
        });
        api.previous.push(Previous {
            revoked: false,
            id: KeyId(2),
            expire_at: at(1),
            expires: None,
        });
        api.intend(intent(9_003), at(0));
        api.intend(intent(9_004), at(0));
        let mut record = Record::default();
        record.keys.insert("api-authkey".into(), api);
        for (id, expires, want) in [
            (1, 5_000, true),
            (2, 5_000, true),
            (3, 9_003, true),
            (4, 9_004, true),
            (5, 9_001, false),
        ] {
            let key = key(id, Some(1), 0, expires);
            assert_eq!(is_known(&record, "default", &key), want, "{id}");
            assert!(!is_known(&record, "other", &key));
        }
    }
}

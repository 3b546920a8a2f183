//! What is found to be unused, and what is kept. Tests.

use sidescale_core::objects::Node;
use sidescale_core::release::HeadscaleRelease;

use super::*;
use crate::record::{IssuedKey, KeySpec};

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(day * DAY).unwrap()
}

/// Key `id` of `user`, created on day 0, that expires on `day`.
fn key(id: u64, user: u64, day: i64) -> PreAuthKey {
    PreAuthKey {
        prefix: None,
        id: KeyId::from(id),
        user: Some(UserId::from(user)),
        reusable: true,
        ephemeral: true,
        used: false,
        expiration: Some(at(day)),
        created_at: Some(at(0)),
        tags: Vec::new(),
    }
}

/// The record in the Secret of `shop`.
fn record(id: u64) -> Record {
    let mut key = KeyRecord::new("api", "default");
    key.current = Some(IssuedKey {
        origin: crate::record::Origin::Ours,
        id: KeyId::from(id),
        created: at(0),
        expires: at(200),
        asked: KeySpec {
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

fn records(id: u64) -> Records {
    Records {
        read: [("shop".to_owned(), vec![record(id)])].into(),
        unreadable: BTreeSet::new(),
    }
}

fn survey(release: HeadscaleRelease) -> Survey {
    let user = |name: &str| KeyUser {
        name: name.into(),
        owner: name
            .split_once('.')
            .filter(|(namespace, _)| *namespace != "lent")
            .map(|(namespace, service)| ServiceOwner::new(namespace, service)),
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
        // In force; one that expired long ago, and one that expired six days ago.
        key(7, 1, 200),
        key(5, 1, 10),
        key(6, 1, 94),
        // No record knows it: its namespace is gone.
        key(8, 2, 200),
        // Expired long ago, and nothing else is left of the service.
        key(9, 3, 20),
        // Of an adopted user, and of a person.
        key(10, 4, 200),
        key(11, 5, 200),
    ];
    Survey {
        keys,
        truncated: false,
        nodes: Vec::new(),
        users: names
            .map(|(id, name)| (UserId::from(id), user(name)))
            .into(),
        release,
    }
}

fn shown(removals: Vec<Removal<'_>>) -> Vec<String> {
    let shown = removals.into_iter().map(|removal| match removal {
        Removal::Orphan { key, user, owner } => {
            format!("key {} of {user} in {}", key.id.0, owner.namespace)
        }
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
        id: NodeId::from(id),
        name: "host".into(),
        given_name: "host".into(),
        user: user.map(UserId::from),
        online: false,
        pre_auth_key: key.map(KeyId::from),
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
        // A record names the user of the key that it joined with.
        node(1, Some(7), None, Some(1)),
        // By its key, whatever user its tags gave it; and by its user.
        node(2, Some(8), Some(2_147_455_555), Some(70)),
        node(3, None, Some(3), Some(1)),
        online,
        node(5, Some(8), None, Some(71)),
        node(6, Some(8), None, None),
        // Of another owner, and of none.
        node(7, Some(10), None, Some(1)),
        node(8, None, None, Some(1)),
        node(9, Some(99), Some(2_147_455_555), Some(1)),
    ];
    let survey = Survey {
        nodes,
        ..survey(HeadscaleRelease::V0_28)
    };
    let away = |synced| {
        let demands = Demands {
            synced,
            ..Demands::default()
        };
        let found = away(at(100), "default", &survey, &records(7), &demands, &policy);
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
    let records = records(7);
    let decided = |release, records: Option<&Records>, demands: &Demands| {
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
    let all = decided(HeadscaleRelease::V0_29, Some(&records), &synced);
    assert_eq!(all, [orphan, row, "user 3 old.db"]);
    let old = decided(HeadscaleRelease::V0_28, Some(&records), &synced);
    assert_eq!(old, [orphan, row], "users of 0.28 stay");
    let mut theirs = policy.clone();
    theirs.rotation.users = UserPolicy::Never;
    let kept = survey(HeadscaleRelease::V0_29);
    let kept = decide(at(100), "default", &kept, Some(&records), &synced, &theirs);
    assert_eq!(shown(kept), [orphan, row], "people remove users");
    let unsure = decided(HeadscaleRelease::V0_29, Some(&records), &Demands::default());
    assert_eq!(unsure, [orphan], "pods may be missing");
    let unread = decided(HeadscaleRelease::V0_29, None, &synced);
    let known = "key 7 of shop.api in shop";
    assert_eq!(unread, [known, orphan], "their namespaces are asked");
    let nobody = Policy {
        control_planes: BTreeMap::new(),
        ..policy.clone()
    };
    let survey = survey(HeadscaleRelease::V0_29);
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
    let intent = |user: &str, second| crate::record::Intent {
        op: "a".into(),
        writer: "w".into(),
        started_at: at(0),
        expires: Timestamp::from_second(second).unwrap(),
        asked: KeySpec {
            user: user.into(),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
        },
    };
    key.intend(intent("shop.before", 1), at(0));
    key.intend(intent("shop.db", 2), at(0));
    record.keys.insert("db-authkey".into(), key);
    let mut namespace = crate::demand::NamespaceDemand::default();
    let guest = ("default".to_owned(), "guest".to_owned());
    namespace.expected_nodes.insert(guest, 1);
    let elsewhere = ("other".to_owned(), "elsewhere".to_owned());
    namespace.expected_nodes.insert(elsewhere, 1);
    let mut demands = Demands::default();
    demands
        .namespaces
        .insert("shop".into(), std::sync::Arc::new(namespace));
    let user = |id: u64, name: &str, namespace: &str, service: &str| {
        let user = KeyUser {
            name: name.into(),
            owner: Some(ServiceOwner::new(namespace, service)),
            created: None,
        };
        (UserId::from(id), user)
    };
    let users = BTreeMap::from([
        user(1, "shop.before", "shop", "db"),
        user(2, "shop.db", "shop", "db"),
        user(3, "any name", "shop", "guest"),
        user(4, "shop.elsewhere", "shop", "elsewhere"),
        // Of the same name, and of a namespace that did not name it.
        user(5, "shop.db", "other", "db"),
        user(6, "shop.old", "shop", "db"),
    ]);
    let records = Records {
        read: [("shop".to_owned(), vec![record])].into(),
        unreadable: BTreeSet::new(),
    };
    let wanted = wanted("default", &users, &records, &demands);
    assert_eq!(wanted, [1, 2, 3].map(UserId::from).into());
}

#[test]
fn a_record_speaks_of_its_own_namespace_and_a_damaged_one_stops_no_other() {
    let policy = Policy::for_login_server("https://headscale.example.com").unwrap();
    let demands = Demands {
        synced: true,
        ..Demands::default()
    };
    let survey = survey(HeadscaleRelease::V0_29);
    let decided = |records: &Records| {
        shown(decide(
            at(100),
            "default",
            &survey,
            Some(records),
            &demands,
            &policy,
        ))
    };
    // Another namespace claims to know everything.
    let forged = Records {
        read: [("other".to_owned(), vec![record(7), record(8), record(5)])].into(),
        unreadable: BTreeSet::new(),
    };
    let (own, gone) = ("key 7 of shop.api in shop", "key 8 of gone.web in gone");
    assert_eq!(decided(&forged), [own, gone, "row 5", "user 3 old.db"]);
    let damaged = |namespace: &str| Records {
        read: records(7).read,
        unreadable: [namespace.to_owned()].into(),
    };
    assert_eq!(decided(&damaged("gone")), ["row 5", "user 3 old.db"]);
    assert_eq!(decided(&damaged("old")), [gone, "row 5"]);
    assert_eq!(decided(&damaged("shop")), [gone, "user 3 old.db"]);
}

#[test]
fn of_more_keys_than_are_read_only_rows_of_ended_ones_are_removed() {
    let policy = Policy::for_login_server("https://headscale.example.com").unwrap();
    let demands = Demands {
        synced: true,
        ..Demands::default()
    };
    let mut survey = survey(HeadscaleRelease::V0_29);
    survey.truncated = true;
    let records = records(7);
    let found = decide(
        at(100),
        "default",
        &survey,
        Some(&records),
        &demands,
        &policy,
    );
    assert_eq!(shown(found), ["row 5"]);
    let without = decide(at(100), "default", &survey, None, &demands, &policy);
    assert_eq!(without, []);
    assert_eq!(
        away(at(100), "default", &survey, &records, &demands, &policy),
        []
    );
}

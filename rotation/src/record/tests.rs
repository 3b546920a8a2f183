//! What a record remembers, and what is dropped from a record that somebody else wrote. Tests.

use jiff::Timestamp;
use sidescale_core::fingerprint::fingerprint;
use sidescale_core::objects::PreAuthKey;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn asked() -> KeySpec {
    KeySpec {
        user: "shop.api".into(),
        tags: vec!["tag:web".into()],
        reusable: true,
        ephemeral: true,
    }
}

fn intent(op: &str, now: i64) -> Intent {
    let expires = fingerprint(at(now), Duration::from_secs(100), 123_456);
    Intent {
        op: op.into(),
        writer: "w".into(),
        started_at: at(now),
        expires,
        asked: asked(),
    }
}

fn secret() -> SecretRef {
    SecretRef::new("shop", "headscale-auth-keys")
}

fn key(id: u64) -> PreAuthKey {
    PreAuthKey {
        prefix: None,
        id: KeyId::from(id),
        user: None,
        reusable: true,
        ephemeral: true,
        used: false,
        expiration: None,
        created_at: None,
        tags: Vec::new(),
    }
}

#[test]
fn an_id_stays_the_number_or_text_that_it_was() {
    let (created, expires) = ("2020-01-01T00:00:00Z", "2020-02-01T00:00:00.123456Z");
    for id in ["7", "18446744073709551615", r#""kAbc123CNTRL""#] {
        let document = format!(
            concat!(
                r#"{{"version":1,"keys":{{"x-authkey":{{"service":"x","controlPlane":"default","#,
                r#""current":{{"id":{id},"created":"{created}","expires":"{expires}","#,
                r#""user":"shop.x","tags":[],"reusable":true,"ephemeral":true}},"#,
                r#""previous":[{{"id":{id},"expireAt":"{created}","expires":"{expires}"}}],"#,
                r#""lent":[{id}],"joinedWith":{id}}}}}}}"#
            ),
            id = id,
            created = created,
            expires = expires,
        );
        let record = Record::parse(Some(document.as_bytes()), &secret()).unwrap();
        let written = String::from_utf8(record.document().unwrap()).unwrap();
        assert_eq!(written, document);
    }
}

#[test]
fn a_record_survives_its_document() {
    let mut record = Record::default();
    let mut api = KeyRecord::new("api", "default");
    api.intend(intent("a", 1_000), at(1_000));
    api.issue(
        &key(7),
        &intent("a", 1_000),
        at(1_001),
        Duration::from_secs(3_600),
    );
    api.intend(intent("b", 2_000), at(2_000));
    api.intend(intent("c", 3_000), at(3_000));
    record.keys.insert("api-authkey".into(), api);
    let document = record.document().unwrap();
    assert_eq!(Record::parse(Some(&document), &secret()).unwrap(), record);
    assert_eq!(record.in_force(), [("default", KeyId::from(7))].into());
    assert_eq!(
        record.keys["api-authkey"].abandoned,
        [Abandoned {
            since: at(3_000),
            intent: intent("b", 2_000)
        }]
    );
}

#[test]
fn a_replaced_key_ends_after_the_overlap() {
    let mut api = KeyRecord::new("api", "default");
    api.issue(
        &key(1),
        &intent("a", 1_000),
        at(1_000),
        Duration::from_secs(10),
    );
    api.issue(
        &key(2),
        &intent("b", 1_050),
        at(1_050),
        Duration::from_secs(10),
    );
    api.issue(
        &key(3),
        &intent("c", 1_060),
        at(1_060),
        Duration::from_secs(3_600),
    );
    assert_eq!(
        api.previous[0],
        Previous {
            revoked: false,
            id: KeyId::from(1),
            expire_at: at(1_060),
            expires: intent("a", 1_000).expires,
        }
    );
    assert_eq!(
        api.previous[1],
        Previous {
            revoked: false,
            id: KeyId::from(2),
            expire_at: at(1_060 + 3_600),
            expires: intent("b", 1_050).expires,
        }
    );
}

#[test]
fn what_is_not_a_record_is_refused() {
    assert_eq!(Record::parse(None, &secret()).unwrap(), Record::default());
    assert!(matches!(
        Record::parse(Some(b"{\"version\":2}"), &secret()),
        Err(RecordError::Newer { found: 2 })
    ));
    for damaged in ["", "{}", "[]", "{\"version\":1,\"keys\":[]}", "nonsense"] {
        assert!(
            matches!(
                Record::parse(Some(damaged.as_bytes()), &secret()),
                Err(RecordError::Damaged(_))
            ),
            "{damaged}"
        );
    }
    let large = format!("{{\"version\":1{}}}", " ".repeat(LARGEST));
    assert!(matches!(
        Record::parse(Some(large.as_bytes()), &secret()),
        Err(RecordError::TooLarge { found }) if found == large.len()
    ));
}

#[test]
fn what_the_control_plane_knows_as_well_is_left_out_where_there_is_no_room() {
    let mut api = KeyRecord::new("api", "default");
    let overlap = Duration::from_secs(10);
    for n in 1..=3 {
        api.issue(&key(n), &intent("a", 1_000), at(1_000), overlap);
    }
    api.intend(intent("b", 2_000), at(2_000));
    api.intend(intent("c", 3_000), at(3_000));
    let mut record = Record::default();
    record.keys.insert("api-authkey".into(), api);
    let left = |room: usize| {
        let mut record = record.clone();
        let document = record.document_within(room).unwrap();
        let read = Record::parse(Some(&document), &secret()).unwrap();
        assert_eq!(read, record);
        let key = &record.keys["api-authkey"];
        assert!(key.current.is_some() && key.intent.is_some());
        (key.abandoned.len(), key.previous.len())
    };
    let whole = record.document().unwrap().len();
    assert_eq!(left(whole), (1, 2));
    assert_eq!(left(whole - 1), (0, 2));
    assert_eq!(left(300), (0, 0));
    let oversized = StoredSecret {
        oversized: true,
        ..StoredSecret::absent("shop", "headscale-auth-keys")
    };
    let read = Record::of(&oversized);
    assert!(
        matches!(read, Err(RecordError::Oversized)),
        "its data was not read"
    );
}

/// The data keys that remain of a document with these entries: data key, service and control plane.
fn kept(secret: &SecretRef, entries: &[(&str, &str, &str)]) -> Vec<String> {
    let keys = entries.iter().map(|(data_key, service, plane)| {
        let key = KeyRecord::new(service, plane);
        ((*data_key).to_owned(), key)
    });
    let record = Record {
        keys: keys.collect(),
        ..Record::default()
    };
    let document = record.document().unwrap();
    let record = Record::parse(Some(&document), secret).unwrap();
    record.keys.into_keys().collect()
}

#[test]
fn an_entry_under_anothers_data_key_is_dropped() {
    let entries = [
        ("api-authkey", "api", "default"),
        ("api_prod-authkey", "api", "prod"),
        ("web-authkey", "api", "default"),
        ("web_prod-authkey", "web", "default"),
        ("x", "x", "default"),
        ("-authkey", "", "default"),
        ("UP-authkey", "UP", "default"),
        ("api-705ab4f56393-authkey", "api", "default"),
        ("db-705ab4f56393-authkey", "db-705ab4f56393", "default"),
    ];
    assert_eq!(
        kept(&secret(), &entries),
        ["api-authkey", "api_prod-authkey", "db-705ab4f56393-authkey"]
    );
    let pods = SecretRef {
        name: POD_SECRET.into(),
        ..secret()
    };
    assert_eq!(kept(&pods, &entries), ["api-705ab4f56393-authkey"]);
}

#[test]
fn of_a_copy_nothing_counts() {
    let mut record = Record::default();
    record
        .keys
        .insert("api-authkey".into(), KeyRecord::new("api", "default"));
    record.belong_to("shop", Some(7), "headscale-auth-keys");
    let document = record.document().unwrap();
    assert_eq!(Record::parse(Some(&document), &secret()).unwrap(), record);
    for (namespace, name) in [("other", "headscale-auth-keys"), ("shop", "team-keys")] {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let copy = SecretRef { namespace, name };
        let read = Record::parse(Some(&document), &copy).unwrap();
        assert_eq!(read.copied_from, Some(secret()), "{copy}");
        assert!(read.keys.is_empty());
    }
}

#[test]
fn a_record_of_an_earlier_namespace_says_so_until_it_is_taken_over() {
    for (written, now, earlier) in [
        (None, None, false),
        (None, Some(2), false),
        (Some(1), None, false),
        (Some(1), Some(1), false),
        (Some(1), Some(2), true),
    ] {
        let mut record = Record::default();
        let mut key = KeyRecord::new("api", "default");
        key.lent.push(KeyId::from(7));
        record.keys.insert("api-authkey".into(), key);
        record.belong_to("shop", written, "headscale-auth-keys");
        let document = record.document().unwrap();
        let mut record = Record::parse(Some(&document), &secret()).unwrap();
        let case = format!("{written:?} {now:?}");
        assert_eq!(record.is_of_earlier_namespace(now), earlier, "{case}");
        // Any other write leaves it unchanged.
        record.belong_to("shop", now, "headscale-auth-keys");
        assert_eq!(record.is_of_earlier_namespace(now), earlier, "{case}");
        record.take_over();
        record.belong_to("shop", now, "headscale-auth-keys");
        assert!(!record.is_of_earlier_namespace(now), "{case}");
        assert_eq!(record.keys["api-authkey"].lent, [], "{case}");
    }
    let mut forged = Record {
        namespace_uid: "x".repeat(1_000),
        ..Record::default()
    };
    assert!(forged.is_of_earlier_namespace(Some(1)));
    forged.take_over();
    forged.belong_to("shop", Some(1), "headscale-auth-keys");
    assert_eq!(forged.namespace_uid.len(), 36);
}

#[test]
fn what_is_decoded_is_bounded() {
    let previous =
        r#"{"id":1,"expireAt":"2020-01-01T00:00:00Z","expires":"2020-01-01T00:00:00Z"},"#;
    let endless = r#"{"id":2,"expireAt":"2020-01-01T00:00:00Z"},"#;
    let last = format!("{}{endless}", previous.repeat(bounds::MOST_PREVIOUS - 1));
    let document = format!(
        r#"{{"version":1,"keys":{{"x-authkey":{{"service":"x","controlPlane":"default","previous":[{}{}]}}}}}}"#,
        previous.repeat(4_000),
        last.trim_end_matches(',')
    );
    let record = Record::parse(Some(document.as_bytes()), &secret()).unwrap();
    let kept = &record.keys["x-authkey"].previous;
    assert_eq!(kept.len(), bounds::MOST_PREVIOUS - 1);
    assert!(
        kept.iter().all(|key| key.id == KeyId::from(1)),
        "one without an end is forgotten"
    );
    let entry =
        |n: usize| format!(r#""a{n}-authkey":{{"service":"a{n}","controlPlane":"default"}}"#);
    let document = |keys: usize| {
        let keys: Vec<_> = (0..keys).map(entry).collect();
        format!(r#"{{"version":1,"keys":{{{}}}}}"#, keys.join(","))
    };
    let most = document(bounds::MOST_KEYS);
    let read = Record::parse(Some(most.as_bytes()), &secret()).unwrap();
    assert_eq!(read.keys.len(), bounds::MOST_KEYS);
    let more = document(bounds::MOST_KEYS + 1);
    let read = Record::parse(Some(more.as_bytes()), &secret());
    assert!(matches!(read, Err(RecordError::Damaged(_))));
}

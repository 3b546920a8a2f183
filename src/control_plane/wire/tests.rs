//! What an answer must hold. Pure.

use super::{minted, nodes, pre_auth_keys, users};
use crate::control_plane::{NewPreAuthKey, UserId};

const VALUE: &str = "hskey-auth-abcdefghijkl-secret";

fn asked() -> NewPreAuthKey {
    NewPreAuthKey {
        user: UserId(7),
        reusable: true,
        ephemeral: true,
        expiration: "2026-12-01T00:00:00Z".parse().unwrap(),
        tags: vec!["tag:web".to_owned()],
    }
}

fn answer() -> serde_json::Value {
    serde_json::json!({"preAuthKey": {
        "user": {"id": "7", "name": "shop.web"}, "id": "3", "key": VALUE, "reusable": true,
        "ephemeral": true, "used": false, "expiration": "2026-12-01T00:00:00.4Z",
        "createdAt": "2026-11-01T00:00:00Z", "aclTags": ["tag:web"],
    }})
}

#[test]
fn takes_the_key_that_was_asked_for() {
    let minted = minted(answer().to_string().as_bytes(), &asked()).unwrap();
    assert_eq!(minted.key.id.0, 3);
    assert_eq!(minted.value.expose(), VALUE);
}

#[test]
fn refuses_a_new_key_that_differs_in_any_field_and_quotes_no_key() {
    use serde_json::{Value, json};
    let rows: [(&str, Value, &str); 14] = [
        ("id", Value::Null, r#"JSON without "preAuthKey.id""#),
        (
            "id",
            json!("0"),
            r#"a "preAuthKey.id" that is no positive number"#,
        ),
        ("id", json!(3), "JSON with a field of another type"),
        ("key", Value::Null, r#"JSON without "preAuthKey.key""#),
        (
            "key",
            json!(""),
            "a preAuthKey.key that is empty or not printable",
        ),
        (
            "key",
            json!("hskey-auth-abcdefghijkl-***"),
            "a preAuthKey.key that is masked",
        ),
        (
            "key",
            json!("two words"),
            "a preAuthKey.key that is empty or not printable",
        ),
        (
            "expiration",
            Value::Null,
            r#"JSON without "preAuthKey.expiration""#,
        ),
        (
            "expiration",
            json!("0001-01-01T00:00:00Z"),
            "a key that expires 0001-01-01T00:00:00Z",
        ),
        (
            "expiration",
            json!("tomorrow"),
            "JSON with a field of another type",
        ),
        ("user", Value::Null, "a key of user none (asked for user 7)"),
        (
            "reusable",
            json!(false),
            "a key with reusable false (asked for true)",
        ),
        (
            "ephemeral",
            json!(false),
            "a key with ephemeral false (asked for true)",
        ),
        (
            "aclTags",
            json!(["tag:db"]),
            r#"a key with tags ["tag:db"] (asked for ["tag:web"])"#,
        ),
    ];
    for (field, value, want) in rows {
        let mut answer = answer();
        answer["preAuthKey"][field] = value;
        let problem = minted(answer.to_string().as_bytes(), &asked()).unwrap_err();
        assert!(problem.starts_with(want), "{field}: {problem}");
        assert!(!problem.contains("abcdefghijkl"), "{field}: {problem}");
    }
}

#[test]
fn names_what_came_instead_of_json() {
    for (body, want) in [
        ("", "an empty body"),
        ("<!doctype html><p>Log in", "a web page"),
        (
            r#"{"users": [{"id": "1""#,
            "JSON that ends early, after 21 bytes",
        ),
        ("OK", "2 bytes that are not JSON"),
        ("{}", r#"JSON without "users""#),
        (
            r#"{"users": {}}"#,
            "JSON with a field of another type, at byte 10",
        ),
    ] {
        assert_eq!(users(body.as_bytes()).unwrap_err(), want, "{body}");
    }
}

#[test]
fn reads_lists_with_fields_it_does_not_know() {
    let list = users(
        br#"{"users":[{"id":"1","name":"a","createdAt":"2026-01-01T00:00:00Z","displayName":"d","providerId":"","provider":"","later":1},
            {"id":"2","name":"b","provider":"oidc"}]}"#,
    )
    .unwrap();
    assert!(!list[0].from_provider && list[1].from_provider);
    assert_eq!(pre_auth_keys(br#"{"preAuthKeys":[]}"#).unwrap(), []);
    let list = nodes(
        br#"{"nodes":[{"id":"4","name":"web-1","givenName":"web","online":true,"preAuthKey":{"id":"9"},"tags":["tag:web"]},
            {"id":"5","name":"x","givenName":"x","online":false,"preAuthKey":null,"tags":[]}]}"#,
    )
    .unwrap();
    assert_eq!(list[0].pre_auth_key.map(|id| id.0), Some(9));
    assert_eq!(list[1].pre_auth_key, None);
}

//! The required content of an answer. Pure.

use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{NewPreAuthKey, Node, PreAuthKey, User};

use super::minted;
use super::rows::{ListProblem, Rows, WireRow};

const VALUE: &str = "hskey-auth-abcdefghijkl-secret";

/// Reads a list in chunks of all sizes, which must not matter.
fn list<T: WireRow + PartialEq + std::fmt::Debug>(body: &[u8]) -> Result<Vec<T>, ListProblem> {
    let read = |size: usize| {
        let mut rows = Rows::new();
        body.chunks(size).try_for_each(|chunk| rows.push(chunk))?;
        rows.finish().map(|(rows, _)| rows)
    };
    let whole = read(body.len().max(1));
    for size in 1..body.len().min(300) {
        assert_eq!(read(size), whole, "chunks of {size}");
    }
    whole
}

fn asked() -> NewPreAuthKey {
    NewPreAuthKey {
        user: UserId::from(7),
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
    assert_eq!(minted.key.id, KeyId::from(3));
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
            r#"a "preAuthKey.id" that is not a positive number"#,
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
        ("user", Value::Null, "a key of user none (requested user 7)"),
        (
            "reusable",
            json!(false),
            "a key with reusable false (requested true)",
        ),
        (
            "ephemeral",
            json!(false),
            "a key with ephemeral false (requested true)",
        ),
        (
            "aclTags",
            json!(["tag:db"]),
            r#"a key with tags ["tag:db"] (requested ["tag:web"])"#,
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
        (r#"{"users": {}}"#, r#"JSON with "users" of another type"#),
        (
            r#"{"users": [{"id":1}]}"#,
            "JSON with a field of another type, at byte 7",
        ),
        (r#"{"users": [{"id":"1"}]}"#, r#"JSON without "user.name""#),
    ] {
        let problem = list::<User>(body.as_bytes()).unwrap_err();
        assert_eq!(problem, ListProblem::Other(want.to_owned()), "{body}");
    }
}

#[test]
fn reads_lists_with_fields_it_does_not_know() {
    let users = list::<User>(
        br#"{"users":[{"id":"1","name":"a","createdAt":"2026-01-01T00:00:00Z","displayName":"d","providerId":"","provider":"","later":1},
            {"id":"2","name":"b","provider":"oidc"}]}"#,
    )
    .unwrap();
    assert!(!users[0].from_provider && users[1].from_provider);
    assert_eq!(list::<PreAuthKey>(br#"{"preAuthKeys":[]}"#).unwrap(), []);
    let nodes = list::<Node>(
        br#"{"nodes":[{"id":"4","name":"web-1","givenName":"web","online":true,"preAuthKey":{"id":"9"},"tags":["tag:web"]},
            {"id":"5","name":"x","givenName":"x","online":false,"preAuthKey":null,"tags":[]}]}"#,
    )
    .unwrap();
    assert_eq!(nodes[0].pre_auth_key, Some(KeyId::from(9)));
    assert_eq!(nodes[1].pre_auth_key, None);
}

#[test]
fn keeps_no_more_of_a_row_than_can_matter() {
    let long = "\u{1b}".repeat(10_000);
    let tags = vec![long.as_str(); 2000];
    let row = serde_json::json!({"nodes": [{"id": "4", "name": long, "givenName": long, "online": true,
        "tags": &tags[..20], "availableRoutes": tags[..5]}, {"id": "5", "name": "b", "online": true, "tags": vec!["t"; 2000]}]});
    let mut rows = Rows::<Node>::new();
    rows.push(row.to_string().as_bytes()).unwrap();
    let (nodes, _) = rows.finish().unwrap();
    // A control character is six bytes as an escape.
    assert!(nodes[0].name.len() <= 6 * 256 && nodes[0].name.starts_with("\\u{1b}"));
    assert!(nodes[0].tags.iter().all(|tag| tag.len() <= 6 * 4097));
    assert_eq!(nodes[1].tags.len(), 1024);
}

#[test]
fn a_node_that_is_too_long_costs_itself_only_and_a_key_the_list() {
    let long = "x".repeat(5 << 20);
    let body = format!(
        r#"{{"nodes":[{{"id":"1","name":"a","online":true,"routes":"{long}"}},{{"id":"2","name":"b","online":true}}]}}"#
    );
    let mut rows = Rows::<Node>::new();
    rows.push(body.as_bytes()).unwrap();
    let ids: Vec<_> = rows
        .finish()
        .unwrap()
        .0
        .iter()
        .map(|node| node.id)
        .collect();
    assert_eq!(ids, [NodeId::from(2)]);
    let mut rows = Rows::<User>::new();
    let problem = rows.push(body.replace("nodes", "users").as_bytes());
    assert!(matches!(problem, Err(ListProblem::Other(_))));
}

#[test]
fn too_many_rows_are_a_problem_of_their_own() {
    let mut rows = Rows::<Node>::new();
    rows.push(br#"{"nodes":["#).unwrap();
    let chunk = br#"{"id":"1","name":"","online":true},"#.repeat(1000);
    let mut pushed = (0..480).map(|_| rows.push(&chunk));
    assert_eq!(pushed.find_map(Result::err), Some(ListProblem::TooManyRows));
}

#[test]
fn of_too_many_keys_the_last_are_kept() {
    let list = |count: u64| {
        let mut rows = Rows::<PreAuthKey>::new();
        rows.push(br#"{"preAuthKeys":["#).unwrap();
        for id in 1..=count {
            let comma = if id == 1 { "" } else { "," };
            let row =
                format!(r#"{comma}{{"id":"{id}","reusable":true,"ephemeral":true,"used":false}}"#);
            rows.push(row.as_bytes()).unwrap();
        }
        rows.push(b"]}").unwrap();
        let (keys, truncated) = rows.finish().unwrap();
        let ids = keys.iter().filter_map(|key| key.id.0.number());
        let last = keys.last().and_then(|key| key.id.0.number());
        assert!(ids.clone().is_sorted_by(|one, next| one + 1 == *next));
        (ids.min(), last, truncated)
    };
    assert_eq!(list(1_000), (Some(1), Some(1_000), false));
    let (first, last, truncated) = list(250_000);
    assert_eq!((last, truncated), (Some(250_000), true));
    assert!(
        first.is_some_and(|first| first > 1 && first < 170_000),
        "{first:?}"
    );
}

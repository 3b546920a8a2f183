//! What a receipt grants, field by field: no more than the pod's own annotations would in this namespace.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use sidescale_webhook::sidecar::{Done, Injected, Receipt};

use super::*;

/// The other namespace may not use `lab` and `open`; `closed` may not be named at all, and `selected` is only for labelled pods.
const POLICY: &str = "controlPlanes:
  default: {loginServer: 'https://headscale.example.org'}
  lab: {loginServer: 'https://lab.example.org', namespaces: [shop]}
  prod: {loginServer: 'https://prod.example.org', namespaces: [prod]}
profiles:
  open: {namespaces: [shop], annotations: {tags: 'tag:open'}}
  selected: {podSelector: {matchLabels: {app: x}}, annotations: {tags: 'tag:selected'}}
  elsewhere: {namespaces: [prod], annotations: {tags: 'tag:admin'}}
  closed: {annotations: {tags: 'tag:admin'}}
";

/// A receipt with every field.
fn whole() -> Map<String, Value> {
    let injected = Injected {
        service: "api".into(),
        control_plane: "lab".into(),
        secret: "headscale-auth-keys".into(),
        data_key: "api_lab-authkey".into(),
        own_key: true,
    };
    let unknown =
        ["annotation 'sidescale.io/x' is unknown and has no effect: remove it".to_owned()];
    let receipt = Receipt {
        version: "0.1.0".into(),
        decision: Done::Inject,
        reason: Some("invalid".into()),
        profile: Some("open".into()),
        profile_hash: Some("0123456789ab".into()),
        injected: Some(injected),
        api_key_secret: Some("headscale-api-key".into()),
        server_keys_secret: Some("headscale-keys".into()),
        namespace_unknown: true,
        unknown: Cow::Borrowed(&unknown),
    };
    match serde_json::to_value(&receipt).unwrap() {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

/// The one key that a pod with this receipt and label `app` gets, as `tags user Secret/data key`.
fn bought(receipt: &Map<String, Value>, namespace: &str, inject: Option<&str>) -> Option<String> {
    let policy = Policy::from_config(serde_saphyr::from_str(POLICY).unwrap()).unwrap();
    let metadata = NamespaceMetadata {
        inject: inject.map(str::to_owned),
        ..NamespaceMetadata::default()
    };
    let receipt = Value::Object(receipt.clone()).to_string();
    let annotations = [
        (STATUS, receipt.as_str()),
        ("sidescale.io/inject", "tailscale"),
    ];
    let owner = WorkloadOwner {
        kind: "DaemonSet",
        name: "api",
    };
    let shape = Arc::new(PodInputs::new(
        "api-x",
        annotations.into_iter(),
        [("app", "x")].into_iter(),
        Some(owner),
        &policy.pod_labels(),
    ));
    let pods = [pod(&shape, 1)];
    let demand = of_namespace(namespace, pods.into_iter(), Some(&metadata), &policy);
    let secrets = demand.secrets.iter();
    let keys = secrets.flat_map(|(secret, keys)| keys.iter().map(move |key| (secret, key)));
    let mut keys = keys.map(|(secret, (data_key, key))| {
        let tags = key.asked.tags.join(",");
        format!("{tags} {} {secret}/{data_key}", key.asked.user)
    });
    let one = keys.next();
    assert_eq!(keys.next(), None);
    one
}

struct Row {
    field: &'static str,
    /// What the receipt grants without the field.
    left_out: Option<&'static str>,
    /// What it grants with other values.
    forged: Vec<(Value, Option<&'static str>)>,
}

const HONEST: Option<&str> = Some("tag:open shop.api headscale-auth-keys/api_lab-authkey");

/// The same key without what only the profile `open` gives.
const PLAIN: Option<&str> = Some(" shop.api headscale-auth-keys/api_lab-authkey");

fn rows() -> Vec<Row> {
    let row = |field, left_out, forged| Row {
        field,
        left_out,
        forged,
    };
    let vain = |field, value| row(field, HONEST, vec![(value, HONEST)]);
    let nothing = |values: &[&str]| {
        values
            .iter()
            .map(|value| (json!(value), None))
            .collect::<Vec<_>>()
    };
    // A text that is not a name stops at the parser.
    let no_names = ["", "A b", "x; rm -rf /", "\u{1b}[2J", "../x", "$(id)"];
    let mut profiles = nothing(&["selected", "elsewhere", "closed", "gone"]);
    profiles.push((json!("default"), PLAIN));
    vec![
        row(
            "version",
            None,
            vec![(json!("9.9.9"), HONEST), (json!("\u{1b}[2J"), None)],
        ),
        row("decision", None, nothing(&["skip", "deny", "Inject"])),
        row(
            "reason",
            HONEST,
            vec![(json!("x"), HONEST), (json!("a\nb"), None)],
        ),
        row("profile", PLAIN, [profiles, nothing(&no_names)].concat()),
        vain("profileHash", json!("x")),
        row(
            "service",
            None,
            [nothing(&["db", "api.v2"]), nothing(&no_names)].concat(),
        ),
        row(
            "controlPlane",
            None,
            [nothing(&["default", "prod", "gone"]), nothing(&no_names)].concat(),
        ),
        row(
            "secret",
            None,
            [nothing(&["stripe-keys", POD_SECRET]), nothing(&no_names)].concat(),
        ),
        row(
            "dataKey",
            None,
            [
                nothing(&["api-authkey", "db_lab-authkey", "sidescale.json"]),
                nothing(&no_names),
            ]
            .concat(),
        ),
        row("ownKey", HONEST, vec![(json!(true), None)]),
        row(
            "apiKeySecret",
            HONEST,
            vec![(json!("other"), HONEST), (json!("a b"), None)],
        ),
        row(
            "serverKeysSecret",
            HONEST,
            vec![(json!("other"), HONEST), (json!("a b"), None)],
        ),
        vain("namespaceUnknown", json!(false)),
        row(
            "unknown",
            HONEST,
            vec![(json!([]), HONEST), (json!(["\u{1b}[2J"]), None)],
        ),
    ]
}

#[test]
fn each_field_of_a_receipt_buys_what_the_annotation_would() {
    let fields = whole();
    let named: BTreeSet<_> = rows().iter().map(|row| row.field).collect();
    let serialized: BTreeSet<_> = fields.keys().map(String::as_str).collect();
    assert_eq!(named, serialized, "a field of the receipt has no row");
    let mut honest = fields;
    honest.remove("ownKey");
    assert_eq!(bought(&honest, "shop", None).as_deref(), HONEST);
    // Copied to a namespace that may name neither the profile nor the control plane, it grants nothing.
    assert_eq!(bought(&honest, "other", None), None);
    assert_eq!(bought(&honest, "other", Some("tailscale")), None);
    for Row {
        field,
        left_out,
        forged,
    } in rows()
    {
        let mut without = honest.clone();
        without.remove(field);
        assert_eq!(
            bought(&without, "shop", None).as_deref(),
            left_out,
            "without {field}"
        );
        for (value, want) in forged {
            let mut with = honest.clone();
            with.insert(field.to_owned(), value.clone());
            assert_eq!(
                bought(&with, "shop", None).as_deref(),
                want,
                "{field}: {value}"
            );
            assert_eq!(
                bought(&with, "other", None),
                None,
                "{field}: {value}, elsewhere"
            );
        }
    }
}

/// A forged receipt gains nothing that only labelled pods of opted-in namespaces get: neither without the profile nor by naming it.
#[test]
fn a_profile_by_labels_is_not_had_by_a_forged_receipt() {
    let at_default = |profile: Option<&str>| {
        let mut receipt = whole();
        receipt.remove("ownKey");
        receipt.insert("controlPlane".to_owned(), json!("default"));
        receipt.insert("dataKey".to_owned(), json!("api-authkey"));
        match profile {
            Some(profile) => receipt.insert("profile".to_owned(), json!(profile)),
            None => receipt.remove("profile"),
        };
        receipt
    };
    let plain = |namespace| Some(format!(" {namespace}.api headscale-auth-keys/api-authkey"));
    let tagged = |namespace| {
        Some(format!(
            "tag:selected {namespace}.api headscale-auth-keys/api-authkey"
        ))
    };
    for namespace in ["shop", "other"] {
        let table = [
            (None, None, plain(namespace)),
            (None, Some("tailscale"), plain(namespace)),
            (Some("default"), Some("tailscale"), plain(namespace)),
            (Some("selected"), None, None),
            (Some("selected"), Some("other"), None),
            (Some("selected"), Some("tailscale"), tagged(namespace)),
        ];
        for (profile, inject, want) in table {
            let found = bought(&at_default(profile), namespace, inject);
            assert_eq!(found, want, "{namespace} {profile:?} {inject:?}");
        }
    }
}

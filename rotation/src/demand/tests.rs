use sidescale_webhook::keys::STATUS;

use super::*;

mod own;
mod receipts;

fn policy() -> Policy {
    let mut policy = Policy::for_login_server("https://headscale.example.org").unwrap();
    let profile = policy.profiles.get_mut("default").unwrap();
    profile.allowed_tags = vec!["tag:web".to_owned(), "tag:b".to_owned()];
    policy
}

fn receipt(service: &str, secret: &str) -> String {
    format!(
        r#"{{"version":"0.1.0","decision":"inject","profile":"default","profileHash":"0","service":"{service}",
        "controlPlane":"default","secret":"{secret}","dataKey":"{service}-authkey"}}"#
    )
}

fn shape(service: &str, more: &[(&str, &str)]) -> Arc<PodInputs> {
    let receipt = receipt(service, "headscale-auth-keys");
    let annotations = [
        (STATUS, receipt.as_str()),
        ("sidescale.io/inject", "tailscale"),
    ];
    let labels = [("pod-template-hash", "6d4cf56db6"), ("app", "x")];
    let owner = WorkloadOwner {
        kind: "ReplicaSet",
        name: "api-6d4cf56db6",
    };
    let annotations: BTreeMap<_, _> = annotations
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    Arc::new(PodInputs::new(
        "api-6d4cf56db6-abcde",
        annotations.into_iter(),
        labels.into_iter(),
        Some(owner),
        &BTreeSet::new(),
    ))
}

fn pod_name() -> &'static Arc<str> {
    static NAME: std::sync::LazyLock<Arc<str>> =
        std::sync::LazyLock::new(|| "api-6d4cf56db6-abcde".into());
    &NAME
}

fn pod(shape: &Arc<PodInputs>, second: i64) -> PodSeen<'_> {
    PodSeen {
        created: Timestamp::from_second(second).unwrap(),
        uid: 1,
        name: pod_name(),
        leaving: false,
        shape,
    }
}

fn demand(pods: &[PodSeen<'_>], metadata: Option<&NamespaceMetadata>) -> NamespaceDemand {
    of_namespace("shop", pods.iter().copied(), metadata, &policy())
}

#[test]
fn pods_of_one_service_need_one_key_and_the_newest_decides() {
    let old = shape("api", &[("sidescale.io/tags", "tag:web")]);
    let new = shape(
        "api",
        &[
            ("sidescale.io/tags", "tag:web,tag:b"),
            ("sidescale.io/reusable", "true"),
        ],
    );
    let demand = demand(&[pod(&old, 10), pod(&old, 20), pod(&new, 30)], None);
    let key = &demand.secrets["headscale-auth-keys"]["api-authkey"];
    assert_eq!(key.asked.tags, ["tag:b", "tag:web"]);
    assert_eq!(key.asked.user, "shop.api");
    assert_eq!((key.pods, key.differing), (3, 2));
    assert_eq!(key.since.as_second(), 10);
    assert_eq!(demand.refused, 0);
}

#[test]
fn the_receipt_names_the_key_even_if_the_owner_would_name_another() {
    let shape = shape("shown", &[]);
    let demand = demand(&[pod(&shape, 1)], None);
    let keys = &demand.secrets["headscale-auth-keys"];
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["shown-authkey"]);
    assert_eq!(keys["shown-authkey"].asked.user, "shop.shown");
}

#[test]
fn who_may_have_none_gets_none() {
    let good = shape("api", &[]);
    let forged = |receipt: &str| {
        let annotations = [(STATUS, receipt), ("sidescale.io/inject", "tailscale")];
        Arc::new(PodInputs::new(
            "x",
            annotations.into_iter(),
            std::iter::empty(),
            None,
            &BTreeSet::new(),
        ))
    };
    let other_secret = forged(&receipt("api", "stripe-keys"));
    let other_key =
        forged(&receipt("api", "headscale-auth-keys").replace("api-authkey", "db-authkey"));
    let other_plane = forged(
        &receipt("api", "headscale-auth-keys")
            .replace("\"controlPlane\":\"default\"", "\"controlPlane\":\"x\""),
    );
    let own_key = forged(
        &receipt("api", "headscale-auth-keys")
            .replace("api-authkey\"", "api-authkey\",\"ownKey\":true"),
    );
    let off = shape("api", &[("sidescale.io/inject", "false")]);
    let bad_tag = shape("api", &[("sidescale.io/tags", "tag:admin")]);
    // A value that is too long stays too long when it is cut: otherwise, its beginning would be an allowed tag.
    let too_long = format!("tag:web{}", " ".repeat(100 << 10));
    let too_long = shape("api", &[("sidescale.io/tags", &too_long)]);
    let garbage = forged("{");
    let none = Arc::new(PodInputs::new(
        "x",
        std::iter::empty(),
        std::iter::empty(),
        None,
        &BTreeSet::new(),
    ));
    let disabled = |value: &str| NamespaceMetadata {
        inject: Some(value.to_owned()),
        ..NamespaceMetadata::default()
    };
    assert_eq!(
        demand(&[pod(&good, 1)], Some(&disabled("tailscale")))
            .secrets
            .len(),
        1
    );
    let table = [
        ("a disabled namespace", &good, Some(disabled("disabled"))),
        ("a namespace switched off", &good, Some(disabled("false"))),
        ("a Secret of somebody else", &other_secret, None),
        ("a data key of another service", &other_key, None),
        ("a control plane that is not there", &other_plane, None),
        ("a key of its own", &own_key, None),
        ("a pod switched off", &off, None),
        ("a tag that is not allowed", &bad_tag, None),
        ("a value that is too long", &too_long, None),
        ("a receipt that is none", &garbage, None),
        ("no receipt", &none, None),
    ];
    let unreadable = ["a receipt that is none", "no receipt"];
    for (name, shape, metadata) in table {
        let demand = demand(&[pod(shape, 1)], metadata.as_ref());
        assert!(demand.secrets.is_empty(), "{name}");
        assert_eq!(demand.refused, 1, "{name}");
        // Their references are known all the same, to report why they do not start.
        let own: Vec<_> = demand.unserved.iter().map(|other| other.own).collect();
        if unreadable.contains(&name) {
            assert!(own.is_empty(), "{name}");
        } else {
            assert_eq!(own, [name == "a key of its own"], "{name}");
            assert_eq!(demand.unserved[0].pods.len(), 1, "{name}");
        }
    }
    let mut leaving = pod(&own_key, 1);
    leaving.leaving = true;
    assert_eq!(demand(&[leaving], None).unserved, []);
}

#[test]
fn a_pod_that_has_only_the_manager_of_the_api_key_needs_no_key() {
    let managed = |inject: &str, receipt: &str| {
        let annotations = [(STATUS, receipt), ("sidescale.io/inject", inject)];
        let owner = WorkloadOwner {
            kind: "StatefulSet",
            name: "headscale",
        };
        Arc::new(PodInputs::new(
            "headscale-0",
            annotations.into_iter(),
            std::iter::empty(),
            Some(owner),
            &BTreeSet::new(),
        ))
    };
    let alone = managed(
        "apikey-manager",
        r#"{"version":"0.1.0","decision":"inject","profile":"default","profileHash":"0","apiKeySecret":"headscale-api-key"}"#,
    );
    assert_eq!(
        demand(&[pod(&alone, 1)], None),
        NamespaceDemand::default(),
        "no key, and nothing refused"
    );
    // A receipt that names a key gains nothing either: the requested properties decide.
    let forged = managed("apikey-manager", &receipt("api", "headscale-auth-keys"));
    let refused = demand(&[pod(&forged, 1)], None);
    assert!(refused.secrets.is_empty());
    assert_eq!(refused.refused, 1);
    let both = managed(
        "apikey-manager,tailscale",
        &receipt("headscale", "headscale-auth-keys"),
    );
    let keys = demand(&[pod(&both, 1)], None).secrets;
    assert_eq!(
        keys["headscale-auth-keys"].keys().collect::<Vec<_>>(),
        ["headscale-authkey"]
    );
}

#[test]
fn pods_are_fleets_by_hostname_and_those_that_leave_are_guests_alone() {
    let plain = shape("api", &[]);
    let own = shape("api", &[("sidescale.io/hostname", "{pod}")]);
    let refused = shape("api", &[("sidescale.io/tags", "tag:admin")]);
    let leaving = PodSeen {
        leaving: true,
        ..pod(&plain, 9)
    };
    let demand = demand(
        &[
            pod(&plain, 20),
            pod(&plain, 10),
            leaving,
            pod(&own, 30),
            pod(&refused, 40),
        ],
        None,
    );
    let fleets: Vec<_> = demand
        .replica_groups
        .iter()
        .map(|group| {
            let created = group.pods.iter().map(|pod| pod.created.as_second());
            (group.hostname.as_deref(), created.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        fleets,
        [
            (Some("api"), vec![10, 20]),
            (Some("api-6d4cf56db6-abcde"), vec![30])
        ]
    );
    assert!(
        demand
            .replica_groups
            .iter()
            .all(|fleet| fleet.user == "shop.api")
    );
    let guest = ("default".to_owned(), "api".to_owned());
    assert_eq!(demand.expected_nodes, [(guest, 5)].into());
}

/// A pod of a service, injected with a profile that is in its receipt but in no annotation.
fn of_profile(
    profile: &str,
    data_key: &str,
    plane: &str,
    app: &str,
    policy: &Policy,
) -> Arc<PodInputs> {
    let receipt = format!(
        r#"{{"version":"0.1.0","decision":"inject","profile":"{profile}","profileHash":"0","service":"api",
        "controlPlane":"{plane}","secret":"headscale-auth-keys","dataKey":"{data_key}"}}"#
    );
    let annotations = [
        (STATUS, receipt.as_str()),
        ("sidescale.io/inject", "tailscale"),
    ];
    let owner = WorkloadOwner {
        kind: "DaemonSet",
        name: "api",
    };
    Arc::new(PodInputs::new(
        "api-x",
        annotations.into_iter(),
        [("app", app)].into_iter(),
        Some(owner),
        &policy.pod_labels(),
    ))
}

#[test]
fn the_profile_of_the_receipt_makes_the_key_where_the_namespace_may_have_it() {
    let text = "controlPlanes:
  default: {loginServer: 'https://headscale.example.org'}
  lab: {loginServer: 'https://lab.example.org'}
profiles:
  named: {namespaces: [shop], annotations: {tags: 'tag:named', control-plane: lab}}
  selected: {podSelector: {matchLabels: {app: x}}, annotations: {tags: 'tag:selected'}}
  elsewhere: {namespaces: [other], podSelector: {matchLabels: {app: x}}, annotations: {tags: 'tag:admin'}}
  closed: {annotations: {tags: 'tag:admin'}}
";
    let policy = Policy::from_config(serde_saphyr::from_str(text).unwrap()).unwrap();
    let opted_in = NamespaceMetadata {
        inject: Some("tailscale".to_owned()),
        ..NamespaceMetadata::default()
    };
    let table = [
        ("named", "api_lab-authkey", "lab", Some("tag:named")),
        ("selected", "api-authkey", "default", Some("tag:selected")),
        ("selected", "api_lab-authkey", "lab", None),
        ("elsewhere", "api-authkey", "default", None),
        ("closed", "api-authkey", "default", None),
        ("gone", "api-authkey", "default", None),
    ];
    for (profile, data_key, plane, tag) in table {
        let shape = of_profile(profile, data_key, plane, "x", &policy);
        let pods = [pod(&shape, 1)];
        let demand = of_namespace("shop", pods.into_iter(), Some(&opted_in), &policy);
        let keys = demand.secrets.get("headscale-auth-keys");
        let key = keys.and_then(|keys| keys.get(data_key));
        let tags = key.map(|key| key.asked.tags.join(","));
        assert_eq!(tags.as_deref(), tag, "{profile} {plane}");
        assert_eq!(demand.refused, usize::from(tag.is_none()), "{profile}");
    }
}

/// A receipt can be forged on a running pod: a profile that selects pods by labels must also match the pod's labels.
#[test]
fn a_profile_for_pods_by_their_labels_is_for_no_others() {
    let text = "controlPlanes:
  default: {loginServer: 'https://headscale.example.org'}
  lab: {loginServer: 'https://lab.example.org'}
profiles:
  default: {namespaces: [other]}
  db:
    podSelector: {matchLabels: {app: db}, matchExpressions: [{key: canary, operator: DoesNotExist}]}
    annotations: {tags: 'tag:db', control-plane: lab}
";
    let policy = Policy::from_config(serde_saphyr::from_str(text).unwrap()).unwrap();
    let labelled = |inject: Option<&str>| NamespaceMetadata {
        inject: inject.map(str::to_owned),
        ..NamespaceMetadata::default()
    };
    let table = [
        ("db", Some(labelled(Some("tailscale"))), 1),
        ("db", Some(labelled(Some("true"))), 1),
        ("db", Some(labelled(Some("other"))), 0),
        ("db", Some(labelled(None)), 0),
        ("db", None, 0),
        ("web", Some(labelled(Some("tailscale"))), 0),
    ];
    for (app, metadata, keys) in table {
        let shape = of_profile("db", "api_lab-authkey", "lab", app, &policy);
        let pods = [pod(&shape, 1)];
        let demand = of_namespace("shop", pods.into_iter(), metadata.as_ref(), &policy);
        assert_eq!(demand.secrets.len(), keys, "{app} {metadata:?}");
        assert_eq!(demand.refused, 1 - keys, "{app} {metadata:?}");
    }
}

#[test]
fn keeps_of_a_pods_labels_those_that_decide() {
    let text = "controlPlanes: {default: {loginServer: 'https://headscale.example.org'}}
profiles:
  db: {podSelector: {matchLabels: {app: db}, matchExpressions: [{key: canary, operator: DoesNotExist}]}}
";
    let policy = Policy::from_config(serde_saphyr::from_str(text).unwrap()).unwrap();
    let labels = [("pod-name", "x-1"), ("canary", "1"), ("app", "db")];
    let none = std::iter::empty();
    let shape = PodInputs::new("x", none, labels.into_iter(), None, &policy.pod_labels());
    let kept: Vec<_> = shape.labels.iter().map(|(key, _)| &**key).collect();
    assert_eq!(kept, ["app", "canary"]);
}

//! Pods with their own keys. Tests.

use super::*;

const POD_SECRET: &str = "headscale-pod-auth-keys";

fn own(data_key: &str, secret: &str, more: &[(&str, &str)]) -> Arc<PodInputs> {
    let receipt = format!(
        r#"{{"version":"0.1.0","decision":"inject","profile":"default","profileHash":"0","service":"api",
        "controlPlane":"default","secret":"{secret}","dataKey":"{data_key}"}}"#
    );
    let more: Vec<_> = [(STATUS, receipt.as_str())]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    shape("api", &more)
}

#[test]
fn a_pod_with_a_key_of_its_own_needs_that_very_key() {
    let per_pod = [
        ("sidescale.io/key-mode", "per-pod"),
        ("sidescale.io/tags", "tag:web"),
    ];
    let (one, two) = (
        own("api-0123456789ab-authkey", POD_SECRET, &per_pod),
        own("api-ba9876543210-authkey", POD_SECRET, &per_pod),
    );
    let demand = demand(&[pod(&one, 1), pod(&two, 2)], None);
    let keys = &demand.secrets[POD_SECRET];
    assert_eq!((keys.len(), demand.secrets.len()), (2, 1));
    let key = &keys["api-0123456789ab-authkey"];
    let asked = KeySpec {
        user: "shop.api".into(),
        tags: vec!["tag:web".into()],
        reusable: false,
        ephemeral: true,
    };
    assert_eq!((&key.asked, key.pods), (&asked, 1));
    assert_eq!(key.expiration, Duration::from_secs(3_600));
    assert_eq!(demand.held[POD_SECRET], keys.keys().cloned().collect());
    assert_eq!(demand.replica_groups.len(), 2);
}

#[test]
fn the_node_of_a_pod_with_a_name_of_its_own_is_known() {
    for (hostname, want) in [
        ("{pod}", Some("api-6d4cf56db6-abcde")),
        ("x-{pod}", Some("x-api-6d4cf56db6-abcde")),
        ("{service}", None),
        ("{pod}-{node}", None),
    ] {
        let shape = own(
            "api-0123456789ab-authkey",
            POD_SECRET,
            &[("sidescale.io/hostname", hostname)],
        );
        let demand = demand(&[pod(&shape, 1)], None);
        let key = &demand.secrets[POD_SECRET]["api-0123456789ab-authkey"];
        assert_eq!(key.hostname.as_deref(), want, "{hostname}");
    }
}

/// The namespace's annotation may have changed since, and a pod must never wait for a key that is not created.
#[test]
fn the_receipt_says_whether_a_key_is_a_pods_own() {
    let says = |mode: &str| NamespaceMetadata {
        annotations: [("sidescale.io/key-mode".to_owned(), mode.to_owned())].into(),
        ..NamespaceMetadata::default()
    };
    let own = own("api-0123456789ab-authkey", POD_SECRET, &[]);
    let shared = shape("api", &[]);
    for mode in ["shared", "per-pod"] {
        let demand = demand(&[pod(&own, 1), pod(&shared, 2)], Some(&says(mode)));
        let reusable = |secret: &str, key: &str| demand.secrets[secret][key].asked.reusable;
        assert!(!reusable(POD_SECRET, "api-0123456789ab-authkey"), "{mode}");
        assert!(reusable("headscale-auth-keys", "api-authkey"), "{mode}");
    }
}

#[test]
fn a_forged_name_of_a_pods_own_key_gets_nothing_and_holds_nothing_of_others() {
    for (data_key, secret) in [
        ("api-authkey", POD_SECRET),
        ("db-0123456789ab-authkey", POD_SECRET),
        ("api-0123456789ab_lab-authkey", POD_SECRET),
        ("api-0123456789AB-authkey", POD_SECRET),
        ("sidescale.json", POD_SECRET),
        ("api-0123456789ab-authkey", "headscale-auth-keys"),
        ("api-0123456789ab-authkey", "headscale-api-key"),
    ] {
        let shape = own(data_key, secret, &[("sidescale.io/key-mode", "per-pod")]);
        let demand = demand(&[pod(&shape, 1)], None);
        assert!(demand.secrets.is_empty(), "{secret}/{data_key}");
        assert_eq!(demand.refused, 1);
    }
}

#[test]
fn pods_that_policy_refuses_hold_on_to_the_key_that_they_share() {
    let refused = own(
        "api-authkey",
        "headscale-auth-keys",
        &[("sidescale.io/tags", "tag:admin")],
    );
    let demand = demand(&[pod(&refused, 1)], None);
    assert!(demand.secrets.is_empty());
    assert_eq!(
        demand.held["headscale-auth-keys"],
        ["api-authkey".to_owned()].into()
    );
}

#[test]
fn a_pod_that_policy_refuses_holds_on_to_its_own_key() {
    let refused = own(
        "api-0123456789ab-authkey",
        POD_SECRET,
        &[("sidescale.io/tags", "tag:admin")],
    );
    let demand = demand(&[pod(&refused, 1)], None);
    assert!(demand.secrets.is_empty());
    assert_eq!(
        demand.held[POD_SECRET],
        ["api-0123456789ab-authkey".to_owned()].into()
    );
}

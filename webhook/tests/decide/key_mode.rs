//! Per-pod keys: their properties, and annotations that are incompatible with them.

use super::*;

const POD_SECRET: &str = "headscale-pod-auth-keys";

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn denied(pairs: &[(&str, &str)], namespace: Option<&NamespaceMetadata>, want: &str) {
    let mut pairs = pairs.to_vec();
    pairs.push(("inject", "tailscale"));
    api(&pairs, namespace, |decision| match decision {
        Decision::Deny(Refusal { reason, message }) => {
            assert_eq!((reason, &*message), (DenyReason::BadValue, want));
        }
        other => panic!("{pairs:?}: {other:?}"),
    });
}

#[test]
fn gives_each_pod_a_key_that_works_once_and_not_for_long() {
    let asked = [("key-mode", "per-pod"), ("tags", "tag:web")];
    injected(&asked, None, |injection| {
        assert_eq!(injection.service, "api");
        let key = ManagedKey {
            secret: POD_SECRET.to_owned(),
            data_key: "api-705ab4f56393-authkey".to_owned(),
            user: "shop.api".to_owned(),
            tags: vec!["tag:web".to_owned()],
            reusable: false,
            ephemeral: true,
            expiration: hours(1),
            buffer: hours(1) / 3,
        };
        assert_eq!(managed(injection), key);
    });
    injected(&[("key-mode", "shared")], None, |injection| {
        assert_eq!(managed(injection).data_key, "api-authkey");
        assert!(managed(injection).reusable);
    });
}

#[test]
fn a_key_of_one_pod_lives_an_hour_at_most() {
    for (asked, lives, remarks) in [
        ("30m", hours(1) / 2, 0),
        ("60m", hours(1), 0),
        ("90d", hours(1), 1),
    ] {
        let asked = [("key-mode", "per-pod"), ("auth-key-expiration", asked)];
        asking("tailscale", &asked, None, |injection| {
            let key = managed(injection.tailscale.as_ref().unwrap());
            assert_eq!((key.expiration, key.buffer), (lives, lives / 3));
            assert_eq!(injection.remarks.len(), remarks, "{:?}", injection.remarks);
        });
    }
    for (asked, want) in [
        ("4m", "want at least 5m"),
        ("soon", "want a duration such as 90m, 12h or 30d"),
    ] {
        let message =
            format!("annotation \"sidescale.io/auth-key-expiration\" is {asked:?}: {want}");
        denied(
            &[("key-mode", "per-pod"), ("auth-key-expiration", asked)],
            None,
            &message,
        );
    }
}

#[test]
fn a_key_that_works_once_cannot_be_what_else_is_asked() {
    let per_pod = ("key-mode", "per-pod");
    let memory = "annotation \"sidescale.io/key-mode\" is \"per-pod\": with \"sidescale.io/state\" memory, each start of the container logs in again, and a per-pod key works only once: want shared, or state emptydir";
    denied(&[per_pod, ("state", "memory")], None, memory);
    let reusable = "annotation \"sidescale.io/reusable\" is \"true\": with \"sidescale.io/key-mode\" per-pod, each key works only once: remove this annotation, or set key-mode to shared";
    denied(&[per_pod, ("reusable", "true")], None, reusable);
    let given = "annotation \"sidescale.io/key-mode\" is \"per-pod\": this applies to keys that Sidescale creates, and \"sidescale.io/auth-key-secret\" names your own: remove one of the two";
    denied(&[per_pod, ("auth-key-secret", "mine/key")], None, given);
    injected(&[per_pod, ("reusable", "false")], None, |injection| {
        assert!(!managed(injection).reusable);
    });
}

/// The nearer annotation counts; two equally near ones conflict.
#[test]
fn what_contradicts_from_further_away_gives_way() {
    let says = |pairs: &[(&str, &str)]| Some(metadata(None, pairs));
    let (per_pod, reusable) = (("key-mode", "per-pod"), ("reusable", "true"));
    let given = ("auth-key-secret", "mine/key");
    injected(&[per_pod], says(&[reusable]).as_ref(), |injection| {
        assert!(!managed(injection).reusable);
    });
    injected(&[given], says(&[per_pod]).as_ref(), |injection| {
        assert!(matches!(injection.key, AuthKeyRef::Given { .. }));
    });
    injected(
        &[("key-mode", "shared")],
        says(&[per_pod]).as_ref(),
        |injection| {
            assert_eq!(managed(injection).data_key, "api-authkey");
        },
    );
    for (pod, namespace, about) in [
        (
            &[reusable][..],
            &[per_pod][..],
            "\"sidescale.io/reusable\" is",
        ),
        (
            &[],
            &[per_pod, reusable],
            "\"sidescale.io/reusable\" of namespace \"shop\" is",
        ),
        (&[per_pod], &[given], "\"sidescale.io/key-mode\" is"),
        (
            &[],
            &[per_pod, given],
            "\"sidescale.io/key-mode\" of namespace \"shop\" is",
        ),
        (
            &[per_pod],
            &[("state", "memory")],
            "\"sidescale.io/key-mode\" is",
        ),
    ] {
        let mut pairs = pod.to_vec();
        pairs.push(("inject", "tailscale"));
        api(
            &pairs,
            says(namespace).as_ref(),
            |decision| match decision {
                Decision::Deny(Refusal { message, .. }) => {
                    assert!(message.contains(about), "{message}")
                }
                other => panic!("{pod:?} {namespace:?}: {other:?}"),
            },
        );
    }
}

#[test]
fn names_the_key_of_another_control_plane_and_refuses_what_no_secret_can_hold() {
    let text = "controlPlanes: {default: {loginServer: 'https://hs.example.com'}, a234567890123456789012345678901234567890: {loginServer: 'https://b.example.com', namespaces: [shop]}}
profiles: {default: {annotations: {key-mode: per-pod}}}";
    let policy = Policy::from_config(serde_saphyr::from_str(text).unwrap()).unwrap();
    let decided = |service: &str| {
        let asked = [
            ("inject", "tailscale"),
            ("service", service),
            ("control-plane", "a234567890123456789012345678901234567890"),
        ];
        let (annotations, labels) = (ours(&asked), Pairs(Vec::new()));
        let subject = Subject {
            namespace: "shop",
            name: "",
            annotations: &annotations,
            labels: &labels,
            owner: None,
            namespace_metadata: None,
            namespace_opted_in: false,
            profile: None,
            caller: Caller::Verified,
            request: "705ab4f5-6393-11e8-b7cc-42010a800002",
        };
        match decide(&subject, &policy) {
            Decision::Inject(injection) => Ok(managed(&injection.tailscale.unwrap()).data_key),
            Decision::Deny(refusal) => Err(refusal.message),
            other => panic!("{other:?}"),
        }
    };
    let longest = "a".repeat(191);
    assert_eq!(
        decided("api").unwrap(),
        "api-705ab4f56393_a234567890123456789012345678901234567890-authkey"
    );
    assert_eq!(decided(&longest).unwrap().len(), 253);
    let message = decided(&"a".repeat(200)).unwrap_err();
    assert!(message.starts_with("profiles.default.annotations.key-mode is \"per-pod\": the service's name is too long for a per-pod key, by 9"), "{message}");
}

//! Precedence: the pod, its namespace, its profile, the default. Pure.

use super::*;

#[test]
fn puts_the_pod_above_its_namespace() {
    let namespace = metadata(
        None,
        &[("wait", "true"), ("tags", "tag:db"), ("inject", "false")],
    );
    injected(&[("tags", "tag:web")], Some(&namespace), |injection| {
        assert!(injection.wait);
        assert_eq!(managed(injection).tags, ["tag:web"]);
    });
}

#[test]
fn weighs_pod_against_namespace() {
    let labelled = |value| Some(metadata(Some(value), &[]));
    let table = [
        (None, None, Some(SkipReason::NotRequested)),
        (Some("false"), None, Some(SkipReason::Disabled)),
        (Some("true"), None, None),
        (
            Some("true"),
            labelled("disabled"),
            Some(SkipReason::Disabled),
        ),
        (Some("true"), labelled("false"), Some(SkipReason::Disabled)),
        (Some("true"), labelled("tailscale"), None),
    ];
    for (inject, namespace, skip) in table {
        let pairs: Vec<_> = inject.map(|value| ("inject", value)).into_iter().collect();
        api(&pairs, namespace.as_ref(), |decision| match skip {
            Some(reason) => assert_eq!(decision, Decision::Skip(reason)),
            None => assert!(matches!(decision, Decision::Inject(_)), "{decision:?}"),
        });
    }
}

#[test]
fn follows_the_namespace_where_the_pod_says_nothing() {
    let (none, policy) = (Pairs(Vec::new()), policy());
    let subject = Subject {
        namespace: "shop",
        name: "",
        annotations: &none,
        labels: &none,
        owner: Some(WorkloadOwner {
            kind: "DaemonSet",
            name: "api",
        }),
        namespace_metadata: None,
        namespace_opted_in: true,
        profile: None,
        caller: Caller::Verified,
        request: "705ab4f5-6393-11e8-b7cc-42010a800002",
    };
    assert!(matches!(decide(&subject, &policy), Decision::Inject(_)));
    let nameless = Subject {
        owner: None,
        ..subject
    };
    assert_eq!(
        decide(&nameless, &policy),
        Decision::Skip(SkipReason::NoService)
    );
    let asking = ours(&[("inject", "true")]);
    let message = "no service name can be derived from this pod (it has no owner, and its name is not generated yet): set annotation \"sidescale.io/service\" to a name of lower-case letters, digits, dashes and dots, at most 200 characters, such as api";
    assert_eq!(
        decide(
            &Subject {
                annotations: &asking,
                ..nameless
            },
            &policy
        ),
        Decision::Deny(Refusal {
            reason: DenyReason::NoService,
            message: message.to_owned()
        })
    );
}

/// Every combination of pod, namespace and profile, for a switch, a text and a list.
#[test]
fn puts_the_pod_above_its_namespace_above_its_profile_above_the_default() {
    let config = |speaks: bool| {
        let annotations = if speaks {
            "{hostname: by-profile, tags: 'tag:profile', wait: 'true', cpu-limit: 300m}"
        } else {
            "{}"
        };
        let text = format!(
            "controlPlanes: {{default: {{loginServer: 'https://hs.example.com'}}}}
profiles: {{default: {{allowedTags: ['tag:pod', 'tag:namespace'], annotations: {annotations}}}}}"
        );
        Policy::from_config(serde_saphyr::from_str(&text).unwrap()).unwrap()
    };
    let says = |who: &str, wait: &str, limit: &str| {
        [
            ("hostname".to_owned(), format!("by-{who}")),
            ("tags".to_owned(), format!("tag:{who}")),
            ("wait".to_owned(), wait.to_owned()),
            ("cpu-limit".to_owned(), limit.to_owned()),
        ]
    };
    for speaking in 0..8 {
        let [pod, namespace, profile] = [1, 2, 4].map(|bit| speaking & bit > 0);
        let policy = config(profile);
        let mut on_pod = vec![("inject".to_owned(), "true".to_owned())];
        if pod {
            on_pod.extend(says("pod", "false", "100m"));
        }
        let borrowed = |pairs: &[(String, String)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            ours(&pairs)
        };
        let annotations = borrowed(&on_pod);
        let mut metadata = NamespaceMetadata::default();
        if namespace {
            let entries = borrowed(&says("namespace", "false", "150m"));
            metadata.annotations.extend(entries.0);
        }
        let subject = Subject {
            namespace: "shop",
            name: "",
            annotations: &annotations,
            labels: &Pairs(Vec::new()),
            owner: Some(WorkloadOwner {
                kind: "DaemonSet",
                name: "api",
            }),
            namespace_metadata: Some(&metadata),
            namespace_opted_in: false,
            profile: None,
            caller: Caller::Verified,
            request: "705ab4f5-6393-11e8-b7cc-42010a800002",
        };
        let (hostname, tag, wait, limit) = match (pod, namespace, profile) {
            (true, _, _) => ("by-pod", Some("tag:pod"), false, "100m"),
            (false, true, _) => ("by-namespace", Some("tag:namespace"), false, "150m"),
            (false, false, true) => ("by-profile", Some("tag:profile"), true, "300m"),
            (false, false, false) => ("api", None, false, "200m"),
        };
        let Decision::Inject(injection) = decide(&subject, &policy) else {
            panic!("{speaking:03b}");
        };
        let sidecar = injection.tailscale.unwrap();
        assert_eq!(sidecar.hostname.text, hostname, "{speaking:03b}");
        assert_eq!(
            managed(&sidecar).tags,
            Vec::from_iter(tag),
            "{speaking:03b}"
        );
        assert_eq!((sidecar.wait, &*sidecar.resources.cpu_limit), (wait, limit));
    }
}

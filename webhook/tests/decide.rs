//! What pods and namespaces may ask for, and what each mistake is answered with.

#![allow(clippy::panic, clippy::too_many_lines, clippy::unwrap_used)]

use std::time::Duration;

use sidescale_webhook::annotations::{
    ApikeyManager, Decision, DenyReason, Injection, Key, Lookup, ManagedKey, NamespaceMetadata,
    Refusal, ServerKeys, SkipReason, Subject, Tailscale, decide,
};
use sidescale_webhook::identity::Owner;
use sidescale_webhook::profile::{Delivery, Policy};

#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl Lookup for Pairs {
    fn value(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(self.0.iter().map(|(key, value)| (&**key, &**value)))
    }
}

fn ours(pairs: &[(&str, &str)]) -> Pairs {
    Pairs(
        pairs
            .iter()
            .map(|(key, value)| (format!("sidescale.io/{key}"), (*value).to_owned()))
            .collect(),
    )
}

fn policy() -> Policy {
    let mut policy = Policy::for_login_server("https://hs.example.com").unwrap();
    policy.profiles.get_mut("default").unwrap().allowed_tags =
        vec!["tag:web".to_owned(), "tag:db".to_owned()];
    policy
}

fn api(
    pairs: &[(&str, &str)],
    namespace: Option<&NamespaceMetadata>,
    check: impl FnOnce(Decision<'_>),
) {
    let (annotations, labels, policy) = (ours(pairs), Pairs(Vec::new()), policy());
    let subject = Subject {
        namespace: "shop",
        name: "",
        annotations: &annotations,
        labels: &labels,
        owner: Some(Owner {
            kind: "DaemonSet",
            name: "api",
        }),
        namespace_metadata: namespace,
        namespace_opted_in: false,
    };
    check(decide(&subject, &policy));
}

fn injected(
    pairs: &[(&str, &str)],
    namespace: Option<&NamespaceMetadata>,
    check: impl FnOnce(&Tailscale<'_>),
) {
    asking("tailscale", pairs, namespace, |injection| {
        assert!(injection.apikey_manager.is_none());
        check(injection.tailscale.as_ref().unwrap());
    });
}

fn asking(
    kinds: &str,
    pairs: &[(&str, &str)],
    namespace: Option<&NamespaceMetadata>,
    check: impl FnOnce(&Injection<'_>),
) {
    let mut pairs = pairs.to_vec();
    pairs.push(("inject", kinds));
    api(&pairs, namespace, |decision| match decision {
        Decision::Inject(injection) => check(&injection),
        other => panic!("{pairs:?}: {other:?}"),
    });
}

fn managed(injection: &Tailscale<'_>) -> ManagedKey {
    match &injection.key {
        Key::Managed(key) => key.clone(),
        given @ Key::Given { .. } => panic!("{given:?}"),
    }
}

fn metadata(inject: Option<&str>, pairs: &[(&str, &str)]) -> NamespaceMetadata {
    let annotations = ours(pairs).0.into_iter().collect();
    NamespaceMetadata {
        inject: inject.map(str::to_owned),
        annotations,
    }
}

#[test]
fn gives_every_default() {
    injected(&[], None, |injection| {
        assert_eq!(injection.service, "api");
        assert_eq!(injection.hostname.text, "api");
        assert_eq!(injection.delivery, Delivery::Env);
        assert!(!injection.wait && !injection.private_ca);
        let key = ManagedKey {
            secret: "headscale-auth-keys".to_owned(),
            data_key: "api-authkey".to_owned(),
            user: "shop.api".to_owned(),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
            expiration: Duration::from_secs(2160 * 3600),
            buffer: Duration::from_secs(240 * 3600),
        };
        assert_eq!(managed(injection), key);
    });
}

#[test]
fn reads_every_annotation() {
    let pairs = [
        ("service", "front.v2"),
        ("hostname", "x-{service}-{pod}"),
        ("control-plane", "default"),
        ("tags", "tag:web, tag:db,tag:web"),
        ("reusable", "false"),
        ("auth-key-expiration", "30d"),
        ("auth-key-rotation-buffer", "12h"),
        ("auth-key-delivery", "file"),
        ("state", "emptydir"),
        ("userspace", "true"),
        ("native-sidecar", "true"),
        ("wait", "true"),
        ("cpu-request", "10m"),
        ("memory-limit", "1Gi"),
    ];
    injected(&pairs, None, |injection| {
        assert_eq!(injection.hostname.text, "x-front-v2-$(POD_NAME)");
        assert!(injection.hostname.needs_pod_name && injection.wait && injection.delivery_asked);
        assert_eq!(
            (
                &*injection.resources.cpu_request,
                &*injection.resources.memory_limit
            ),
            ("10m", "1Gi")
        );
        let key = managed(injection);
        assert_eq!(key.tags, ["tag:web", "tag:db"]);
        assert_eq!(
            (key.user.as_str(), key.data_key.as_str()),
            ("shop.front_v2", "front.v2-authkey")
        );
        assert!(!key.reusable);
        assert_eq!(
            (key.expiration, key.buffer),
            (
                Duration::from_secs(30 * 86_400),
                Duration::from_secs(12 * 3600)
            )
        );
    });
}

#[test]
fn uses_a_secret_of_the_users_own() {
    injected(&[("auth-key-secret", "mine/key")], None, |injection| {
        assert_eq!(
            injection.key,
            Key::Given {
                secret: "mine".to_owned(),
                data_key: "key".to_owned()
            }
        );
    });
}

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
fn names_annotation_value_and_accepted_form_of_each_mistake() {
    use DenyReason::{BadValue, NotAllowed, NotSupported};
    let table = [
        (
            ("inject", "tailscal"),
            BadValue,
            "want tailscale, apikey-manager, server-keys, several of these with commas, true or false",
        ),
        (
            ("inject", "tailscale,false"),
            BadValue,
            "want tailscale, apikey-manager, server-keys, several of these with commas, true or false",
        ),
        (
            ("service", "My API"),
            BadValue,
            "want a name of lower-case letters, digits, dashes and dots, at most 200, such as api",
        ),
        (
            ("hostname", "{cluster}"),
            BadValue,
            "want lower-case letters, digits, dashes, dots, {service}, {namespace}, {pod} and {node}, such as {service}-{namespace}",
        ),
        (
            ("control-plane", "https://evil"),
            NotAllowed,
            "want one of the configured control planes: default",
        ),
        (
            ("tags", "web"),
            BadValue,
            "want tags such as tag:web,tag:prod, in lower case",
        ),
        (
            ("tags", "tag:admin"),
            NotAllowed,
            "tag:admin is not allowed; the profile allows tag:web, tag:db: ask for one of these, or have the operator add it to profiles.default.allowedTags",
        ),
        (("reusable", "yes"), BadValue, "want true or false"),
        (
            ("auth-key-expiration", "5 weeks"),
            BadValue,
            "want a duration such as 90m, 12h or 30d",
        ),
        (("auth-key-expiration", "1s"), BadValue, "want at least 1m"),
        (
            ("auth-key-expiration", "24h"),
            BadValue,
            "not more than the rotation buffer of 240h: set \"sidescale.io/auth-key-rotation-buffer\" to less",
        ),
        (
            ("auth-key-rotation-buffer", "100d"),
            BadValue,
            "want less than the key's life of 2160h",
        ),
        (("auth-key-delivery", "argv"), BadValue, "want env or file"),
        (
            ("auth-key-secret", "mine"),
            BadValue,
            "want <Secret name>/<data key>, such as my-keys/authkey",
        ),
        (
            ("state", "memory"),
            NotSupported,
            "not supported yet, want emptydir",
        ),
        (("state", "disk"), BadValue, "want emptydir"),
        (
            ("userspace", "false"),
            NotSupported,
            "not supported yet, want true",
        ),
        (
            ("native-sidecar", "false"),
            NotSupported,
            "not supported yet, want true",
        ),
        (("wait", "1"), BadValue, "want true or false"),
        (
            ("cpu-request", "fast"),
            BadValue,
            "want a Kubernetes quantity such as 50m or 0.2",
        ),
        (
            ("cpu-request", "1"),
            BadValue,
            "want no more than the limit, which is 200m",
        ),
        (
            ("memory-limit", "0"),
            BadValue,
            "want a Kubernetes quantity such as 128Mi or 1Gi",
        ),
        (
            ("memory-limit", "1Mi"),
            BadValue,
            "want no less than the request, which is 128Mi",
        ),
        (
            ("proxy", "1055"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (
            ("profile", "other"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (
            ("ephemeral", "true"),
            NotSupported,
            "not supported yet, remove it",
        ),
    ];
    for ((key, value), reason, want) in table {
        let message = format!("annotation \"sidescale.io/{key}\" is {value:?}: {want}");
        let refusal = |text: String| Refusal {
            reason,
            message: text,
        };
        let pairs = if key == "inject" {
            vec![(key, value)]
        } else {
            vec![("inject", "true"), (key, value)]
        };
        api(&pairs, None, |decision| {
            assert_eq!(decision, Decision::Deny(refusal(message.clone())))
        });
        if key != "inject" {
            let namespace = metadata(None, &[(key, value)]);
            let message = message.replace("\" is", "\" of namespace \"shop\" is");
            api(&[("inject", "true")], Some(&namespace), |decision| {
                assert_eq!(decision, Decision::Deny(refusal(message)));
            });
        }
    }
}

#[test]
fn refuses_properties_of_a_key_that_is_not_ours() {
    api(
        &[
            ("inject", "true"),
            ("auth-key-secret", "mine/key"),
            ("tags", "tag:web"),
        ],
        None,
        |decision| {
            let message = "annotation \"sidescale.io/tags\" is \"tag:web\": this belongs to keys that we make, and \"sidescale.io/auth-key-secret\" names one of yours: remove one of the two";
            assert_eq!(
                decision,
                Decision::Deny(Refusal {
                    reason: DenyReason::BadValue,
                    message: message.to_owned()
                })
            );
        },
    );
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
        owner: Some(Owner {
            kind: "DaemonSet",
            name: "api",
        }),
        namespace_metadata: None,
        namespace_opted_in: true,
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
    let message = "no service can be named after this pod (it has no owner, and no name before it is generated): set annotation \"sidescale.io/service\" to a name of lower-case letters, digits, dashes and dots, at most 200, such as api";
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

#[test]
fn reads_what_the_manager_of_the_api_key_is_to_do() {
    asking("apikey-manager", &[], None, |injection| {
        assert!(injection.tailscale.is_none() && injection.remarks.is_empty());
        let want = ApikeyManager {
            container: None,
            socket_path: "/var/run/headscale/headscale.sock",
            secret: "headscale-api-key",
            expiration: Duration::from_secs(2160 * 3600),
            buffer: Duration::from_secs(240 * 3600),
            image: concat!("sidescale:", env!("CARGO_PKG_VERSION")),
            resources: injection.apikey_manager.as_ref().unwrap().resources.clone(),
        };
        assert_eq!(injection.apikey_manager.as_ref(), Some(&want));
    });
    for (life, seconds) in [
        ("1h30m", 5400),
        ("90m", 5400),
        ("5400s", 5400),
        ("1.5h", 5400),
        ("720h", 720 * 3600),
        ("8760h", 8760 * 3600),
        ("90d", 2160 * 3600),
    ] {
        let pairs = [
            ("headscale-container", "hs"),
            ("socket-path", "/run/hs/hs.sock"),
            ("api-key-secret", "key.v2"),
            ("api-key-expiration", life),
            ("api-key-rotation-buffer", "30m"),
        ];
        asking(" apikey-manager ,tailscale", &pairs, None, |injection| {
            assert!(injection.tailscale.is_some());
            let manager = injection.apikey_manager.as_ref().unwrap();
            assert_eq!(
                (manager.container, manager.socket_path, manager.secret),
                (Some("hs"), "/run/hs/hs.sock", "key.v2")
            );
            assert_eq!(manager.expiration, Duration::from_secs(seconds), "{life}");
            assert_eq!(manager.buffer, Duration::from_secs(1800));
        });
    }
}

#[test]
fn names_each_mistake_of_a_headscale_pod() {
    let table = [
        (
            ("socket-path", "headscale.sock"),
            "want an absolute path below a directory, of letters, digits, dots, dashes and underscores, at most 107 characters, such as /var/run/headscale/headscale.sock",
        ),
        (
            ("api-key-secret", "My Key"),
            "want the name of a Secret, such as headscale-api-key",
        ),
        (
            ("headscale-container", "Head Scale"),
            "want the name of one of the pod's containers, such as headscale",
        ),
        (
            ("server-keys-secret", "My Keys"),
            "want the name of a Secret, such as headscale-keys",
        ),
        (
            ("server-keys-files", "noise_private.key,"),
            "want at most 16 names of files, each once, which are data keys of the Secret too, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-files", "a,../b"),
            "want at most 16 names of files, each once, which are data keys of the Secret too, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-files", "a, a"),
            "want at most 16 names of files, each once, which are data keys of the Secret too, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-path", "/"),
            "want an absolute path of letters, digits, dots, dashes and underscores, such as /var/lib/headscale",
        ),
        (
            ("api-key-expiration", "90 days"),
            "want a duration such as 90m, 12h or 30d",
        ),
        (
            ("api-key-rotation-buffer", "2160h"),
            "want less than the key's life of 2160h",
        ),
    ];
    for ((key, value), want) in table {
        let message = format!("annotation \"sidescale.io/{key}\" is {value:?}: {want}");
        api(
            &[("inject", "apikey-manager,server-keys"), (key, value)],
            None,
            |decision| {
                let refusal = Refusal {
                    reason: DenyReason::BadValue,
                    message,
                };
                assert_eq!(decision, Decision::Deny(refusal));
            },
        );
    }
}

#[test]
fn remarks_on_a_buffer_that_renews_a_key_all_the_time() {
    let remark = |key: &str| {
        format!(
            "annotation 'sidescale.io/{key}' is '1920h': with a life of 2160h the key is renewed every 240h, a buffer of less than half its life is usual"
        )
    };
    for (kind, key) in [
        ("apikey-manager", "api-key-rotation-buffer"),
        ("tailscale", "auth-key-rotation-buffer"),
    ] {
        asking(kind, &[(key, "1920h")], None, |injection| {
            assert_eq!(injection.remarks, [remark(key)]);
        });
    }
    asking(
        "apikey-manager",
        &[("api-key-rotation-buffer", "480h")],
        None,
        |injection| assert!(injection.remarks.is_empty()),
    );
}

#[test]
fn reads_which_keys_headscale_gets() {
    asking("server-keys", &[], None, |injection| {
        assert!(injection.tailscale.is_none() && injection.apikey_manager.is_none());
        let want = ServerKeys {
            container: None,
            secret: "headscale-keys",
            files: vec!["noise_private.key", "derp_server_private.key"],
            path: "/var/lib/headscale",
        };
        assert_eq!(injection.server_keys.as_ref(), Some(&want));
    });
    let pairs = [
        ("server-keys-secret", "hs-keys"),
        ("server-keys-files", "noise.key, private.key"),
        ("server-keys-path", "/data/"),
        ("headscale-container", "hs"),
    ];
    asking("tailscale,server-keys", &pairs, None, |injection| {
        let want = ServerKeys {
            container: Some("hs"),
            secret: "hs-keys",
            files: vec!["noise.key", "private.key"],
            path: "/data",
        };
        assert_eq!(injection.server_keys.as_ref(), Some(&want));
    });
}

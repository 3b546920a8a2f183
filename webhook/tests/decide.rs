//! What pods and namespaces may ask for, and what each mistake is answered with.

#![allow(clippy::panic, clippy::too_many_lines, clippy::unwrap_used)]

use std::time::Duration;

use sidescale_webhook::annotations::{
    ApikeyManager, Decision, DenyReason, Injection, Key, Lookup, ManagedKey, NamespaceMetadata,
    Refusal, ServerKeys, SkipReason, State, Subject, Tailscale, decide,
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
    let profile = policy.profiles.get_mut("default").unwrap();
    profile.allowed_tags = vec!["tag:web".to_owned(), "tag:db".to_owned()];
    profile.allowed_extra_args = ["ssh", "shields-up", "operator"]
        .map(str::to_owned)
        .to_vec();
    profile.allowed_images = vec!["registry.example.com/ts:*".to_owned()];
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
        profile: None,
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
        ..NamespaceMetadata::default()
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
            "want one of the control planes that are open to namespace \"shop\": default",
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
            ("state", "disk"),
            BadValue,
            "want emptydir, memory or volume:<name of one of the pod's volumes>",
        ),
        (
            ("state", "volume:"),
            BadValue,
            "want emptydir, memory or volume:<name of one of the pod's volumes>",
        ),
        (
            ("state", "volume:data"),
            BadValue,
            "only pods of a StatefulSet keep their name, and with it their state: want emptydir or memory",
        ),
        (
            ("ephemeral", "false"),
            BadValue,
            "without state of its own every pod would leave a node behind: want true, or state volume:<name> in a StatefulSet",
        ),
        (("ephemeral", "no"), BadValue, "want true or false"),
        (
            ("userspace", "false"),
            NotSupported,
            "not supported yet, want true",
        ),
        (("native-sidecar", "no"), BadValue, "want true or false"),
        (("accept-dns", "yes"), BadValue, "want true or false"),
        (("accept-routes", "1"), BadValue, "want true or false"),
        (
            ("proxy", "true"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy", "+1055"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy", "443"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy-env", "true"),
            BadValue,
            "there is no proxy: want false, or set sidescale.io/proxy to a port such as 1055",
        ),
        (
            ("image", "my image"),
            BadValue,
            "want an image such as docker.io/tailscale/tailscale:v1.102.3",
        ),
        (
            ("image", "evil/tailscale"),
            NotAllowed,
            "the profile allows registry.example.com/ts:*, or have the operator add it to profiles.default.allowedImages",
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
            ("exit-node", "true"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (
            ("serve-config", "web"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (
            ("profile", "other"),
            NotAllowed,
            "want one of the profiles that are open to namespace \"shop\": default",
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
        profile: None,
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
fn remarks_on_a_life_or_a_buffer_that_nobody_can_mean() {
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
    let long = "annotation 'sidescale.io/auth-key-expiration' is '366d': a key that is stolen stays good for more than a year, 2160h is usual";
    asking(
        "tailscale",
        &[("auth-key-expiration", "366d")],
        None,
        |injection| assert_eq!(injection.remarks, [long]),
    );
    for usual in ["168h", "240h", "480h"] {
        let pairs = [("api-key-rotation-buffer", usual)];
        asking("apikey-manager", &pairs, None, |injection| {
            assert!(injection.remarks.is_empty());
        });
    }
}

#[test]
fn reads_what_the_node_is_to_do() {
    let pairs = [
        ("accept-dns", "true"),
        ("accept-routes", "true"),
        ("proxy", "1080"),
        ("proxy-env", "true"),
        ("native-sidecar", "false"),
        ("state", "memory"),
        ("image", "registry.example.com/ts:v2"),
        ("extra-args", "--ssh -shields-up"),
    ];
    injected(&pairs, None, |sidecar| {
        assert!(sidecar.accept_dns && sidecar.accept_routes && !sidecar.native);
        assert_eq!((sidecar.proxy, sidecar.proxy_env), (Some(1080), true));
        assert_eq!(sidecar.state, State::Memory);
        assert_eq!(sidecar.image, "registry.example.com/ts:v2");
        assert_eq!(sidecar.extra_args, "--ssh -shields-up");
    });
    injected(&[], None, |sidecar| {
        assert!(!sidecar.accept_dns && !sidecar.accept_routes && sidecar.native);
        assert_eq!((sidecar.proxy, sidecar.proxy_env), (None, false));
        assert_eq!(sidecar.state, State::EmptyDir);
        assert_eq!(sidecar.extra_args, "");
    });
}

#[test]
fn lets_through_allowed_arguments_alone_however_they_are_spelt() {
    for good in [
        "",
        " ",
        "--ssh",
        "-ssh",
        "--ssh=true",
        "--operator me",
        "-operator=me",
        "  --shields-up   --operator  me --ssh ",
    ] {
        injected(&[("extra-args", good)], None, |sidecar| {
            assert_eq!(sidecar.extra_args, good);
        });
    }
    let other = "want arguments of tailscale up with spaces between them, without quotes, backslashes and $, such as --shields-up";
    let ours = |name: &str, instead: &str| {
        format!("--{name} would override what Sidescale sets: {instead}")
    };
    let unknown = |name: &str| {
        format!(
            "--{name} is not allowed; the profile allows --ssh, --shields-up, --operator, or have the operator add it to profiles.default.allowedExtraArgs"
        )
    };
    let plane = ours("login-server", "set sidescale.io/control-plane");
    let key = |name: &str| ours(name, "the key comes from a Secret, so remove it");
    let no_argument =
        |word: &str| format!("{word:?} is no argument: want arguments such as --shields-up");
    let stray = |word: &str| {
        format!("{word:?} belongs to no argument: want arguments such as --shields-up")
    };
    let table = [
        ("--login-server=https://evil", plane.clone()),
        ("-login-server=https://evil", plane.clone()),
        ("--login-server https://evil", plane.clone()),
        ("-login-server https://evil", plane.clone()),
        ("--ssh --login-server=https://evil", plane.clone()),
        ("--operator --login-server=https://evil", plane.clone()),
        ("--operator=me -login-server https://evil", plane),
        ("--authkey=x", key("authkey")),
        ("-auth-key x", key("auth-key")),
        ("--client-secret=x", key("client-secret")),
        (
            "--advertise-tags=tag:web",
            ours("advertise-tags", "set sidescale.io/tags"),
        ),
        (
            "--hostname=x",
            ours("hostname", "set sidescale.io/hostname"),
        ),
        (
            "-accept-routes",
            ours("accept-routes", "set sidescale.io/accept-routes"),
        ),
        (
            "--exit-node=x",
            ours(
                "exit-node",
                "routes and exit nodes are not supported yet, so remove it",
            ),
        ),
        ("--reset", ours("reset", "remove it")),
        ("--force-reauth", unknown("force-reauth")),
        ("--ssh --unknown", unknown("unknown")),
        ("---ssh", no_argument("---ssh")),
        ("--", no_argument("--")),
        ("-", no_argument("-")),
        ("--=x", no_argument("--=x")),
        ("--Ssh", no_argument("--Ssh")),
        ("ssh", stray("ssh")),
        ("--operator me you", stray("you")),
        ("--ssh=true me", stray("me")),
        ("--operator=$(TS_AUTHKEY)", other.to_owned()),
        ("--operator='me'", other.to_owned()),
        ("--ssh\n--login-server=https://evil", other.to_owned()),
        ("--ssh\u{a0}--login-server=https://evil", other.to_owned()),
    ];
    for (value, want) in table {
        let message = format!("annotation \"sidescale.io/extra-args\" is {value:?}: {want}");
        api(
            &[("inject", "true"), ("extra-args", value)],
            None,
            |decision| match decision {
                Decision::Deny(refusal) => assert_eq!(refusal.message, message),
                other => panic!("{value:?}: {other:?}"),
            },
        );
    }
}

/// Every way in which pod, namespace and profile may speak, for a switch, a text and a list.
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
            owner: Some(Owner {
                kind: "DaemonSet",
                name: "api",
            }),
            namespace_metadata: Some(&metadata),
            namespace_opted_in: false,
            profile: None,
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

#[test]
fn keeps_state_only_where_a_pod_keeps_its_name() {
    let policy = policy();
    let none = Pairs(Vec::new());
    let annotations = ours(&[
        ("inject", "true"),
        ("state", "volume:data"),
        ("ephemeral", "false"),
    ]);
    let owner = |kind| Some(Owner { kind, name: "db" });
    let table = [
        ("db-0", owner("StatefulSet"), true),
        ("", owner("DaemonSet"), false),
        ("", owner("Job"), false),
        ("lone", None, true),
    ];
    for (name, owner, kept) in table {
        let subject = Subject {
            namespace: "shop",
            name,
            annotations: &annotations,
            labels: &none,
            owner,
            namespace_metadata: None,
            namespace_opted_in: false,
            profile: None,
        };
        match decide(&subject, &policy) {
            Decision::Inject(injection) => {
                assert!(kept, "{owner:?}");
                let sidecar = injection.tailscale.unwrap();
                assert_eq!(sidecar.state, State::Volume("data"));
                assert!(!managed(&sidecar).ephemeral);
            }
            Decision::Deny(_) => assert!(!kept, "{owner:?}"),
            other @ (Decision::Skip(_) | Decision::Warn(_)) => panic!("{other:?}"),
        }
    }
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

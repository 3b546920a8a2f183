//! Annotations of pods and namespaces, and the error of each mistake.

#![allow(clippy::panic, clippy::too_many_lines, clippy::unwrap_used)]

mod headscale;
mod key_mode;
mod lives;
mod mistakes;
mod precedence;

use std::time::Duration;

use sidescale_webhook::annotations::{
    ApikeyManager, AuthKeyRef, Caller, Decision, DenyReason, Injection, Lookup, ManagedKey,
    NamespaceMetadata, Refusal, ServerKeys, SkipReason, StateStorage, Subject, Tailscale, decide,
};
use sidescale_webhook::identity::WorkloadOwner;
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
    let plane = policy.control_planes.get_mut("default").unwrap();
    "shop".clone_into(&mut plane.api_key_namespace);
    let profile = policy.profiles.get_mut("default").unwrap();
    profile.allowed_tags = vec!["tag:web".to_owned(), "tag:db".to_owned()];
    profile.allowed_extra_args = ["ssh", "shields-up", "operator"]
        .map(str::to_owned)
        .to_vec();
    profile.allowed_images = [
        "registry.example.com/ts:*",
        "registry.example.com/team/*",
        "ts@*",
    ]
    .map(str::to_owned)
    .to_vec();
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
        owner: Some(WorkloadOwner {
            kind: "DaemonSet",
            name: "api",
        }),
        namespace_metadata: namespace,
        namespace_opted_in: false,
        profile: None,
        caller: Caller::Verified,
        request: "705ab4f5-6393-11e8-b7cc-42010a800002",
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
        AuthKeyRef::Managed(key) => key.clone(),
        given @ AuthKeyRef::Given { .. } => panic!("{given:?}"),
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
            AuthKeyRef::Given {
                secret: "mine".to_owned(),
                data_key: "key".to_owned()
            }
        );
    });
}

#[test]
fn remarks_on_a_life_or_a_buffer_that_nobody_can_mean() {
    let remark = |key: &str| {
        format!(
            "annotation 'sidescale.io/{key}' is '1920h': with an expiration of 2160h, the key is renewed every 240h; a buffer of less than half the expiration is usual"
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
    let long = "annotation 'sidescale.io/api-key-expiration' is '366d': a stolen key would stay valid for more than a year, 2160h is usual";
    asking(
        "apikey-manager",
        &[("api-key-expiration", "366d")],
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
        assert_eq!(sidecar.state, StateStorage::Memory);
        assert_eq!(sidecar.image, "registry.example.com/ts:v2");
        assert_eq!(sidecar.extra_args, "--ssh -shields-up");
    });
    injected(&[], None, |sidecar| {
        assert!(!sidecar.accept_dns && !sidecar.accept_routes && sidecar.native);
        assert_eq!((sidecar.proxy, sidecar.proxy_env), (None, false));
        assert_eq!(sidecar.state, StateStorage::EmptyDir);
        assert_eq!(sidecar.extra_args, "");
    });
}

#[test]
fn keeps_state_only_where_a_pod_keeps_its_name() {
    let policy = policy();
    let none = Pairs(Vec::new());
    let annotations = ours(&[
        ("inject", "true"),
        ("service", "db"),
        ("state", "volume:data"),
        ("ephemeral", "false"),
    ]);
    let owner = |kind| Some(WorkloadOwner { kind, name: "db" });
    let table = [
        ("db-0", owner("StatefulSet"), true),
        ("", owner("DaemonSet"), false),
        ("", owner("Job"), false),
        ("lone", None, true),
        // From its generateName, whose suffix is added later.
        ("", None, false),
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
            caller: Caller::Verified,
            request: "705ab4f5-6393-11e8-b7cc-42010a800002",
        };
        match decide(&subject, &policy) {
            Decision::Inject(injection) => {
                assert!(kept, "{name:?} {owner:?}");
                let sidecar = injection.tailscale.unwrap();
                assert_eq!(sidecar.state, StateStorage::Volume("data"));
                assert!(!managed(&sidecar).ephemeral);
            }
            Decision::Deny(refusal) => {
                assert!(!kept, "{name:?} {owner:?}");
                let named = "annotation \"sidescale.io/state\" is \"volume:data\": ";
                assert!(refusal.message.starts_with(named), "{}", refusal.message);
            }
            other @ (Decision::Skip(_) | Decision::Warn(_)) => panic!("{other:?}"),
        }
    }
}

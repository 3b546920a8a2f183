//! Generated pods and annotations: the invariants of every answer hold for theirs.
//!
//! `send_twice` checks each of them: the patch only adds and applies, the rest is unchanged, a typed Pod
//! knows all our fields, a restricted pod stays restricted, and the second pass adds nothing.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::mutate::{OptIn, Verdict};
use sidescale_webhook::profile::{Config, Policy};

use crate::support::{Setting, review};

const CONFIG: &str = "controlPlanes:
  default: {loginServer: 'https://headscale.example.com', caBundle: \"-----BEGIN CERTIFICATE-----\\n-----END CERTIFICATE-----\"}
  lab: {loginServer: 'https://lab.example.com', namespaces: [shop]}
profiles:
  default: {allowedTags: ['tag:web'], allowedImages: ['registry.example.com/*'], allowedExtraArgs: [--ssh]}
  other: {namespaces: [shop], imagePullSecrets: [registry], annotations: {proxy: '1056', proxy-env: 'true'}}
  selected: {podSelector: {matchLabels: {app: web}}, annotations: {wait: 'true'}}
  lenient: {namespaces: [shop], onInvalid: warn}
";

/// Values by key, most of them valid and some not.
const ANNOTATIONS: [(&str, &[&str]); 27] = [
    (
        "inject",
        &[
            "tailscale",
            "true",
            "tailscale,apikey-manager",
            "server-keys",
            "apikey-manager,server-keys",
            "false",
        ],
    ),
    ("service", &["api", "api.v2"]),
    ("profile", &["default", "other", "lenient", "nobody"]),
    ("control-plane", &["lab", "default"]),
    (
        "hostname",
        &["{pod}-{node}", "web", "{service}-{namespace}"],
    ),
    ("tags", &["tag:web"]),
    ("reusable", &["true", "false"]),
    ("ephemeral", &["true", "false"]),
    ("auth-key-expiration", &["720h", "1h"]),
    ("auth-key-rotation-buffer", &["30m", "700h"]),
    ("auth-key-delivery", &["env", "file"]),
    ("auth-key-secret", &["mine/key"]),
    ("state", &["emptydir", "memory", "volume:data"]),
    ("wait", &["true", "false"]),
    ("native-sidecar", &["true", "false"]),
    ("accept-dns", &["true"]),
    ("accept-routes", &["true"]),
    ("extra-args", &["--ssh", "--ssh=false", "--login-server=x"]),
    ("proxy", &["1055", "8080", "false"]),
    ("proxy-env", &["true", "false"]),
    ("image", &["registry.example.com/ts:v1"]),
    ("cpu-request", &["10m", "1"]),
    ("headscale-container", &["headscale", "app"]),
    ("socket-path", &["/run/hs/hs.sock", "/data/hs.sock"]),
    ("api-key-expiration", &["90d"]),
    ("server-keys-files", &["noise_private.key", "a,b,c"]),
    ("nonsense", &["x"]),
];

fn annotations() -> impl Strategy<Value = Map<String, Value>> {
    let some = subsequence(ANNOTATIONS.to_vec(), 0..6);
    let values = some.prop_flat_map(|some| {
        let each = some.into_iter().map(|(key, values)| {
            select(values).prop_map(move |value| (format!("sidescale.io/{key}"), json!(value)))
        });
        each.collect::<Vec<_>>()
    });
    (values, any::<bool>(), any::<bool>()).prop_map(|(values, asks, evicts)| {
        let mut map: Map<String, Value> = values.into_iter().collect();
        if asks {
            let kinds = json!("tailscale,apikey-manager");
            map.entry("sidescale.io/inject").or_insert(kinds);
        }
        if evicts {
            let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
            map.insert(key.to_owned(), json!("cache"));
        }
        map
    })
}

fn security() -> impl Strategy<Value = Value> {
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    select(vec![
        Value::Null,
        json!({}),
        json!({"runAsUser": 0}),
        json!({"runAsNonRoot": true}),
        restricted,
    ])
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let env = select(vec![
        Value::Null,
        json!([]),
        json!([{"name": "HTTP_PROXY", "value": "x"}, {"name": "PORT", "value": "1"}]),
    ]);
    let ports = select(vec![
        Value::Null,
        json!([{"containerPort": 8080}]),
        json!([{"containerPort": 9002, "name": "x"}]),
    ]);
    let mounts = select(vec![
        Value::Null,
        json!([]),
        json!([{"name": "data", "mountPath": "/data/", "subPath": "x"}]),
        json!([{"name": "data", "mountPath": "/var/run/headscale"}]),
        json!([{"name": "data", "mountPath": "/var/lib/headscale/noise_private.key"}]),
    ]);
    let resources = select(vec![
        Value::Null,
        json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
    ]);
    (env, ports, mounts, resources, security(), any::<bool>()).prop_map(
        move |(env, ports, mounts, resources, security, unknown)| {
            let mut container = json!({"name": name, "image": "app:1"});
            for (key, value) in [
                ("env", env),
                ("ports", ports),
                ("volumeMounts", mounts),
                ("resources", resources),
                ("securityContext", security),
            ] {
                if !value.is_null() {
                    container[key] = value;
                }
            }
            if unknown {
                container["fieldOfTomorrow"] = json!({"deep": [1.50, "<&>"]});
            }
            container
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let names = select(vec![
        vec!["headscale"],
        vec!["app", "headscale"],
        vec!["app"],
        vec!["app", "ts-sidecar"],
        vec!["app", "web"],
    ]);
    let containers =
        names.prop_flat_map(|names| names.into_iter().map(container).collect::<Vec<_>>());
    let owner = select(vec![
        ("StatefulSet", "db", "db-0"),
        ("ReplicaSet", "web-7c9d8f6b5", ""),
        ("Job", "backup-28961234", ""),
        ("Workflow", "x", ""),
    ]);
    let init = select(vec![
        Value::Null,
        json!([]),
        json!([{"name": "migrate", "image": "m"}]),
    ]);
    let volumes = select(vec![
        Value::Null,
        json!([]),
        json!([{"name": "data", "emptyDir": {}}]),
    ]);
    let flags = subsequence(
        vec![
            "hostNetwork",
            "shareProcessNamespace",
            "automountServiceAccountToken",
        ],
        0..=2,
    );
    (annotations(), containers, owner, init, volumes, flags, security(), any::<bool>()).prop_map(
        |(annotations, containers, (kind, owner, name), init, volumes, flags, security, labels)| {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "1", "controller": true}]},
                "spec": {"containers": containers, "serviceAccountName": "default"},
            });
            if !annotations.is_empty() {
                pod["metadata"]["annotations"] = Value::Object(annotations);
            }
            if name.is_empty() {
                pod["metadata"]["generateName"] = json!(format!("{owner}-"));
            } else {
                pod["metadata"]["name"] = json!(name);
            }
            if labels {
                pod["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "7c9d8f6b5"});
            }
            for (key, value) in [("initContainers", init), ("volumes", volumes), ("securityContext", security)] {
                if !value.is_null() {
                    pod["spec"][key] = value;
                }
            }
            for flag in flags {
                pod["spec"][flag] = json!(flag != "automountServiceAccountToken");
            }
            pod
        },
    )
}

fn policy() -> Policy {
    static POLICY: LazyLock<Policy> = LazyLock::new(|| {
        let config: Config = serde_saphyr::from_str(CONFIG).unwrap();
        Policy::from_config(config).unwrap()
    });
    POLICY.clone()
}

proptest! {
    #[test]
    fn every_pod_is_patched_by_additions_alone_and_once(pod in pod(), opted_in: bool, known: bool) {
        let setting = Setting {
            policy: policy(),
            opt_in: if opted_in { OptIn::Namespace } else { OptIn::Pod },
            namespace: known.then(NamespaceMetadata::default),
        };
        let answer = setting.send_twice(&review(&pod));
        // A denial says what to do, a warning contains no quotes that helm would escape.
        if let Verdict::Deny(_) = answer.outcome.verdict {
            let message = answer.outcome.message.unwrap();
            prop_assert!(["want ", "set ", "remove", "use one of", "ask the operator"].iter().any(|way| message.contains(way)), "{}", message);
        }
        for warning in answer.response["warnings"].as_array().into_iter().flatten() {
            prop_assert!(!warning.as_str().unwrap().contains('"'), "{}", warning);
        }
    }
}

#[test]
fn most_of_those_pods_are_injected() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let setting = Setting {
        policy: policy(),
        opt_in: OptIn::Pod,
        namespace: None,
    };
    let (mut injected, all) = (0, 300);
    for _ in 0..all {
        let pod = pod().new_tree(&mut runner).unwrap().current();
        let answer = setting.send(&review(&pod));
        injected += usize::from(answer.outcome.verdict == Verdict::Inject);
    }
    assert!(
        injected > all / 6,
        "only {injected} of {all}: the property is about nothing"
    );
}

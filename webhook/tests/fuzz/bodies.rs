//! Fuzz targets for arbitrary bytes: run by `make test` for ten seconds, by `make fuzz` for any time. Pure.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};
use sidescale_webhook::annotations::{Caller, NamespaceMetadata};
use sidescale_webhook::hostnames::ClaimedHostnames;
use sidescale_webhook::mutate::{OptIn, ReviewOutcome, Verdict, mutate};
use sidescale_webhook::profile::{Config, Policy};
use sidescale_webhook::workload::validate;

use crate::support::{Setting, review as review_of};

const CONFIG: &str = "controlPlanes:
  default: {loginServer: 'https://headscale.example.com'}
  lab: {loginServer: 'https://lab.example.com', namespaces: [shop]}
profiles:
  default: {allowedTags: ['tag:web'], allowedImages: ['registry.example.com/*'], allowedExtraArgs: [--ssh]}
  other: {namespaces: [shop], imagePullSecrets: [registry], annotations: {proxy: '1056', wait: 'true'}}
  selected: {podSelector: {matchLabels: {app: web}}}
  lenient: {namespaces: [shop], onInvalid: warn}
";

/// A function of any bytes, which fails by a panic.
pub(crate) type Body = fn(&[u8]);

/// All targets, by name.
pub(crate) const BODIES: [(&str, Body); 3] = [
    ("review", review),
    ("annotations", annotations),
    ("config", config),
];

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let config: Config = serde_saphyr::from_str(CONFIG).unwrap();
    Policy::from_config(config).unwrap()
});

/// Uses the bytes as a whole request, and as the object of one.
pub(crate) fn review(bytes: &[u8]) {
    let before = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","namespace":"shop","operation":"CREATE","resource":{"group":"","version":"v1","resource":"pods"},"object":"#;
    let wrapped = [before, bytes, b"}}"].concat();
    for body in [bytes, &wrapped] {
        for opt_in in [OptIn::Namespace, OptIn::Pod] {
            if let Ok(outcome) = mutate(
                body,
                opt_in,
                Caller::Unverified,
                &|_| Some(Arc::default()),
                &POLICY,
            ) {
                answers(&outcome);
            }
        }
        if let Ok(advice) = validate(
            body,
            Caller::Unverified,
            &|_| None,
            &ClaimedHostnames::default(),
            &POLICY,
        ) {
            let reply: Value = serde_json::from_slice(&advice.reply).unwrap();
            assert_eq!(reply["response"]["allowed"], true);
            assert!(reply["response"]["patch"].is_null());
        }
    }
}

/// Uses lines of `name=value` as annotations of an otherwise valid pod, and of its namespace.
pub(crate) fn annotations(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (mut of_pod, mut of_namespace) = (Map::new(), NamespaceMetadata::default());
    for (n, line) in text.lines().enumerate() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let key = format!("sidescale.io/{name}");
        if n % 4 == 3 {
            of_namespace.annotations.insert(key, value.to_owned());
        } else {
            of_pod.insert(key, json!(value));
        }
    }
    let pod = json!({
        "metadata": {
            "name": "db-0", "annotations": of_pod, "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{"name": "headscale", "image": "headscale", "env": [{"name": "HTTP_PROXY", "value": "x"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    for opt_in in [OptIn::Namespace, OptIn::Pod] {
        let setting = Setting {
            policy: POLICY.clone(),
            opt_in,
            namespace: Some(of_namespace.clone()),
        };
        // Applies the patch, compares the rest, and sends it a second time.
        answers(&setting.send_twice(&review_of(&pod)).outcome);
    }
}

/// Uses text as a configuration file; an accepted one has to serve.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(config) = serde_saphyr::from_str::<Config>(text) else {
        return;
    };
    match Policy::from_config(config) {
        Ok(policy) => {
            let pod = json!({
                "metadata": {"name": "web", "annotations": {"sidescale.io/inject": "tailscale"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            });
            let setting = Setting {
                policy,
                opt_in: OptIn::Pod,
                namespace: None,
            };
            answers(&setting.send_twice(&review_of(&pod)).outcome);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Checks what holds for every answer.
fn answers(outcome: &ReviewOutcome) {
    let reply: Value = serde_json::from_slice(&outcome.reply).unwrap();
    let denied = matches!(outcome.verdict, Verdict::Deny(_));
    assert_eq!(reply["response"]["allowed"], !denied);
    assert_eq!(denied, reply["response"]["status"]["message"].is_string());
    // However many unknown keys the pod or its namespace has.
    assert!(outcome.unknown.len() <= 9, "{:?}", outcome.unknown);
    for warning in &outcome.warnings {
        assert!(!warning.contains('"'), "{warning}");
    }
}

//! Sends a pod through the webhook, and checks what must hold of every answer.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use sidescale_webhook::annotations::{NamespaceMetadata, SkipReason};
use sidescale_webhook::mutate::{OptIn, Outcome, Verdict, mutate};
use sidescale_webhook::profile::Policy;

/// What surrounds a pod.
pub(crate) struct Setting {
    pub(crate) policy: Policy,
    pub(crate) opt_in: OptIn,
    pub(crate) namespace: Option<NamespaceMetadata>,
}

/// The answer, taken apart.
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) response: Value,
    /// The pod after the patch, if there was one.
    pub(crate) pod: Option<Value>,
}

impl Setting {
    pub(crate) fn send(&self, review: &Value) -> Answer {
        let namespace = self.namespace.clone().map(Arc::new);
        let body = serde_json::to_vec(review).unwrap();
        let outcome = mutate(&body, self.opt_in, &|_| namespace.clone(), &self.policy).unwrap();
        let reply: Value = serde_json::from_slice(&outcome.reply).unwrap();
        assert_eq!(
            (&reply["apiVersion"], &reply["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        let response = reply["response"].clone();
        assert_eq!(response["uid"], review["request"]["uid"]);
        assert_eq!(
            response["allowed"],
            json!(!matches!(outcome.verdict, Verdict::Deny(_)))
        );
        assert_eq!(response["patch"].is_null(), response["patchType"].is_null());
        let pod = response["patch"].as_str().map(|text| {
            let patch = STANDARD.decode(text).unwrap();
            assert_eq!(patch.len(), outcome.patch_bytes);
            apply(&review["request"]["object"], &patch)
        });
        Answer {
            outcome,
            response,
            pod,
        }
    }

    /// Sends a review, and then what the API server would send after our own patch.
    pub(crate) fn send_twice(&self, review: &Value) -> Answer {
        let answer = self.send(review);
        if let Some(pod) = &answer.pod {
            let mut again = review.clone();
            again["request"]["uid"] = json!("00000000-0000-4000-8000-000000000002");
            again["request"]["object"] = pod.clone();
            let second = self.send(&again);
            assert!(
                second.pod.is_none(),
                "the second pass patches: {}",
                second.response
            );
            assert!(second.response["auditAnnotations"].is_null());
            assert_eq!(
                second.outcome.verdict,
                Verdict::Skip(SkipReason::AlreadyInjected)
            );
            assert_only_additions(&review["request"]["object"], pod);
        }
        answer
    }
}

fn apply(pod: &Value, patch: &[u8]) -> Value {
    let operations: Vec<Value> = serde_json::from_slice(patch).unwrap();
    assert!(
        operations.iter().all(|operation| operation["op"] == "add"),
        "{operations:?}"
    );
    let patch: json_patch::Patch = serde_json::from_slice(patch).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).expect("the patch applies");
    patched
}

/// Fails unless `after` is `before` and our additions, all of which a typed Pod knows.
fn assert_only_additions(before: &Value, after: &Value) {
    let typed: Pod = serde_json::from_value(after.clone()).expect("the patched pod is a Pod");
    let typed = serde_json::to_value(typed).unwrap();
    let injected = after["metadata"]["labels"]
        .get("sidescale.io/sidecar")
        .is_some();
    let (mut rest, mut before) = (after.clone(), before.clone());
    for pod in [&mut rest, &mut before] {
        let metadata = pod["metadata"].as_object_mut().unwrap();
        remove(metadata, "labels", "sidescale.io/sidecar");
        remove(metadata, "annotations", "sidescale.io/status");
    }
    if injected {
        let spec = rest["spec"].as_object_mut().unwrap();
        let sidecar = spec["initContainers"].as_array_mut().unwrap().remove(0);
        assert_eq!(
            sidecar, typed["spec"]["initContainers"][0],
            "a field of the sidecar is none of Kubernetes'"
        );
        let had = before["spec"]["volumes"].as_array().map_or(0, Vec::len);
        let volumes = spec["volumes"].as_array_mut().unwrap().split_off(had);
        let typed_volumes = &typed["spec"]["volumes"].as_array().unwrap()[had..];
        assert_eq!(volumes, typed_volumes);
        assert_mounts(&sidecar, &volumes);
        assert_restricted(&sidecar);
    }
    assert_eq!(without_empty(&rest), without_empty(&before));
}

fn assert_mounts(sidecar: &Value, volumes: &[Value]) {
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let mut named: Vec<_> = mounts.iter().map(|mount| &mount["name"]).collect();
    named.dedup();
    assert_eq!(
        named,
        volumes
            .iter()
            .map(|volume| &volume["name"])
            .collect::<Vec<_>>()
    );
    assert!(
        named
            .iter()
            .all(|name| name.as_str().unwrap().starts_with("sidescale-"))
    );
    assert!(mounts.iter().all(|mount| mount.get("subPath").is_none()));
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert!(
        mounts
            .iter()
            .any(|mount| mount["mountPath"] == token && mount["readOnly"] == true)
    );
}

/// Fails unless Pod Security's level "restricted" takes the container.
fn assert_restricted(sidecar: &Value) {
    let context = &sidecar["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(context["runAsNonRoot"], true);
    assert!(context["runAsUser"].as_u64().unwrap() > 0);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(context["readOnlyRootFilesystem"], true);
}

fn remove(metadata: &mut Map<String, Value>, map: &str, key: &str) {
    if let Some(map) = metadata.get_mut(map).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

/// Drops the maps and lists that were made for our additions, and nulls.
fn without_empty(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for (part, keys) in [
        ("metadata", ["labels", "annotations"]),
        ("spec", ["initContainers", "volumes"]),
    ] {
        let Some(part) = pod[part].as_object_mut() else {
            continue;
        };
        for key in keys {
            let empty = match part.get(key) {
                Some(Value::Null) => true,
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                _ => false,
            };
            if empty {
                part.remove(key);
            }
        }
    }
    pod
}

/// Wraps a pod into a review as the API server writes it.
pub(crate) fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "00000000-0000-4000-8000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

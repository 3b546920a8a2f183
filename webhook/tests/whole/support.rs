//! Sends a pod through the webhook, and checks the invariants of every answer.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use sidescale_webhook::annotations::{Caller, NamespaceMetadata, SkipReason};
use sidescale_webhook::mutate::{OptIn, ReviewOutcome, Verdict, mutate};
use sidescale_webhook::profile::Policy;

/// Setting of a pod.
pub(crate) struct Setting {
    pub(crate) policy: Policy,
    pub(crate) opt_in: OptIn,
    pub(crate) namespace: Option<NamespaceMetadata>,
}

/// The parsed answer.
pub(crate) struct Answer {
    pub(crate) outcome: ReviewOutcome,
    pub(crate) response: Value,
    /// The pod after the patch, if there was one.
    pub(crate) pod: Option<Value>,
}

impl Setting {
    pub(crate) fn send(&self, review: &Value) -> Answer {
        self.send_by(Caller::Unverified, review)
    }

    pub(crate) fn send_by(&self, caller: Caller, review: &Value) -> Answer {
        let namespace = self.namespace.clone().map(Arc::new);
        let namespaces = |_: &str| namespace.clone();
        let body = serde_json::to_vec(review).unwrap();
        let outcome = mutate(&body, self.opt_in, caller, &namespaces, &self.policy).unwrap();
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
        assert_eq!(pod.is_some(), outcome.patch_bytes > 0);
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

/// Fails unless `after` is `before` with only our additions, all of which a typed Pod knows.
fn assert_only_additions(before: &Value, after: &Value) {
    let typed: Pod = serde_json::from_value(after.clone()).expect("the patched pod is a Pod");
    let typed = serde_json::to_value(typed).unwrap();
    let kinds: Vec<&str> = after["metadata"]["labels"]["sidescale.io/sidecar"]
        .as_str()
        .map(|kinds| kinds.split('.').collect())
        .unwrap_or_default();
    let (mut rest, mut before) = (after.clone(), before.clone());
    for pod in [&mut rest, &mut before] {
        let metadata = pod["metadata"].as_object_mut().unwrap();
        remove(metadata, "labels", "sidescale.io/sidecar");
        remove(metadata, "annotations", "sidescale.io/status");
    }
    assert_evictable(&mut before, &mut rest);
    if !kinds.is_empty() {
        let had = before["spec"]["volumes"].as_array().map_or(0, Vec::len);
        let volumes = take_after(&mut rest["spec"]["volumes"], had);
        assert_eq!(
            volumes,
            take_after(&mut typed["spec"]["volumes"].clone(), had)
        );
        let pod_level = &after["spec"]["securityContext"];
        let mut ours = Vec::new();
        if kinds.contains(&"apikey-manager") {
            let containers = rest["spec"]["containers"].as_array_mut().unwrap();
            let manager = containers.pop().unwrap();
            let last = typed["spec"]["containers"].as_array().unwrap().last();
            assert_eq!(Some(&manager), last, "{UNKNOWN}");
            // If the pod's own containers are all restricted, the pod stays restricted.
            let was = containers
                .iter()
                .all(|other| is_restricted(other, pod_level));
            assert!(!was || is_restricted(&manager, pod_level), "{manager}");
            ours.push(manager);
        }
        if kinds.contains(&"tailscale") {
            let sidecar = take_sidecar(&mut rest, &typed);
            assert!(is_restricted(&sidecar, &Value::Null), "{sidecar}");
            assert!(hides_the_token(&sidecar), "{sidecar}");
            ours.push(sidecar);
        }
        let own = take_mounts(&mut rest, &before);
        take_proxy(&mut rest, &before);
        let had = before["spec"]["imagePullSecrets"]
            .as_array()
            .map_or(0, Vec::len);
        take_after(&mut rest["spec"]["imagePullSecrets"], had);
        assert_mounts(&ours, &own, &volumes);
    }
    assert_eq!(without_empty(&rest), without_empty(&before));
}

/// Removes the Tailscale sidecar: the first init container, or the last ordinary one.
fn take_sidecar(pod: &mut Value, typed: &Value) -> Value {
    let init = pod["spec"]["initContainers"].as_array_mut();
    let native = init.filter(|list| {
        list.first()
            .is_some_and(|first| first["name"] == "tailscale")
    });
    if let Some(list) = native {
        let sidecar = list.remove(0);
        let typed = &typed["spec"]["initContainers"][0];
        assert_eq!(older(&sidecar), *typed, "{UNKNOWN}");
        assert_eq!(sidecar["restartPolicy"], "Always");
        return sidecar;
    }
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    let sidecar = containers.pop().unwrap();
    let typed = &typed["spec"]["containers"][containers.len()];
    assert_eq!(older(&sidecar), *typed, "{UNKNOWN}");
    assert!(sidecar["restartPolicy"].is_null());
    sidecar
}

/// Removes what an override may set and the typed Pod, of an older Kubernetes, does not know yet.
fn older(sidecar: &Value) -> Value {
    let mut sidecar = sidecar.clone();
    let env = sidecar["env"].as_array_mut().into_iter().flatten();
    for source in env.filter_map(|variable| variable.get_mut("valueFrom")) {
        source.as_object_mut().unwrap().remove("fileKeyRef");
    }
    sidecar
}

/// Removes the proxy's variables after the containers' own.
fn take_proxy(pod: &mut Value, before: &Value) {
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    let own = before["spec"]["containers"].as_array().unwrap();
    for (container, before) in containers.iter_mut().zip(own) {
        let had = before["env"].as_array().map_or(0, Vec::len);
        for added in take_after(&mut container["env"], had) {
            let name = added["name"].as_str().unwrap();
            assert!(name.ends_with("_PROXY"), "{added}");
            let own = before["env"].as_array().into_iter().flatten();
            assert!(own.into_iter().all(|own| own["name"] != name), "{added}");
        }
        if before["env"].is_null() {
            container.as_object_mut().unwrap().remove("env");
        }
    }
}

/// Checks that the pod's own list for the autoscaler comes first, then our empty volumes.
fn assert_evictable(before: &mut Value, after: &mut Value) {
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let theirs = before["metadata"]["annotations"][key].as_str();
    let theirs = theirs.map(str::to_owned).unwrap_or_default();
    let all = after["metadata"]["annotations"][key].as_str();
    let all = all.map(str::to_owned).unwrap_or_default();
    let ours = all.strip_prefix(&theirs).unwrap();
    let ours: Vec<&str> = ours.split(',').filter(|name| !name.is_empty()).collect();
    let volumes = after["spec"]["volumes"].as_array().into_iter().flatten();
    let empty: Vec<&str> = volumes
        .filter(|volume| volume["emptyDir"].is_object())
        .filter_map(|volume| volume["name"].as_str())
        .filter(|name| name.starts_with("sidescale-"))
        .filter(|_| !ours.is_empty() || all.len() > theirs.len())
        .collect();
    assert_eq!(ours, empty);
    for pod in [before, after] {
        let metadata = pod["metadata"].as_object_mut().unwrap();
        remove(metadata, "annotations", key);
    }
}

const UNKNOWN: &str = "a field of the sidecar is none of Kubernetes'";

fn take_after(list: &mut Value, had: usize) -> Vec<Value> {
    list.as_array_mut()
        .map(|list| list.split_off(had))
        .unwrap_or_default()
}

/// Removes our mounts from the pod's own containers.
fn take_mounts(pod: &mut Value, before: &Value) -> Vec<Value> {
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    let mut taken = Vec::new();
    for (container, before) in containers
        .iter_mut()
        .zip(before["spec"]["containers"].as_array().unwrap())
    {
        let had = before["volumeMounts"].as_array().map_or(0, Vec::len);
        taken.extend(take_after(&mut container["volumeMounts"], had));
        if before["volumeMounts"].is_null() {
            let container = container.as_object_mut().unwrap();
            container.remove("volumeMounts");
        }
    }
    taken
}

/// Checks that each of our volumes is mounted, and that each mount is ours except those of Headscale's own volumes.
fn assert_mounts(ours: &[Value], own: &[Value], volumes: &[Value]) {
    let mounts = ours
        .iter()
        .flat_map(|container| container["volumeMounts"].as_array().unwrap())
        .chain(own);
    let mut named: Vec<&str> = mounts
        .map(|mount| mount["name"].as_str().unwrap())
        .filter(|name| name.starts_with("sidescale-"))
        .collect();
    named.sort_unstable();
    named.dedup();
    let mut volumes: Vec<_> = volumes
        .iter()
        .map(|volume| volume["name"].as_str().unwrap())
        .collect();
    volumes.sort_unstable();
    assert_eq!(named, volumes);
}

fn hides_the_token(sidecar: &Value) -> bool {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let ours = |mount: &Value| mount["name"].as_str().unwrap().starts_with("sidescale-");
    // An operator's own mounts may have a subPath.
    mounts
        .iter()
        .all(|mount| !ours(mount) || mount.get("subPath").is_none())
        && mounts
            .iter()
            .any(|mount| mount["mountPath"] == token && mount["readOnly"] == true)
}

/// Returns whether Pod Security's level "restricted" accepts the container.
fn is_restricted(container: &Value, pod: &Value) -> bool {
    let own = &container["securityContext"];
    let effective = |key: &str| {
        if own[key].is_null() {
            &pod[key]
        } else {
            &own[key]
        }
    };
    own["allowPrivilegeEscalation"] == false
        && own["capabilities"]["drop"] == json!(["ALL"])
        && own["privileged"] != true
        && *effective("runAsNonRoot") == true
        && *effective("runAsUser") != 0
        && ["RuntimeDefault", "Localhost"]
            .iter()
            .any(|kind| effective("seccompProfile")["type"] == *kind)
}

fn remove(metadata: &mut Map<String, Value>, map: &str, key: &str) {
    if let Some(map) = metadata.get_mut(map).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

/// Removes the maps and lists that were created for our additions, and nulls.
fn without_empty(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for (part, keys) in [
        ("metadata", ["labels", "annotations", ""]),
        ("spec", ["initContainers", "volumes", "imagePullSecrets"]),
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

//! Converts manifests into the pods that a cluster's controllers would create, and the metadata of namespaces. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sidescale_rotation::demand::PodInputs;
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::identity::WorkloadOwner;
use sidescale_webhook::keys::{INJECT, PREFIX};
use sidescale_webhook::profile::Policy;

/// A pod as it is sent to admission.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// The file that it comes from.
    pub(super) file: String,
    pub(super) namespace: String,
    /// Its future name.
    pub(super) name: String,
    /// The pod before any change.
    pub(super) pod: Value,
    /// The path of the webhook for it; `None` where the webhook configuration does not select it.
    pub(super) path: Option<&'static str>,
}

/// The content of some files.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// One pod per workload.
    pub(super) samples: Vec<Sample>,
    /// The namespaces in the files.
    pub(super) namespaces: BTreeMap<String, NamespaceMetadata>,
}

/// Reads files of one or more YAML documents; the error names the file and the problem.
pub(super) fn read(files: &[(String, String)]) -> Result<Manifests, String> {
    let mut manifests = Manifests::default();
    let mut objects = Vec::new();
    for (file, text) in files {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| format!("{file} is not YAML: {error}"))?;
        objects.extend(
            documents
                .into_iter()
                .filter(|document| !document.is_null())
                .map(|object| (file, object)),
        );
    }
    // A namespace may follow its objects.
    for (_, object) in &objects {
        if text(object, "/kind") == "Namespace" {
            manifests
                .namespaces
                .insert(text(object, "/metadata/name").to_owned(), namespace(object));
        }
    }
    for (file, object) in objects {
        let Some((name, mut pod)) = pod(&object) else {
            continue;
        };
        let in_namespace = match text(&object, "/metadata/namespace") {
            "" => "default",
            name => name,
        };
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["namespace"] = json!(in_namespace);
        let path = path(&pod, manifests.namespaces.get(in_namespace));
        let (file, namespace) = (file.clone(), in_namespace.to_owned());
        manifests.samples.push(Sample {
            file,
            namespace,
            name,
            pod,
            path,
        });
    }
    if manifests.samples.is_empty() {
        return Err(
            "no file contains a Pod, Deployment, StatefulSet, DaemonSet or Job: want at least one"
                .to_owned(),
        );
    }
    Ok(manifests)
}

/// Returns what a watch of pods would store about a pod.
pub(super) fn shape(name: &str, pod: &Value, policy: &Policy) -> PodInputs {
    let entries = |map: &'static str| {
        let entries = pod["metadata"][map].as_object().into_iter().flatten();
        entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    };
    let owner = &pod["metadata"]["ownerReferences"][0];
    let owner = match (owner["kind"].as_str(), owner["name"].as_str()) {
        (Some(kind), Some(name)) => Some(WorkloadOwner { kind, name }),
        _ => None,
    };
    PodInputs::new(
        name,
        entries("annotations"),
        entries("labels"),
        owner,
        &policy.pod_labels(),
    )
}

/// Returns the first pod of a workload's controller, and its name.
fn pod(object: &Value) -> Option<(String, Value)> {
    let name = text(object, "/metadata/name");
    let template = || json!({"metadata": object["spec"]["template"]["metadata"], "spec": object["spec"]["template"]["spec"]});
    match text(object, "/kind") {
        "Pod" => Some((
            name.to_owned(),
            json!({"metadata": object["metadata"], "spec": object["spec"]}),
        )),
        "Deployment" => {
            let hash = hash(&object["spec"]["template"]);
            let mut pod = template();
            pod["metadata"]["labels"]["pod-template-hash"] = json!(hash);
            generated(&mut pod, "ReplicaSet", &format!("{name}-{hash}"));
            Some((format!("{name}-{hash}-x7k2p"), pod))
        }
        "StatefulSet" => {
            let mut pod = template();
            own(&mut pod, "StatefulSet", name);
            pod["metadata"]["name"] = json!(format!("{name}-0"));
            pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] =
                json!(format!("{name}-0"));
            Some((format!("{name}-0"), pod))
        }
        kind @ ("DaemonSet" | "Job" | "ReplicaSet") => {
            let mut pod = template();
            generated(&mut pod, kind, name);
            Some((format!("{name}-x7k2p"), pod))
        }
        _ => None,
    }
}

/// Converts a pod to one whose name the API server generates after admission.
fn generated(pod: &mut Value, kind: &str, owner: &str) {
    own(pod, kind, owner);
    pod["metadata"]["generateName"] = json!(format!("{owner}-"));
}

fn own(pod: &mut Value, kind: &str, owner: &str) {
    let api = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": api, "kind": kind, "name": owner, "uid": uuid::Uuid::new_v4().to_string(),
        "controller": true, "blockOwnerDeletion": true,
    }]);
}

/// Returns the path of the webhook configuration's entry that selects a pod; see the chart.
fn path(pod: &Value, namespace: Option<&NamespaceMetadata>) -> Option<&'static str> {
    match namespace.and_then(|namespace| namespace.inject.as_deref()) {
        Some("tailscale" | "true") => Some("/mutate/namespace"),
        Some("disabled" | "false") => None,
        Some(_) | None => {
            let annotations = pod["metadata"]["annotations"].as_object();
            annotations
                .is_some_and(|all| all.keys().any(|key| key.starts_with(PREFIX)))
                .then_some("/mutate/pod")
        }
    }
}

fn namespace(object: &Value) -> NamespaceMetadata {
    let entries = |map: &Value| -> BTreeMap<String, String> {
        let entries = map.as_object().into_iter().flatten();
        entries
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    };
    let labels = entries(&object["metadata"]["labels"]);
    let mut annotations = entries(&object["metadata"]["annotations"]);
    annotations.retain(|key, _| key.starts_with(PREFIX));
    NamespaceMetadata {
        inject: labels.get(INJECT).cloned(),
        labels,
        annotations,
    }
}

/// Returns ten characters like the hash of a Deployment's controller, the same for the same template.
fn hash(template: &Value) -> String {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = template
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, fnv);
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::read;

    fn file(text: &str) -> Vec<(String, String)> {
        vec![("a.yaml".to_owned(), text.to_owned())]
    }

    #[test]
    fn makes_the_pods_that_controllers_make() {
        let text = "
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {annotations: {sidescale.io/inject: tailscale}}, spec: {containers: []}}}
---
kind: StatefulSet
metadata: {name: db}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: []}}}
---
kind: Pod
metadata: {name: alone, namespace: quiet, annotations: {sidescale.io/inject: tailscale}}
spec: {containers: []}
---
kind: Namespace
metadata: {name: shop, labels: {sidescale.io/inject: tailscale}}
---
kind: Namespace
metadata: {name: quiet, labels: {sidescale.io/inject: disabled}}
";
        let manifests = read(&file(text)).unwrap();
        let [web, db, alone] = manifests.samples.as_slice() else {
            panic!("{manifests:?}")
        };
        assert_eq!(web.path, Some("/mutate/namespace"));
        let hash = web.pod["metadata"]["labels"]["pod-template-hash"]
            .as_str()
            .unwrap();
        assert_eq!(
            web.pod["metadata"]["ownerReferences"][0]["name"],
            format!("web-{hash}")
        );
        assert_eq!(web.pod["metadata"]["generateName"], format!("web-{hash}-"));
        assert_eq!(
            (db.name.as_str(), db.namespace.as_str(), db.path),
            ("db-0", "default", None)
        );
        assert_eq!(alone.path, None);
    }

    #[test]
    fn names_the_file_that_is_no_yaml_and_says_what_is_wanted() {
        assert!(
            read(&file("a: ["))
                .unwrap_err()
                .starts_with("a.yaml is not YAML")
        );
        assert!(
            read(&file("kind: Service\n"))
                .unwrap_err()
                .contains("want at least one")
        );
    }
}

//! Reviews as an API server sends them, of three sizes: field managers, escapes and all. Pure.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// One review.
pub(crate) struct Body {
    /// Name of its size.
    pub(crate) name: &'static str,
    /// The JSON.
    pub(crate) bytes: Vec<u8>,
}

/// Parameters of a size: containers, variables in each, volumes, whether there are managed fields, and the bounds.
struct Size {
    name: &'static str,
    containers: usize,
    variables: usize,
    volumes: usize,
    managed: bool,
    about: std::ops::Range<usize>,
}

const SIZES: [Size; 3] = [
    Size {
        name: "1k",
        containers: 1,
        variables: 0,
        volumes: 0,
        managed: false,
        about: 800..1_400,
    },
    Size {
        name: "7k",
        containers: 1,
        variables: 24,
        volumes: 5,
        managed: true,
        about: 6_600..8_000,
    },
    Size {
        name: "60k",
        containers: 4,
        variables: 68,
        volumes: 24,
        managed: true,
        about: 54_000..66_000,
    },
];

/// A pod of 2,000 variables, used only to time the pure function.
const MANY_VARIABLES: Size = Size {
    name: "2000 variables",
    containers: 1,
    variables: 2_000,
    volumes: 5,
    managed: true,
    about: 350_000..450_000,
};

/// Builds the pod of 2,000 variables.
pub(crate) fn many_variables() -> Result<Body> {
    make(&MANY_VARIABLES)
}

/// Builds every size.
pub(crate) fn all() -> Result<Vec<Body>> {
    SIZES.iter().map(make).collect()
}

fn make(size: &Size) -> Result<Body> {
    let text = serde_json::to_string(&review(size))?;
    // Go escapes these three.
    let bytes = text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .into_bytes();
    ensure!(
        size.about.contains(&bytes.len()),
        "review {} has {} bytes, want {:?}",
        size.name,
        bytes.len(),
        size.about
    );
    Ok(Body {
        name: size.name,
        bytes,
    })
}

fn review(size: &Size) -> Value {
    let group = json!({"group": "", "version": "v1", "kind": "Pod"});
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    let mut request = json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": group,
        "resource": resource,
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod(size),
        "oldObject": null,
        "dryRun": false,
    });
    if size.managed {
        request["requestKind"] = group;
        request["requestResource"] = resource;
        request["options"] = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"});
        request["userInfo"]["uid"] = json!("f1b1d6b1-2f0f-4a41-9cf6-d1e5c17f9a51");
        request["userInfo"]["groups"] = json!([
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
            "system:authenticated"
        ]);
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

fn pod(size: &Size) -> Value {
    let containers: Vec<Value> = (0..size.containers)
        .map(|index| container(size, index))
        .collect();
    let volumes: Vec<Value> = (0..size.volumes)
        .map(|index| json!({"name": format!("settings-{index}"), "configMap": {"name": format!("catalogue-settings-{index}"), "defaultMode": 420}}))
        .collect();
    let mut metadata = json!({
        "generateName": "catalogue-6d5f7c8b9-",
        "creationTimestamp": null,
        "labels": {"app": "catalogue", "pod-template-hash": "6d5f7c8b9"},
        "annotations": {"sidescale.io/inject": "tailscale"},
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "catalogue-6d5f7c8b9",
            "uid": "0f1b4b0e-8a5e-4c57-8d0b-3b0ee0c6a0ab", "controller": true, "blockOwnerDeletion": true,
        }],
    });
    if size.managed {
        metadata["managedFields"] = managed_fields(size);
    }
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {
            "containers": containers,
            "volumes": volumes,
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "securityContext": {},
        },
        "status": {},
    })
}

fn container(size: &Size, index: usize) -> Value {
    let variables: Vec<Value> = (0..size.variables)
        .map(|variable| json!({"name": format!("CATALOGUE_SETTING_{variable}"), "value": format!("https://settings.shop.svc/v1?of=<{index}>&number={variable}")}))
        .collect();
    let mounts: Vec<Value> = (0..size.volumes)
        .map(|volume| json!({"name": format!("settings-{volume}"), "mountPath": format!("/etc/catalogue/settings-{volume}"), "readOnly": true}))
        .collect();
    json!({
        "name": format!("catalogue-{index}"),
        "image": "registry.example.com/shop/catalogue:1.24.3",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": variables,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": mounts,
        "imagePullPolicy": "IfNotPresent",
    })
}

fn managed_fields(size: &Size) -> Value {
    let mut containers = serde_json::Map::new();
    for index in 0..size.containers {
        let variables: serde_json::Map<String, Value> = (0..size.variables)
            .map(|variable| {
                (
                    format!("k:{{\"name\":\"CATALOGUE_SETTING_{variable}\"}}"),
                    json!({".": {}, "f:name": {}, "f:value": {}}),
                )
            })
            .collect();
        containers.insert(
            format!("k:{{\"name\":\"catalogue-{index}\"}}"),
            json!({".": {}, "f:env": variables, "f:image": {}, "f:name": {}}),
        );
    }
    json!([{
        "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-21T12:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:containers": containers, "f:restartPolicy": {}}},
    }])
}

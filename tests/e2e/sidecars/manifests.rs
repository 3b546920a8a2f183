//! The workloads of the test, one for each kind of sidecar. Pure.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::node::BUSYBOX;

/// All expected nodes.
pub(crate) const NAMES: [&str; 10] = [
    "backend",
    "classic",
    "file",
    "file-own-group",
    "guaranteed",
    "memory",
    "proxied",
    "shared",
    "store-0",
    "tagged",
];

/// Ports of the backend's two containers, which no manifest declares to Kubernetes.
pub(crate) const PORTS: [u16; 2] = [8188, 9090];

/// Returns all of them; `state` is an empty folder of the node.
pub(crate) fn all(namespace: &str, state: &Path) -> Value {
    let plain =
        |name: &str, annotations: Value| deployment(namespace, name, annotations, json!({}));
    let items = [
        // The key is in its environment, the default.
        deployment(
            namespace,
            "backend",
            json!({}),
            json!({"containers": [server("app", PORTS[0]), server("second", PORTS[1])]}),
        ),
        plain("classic", json!({"sidescale.io/native-sidecar": "false"})),
        grouped(namespace, "file", 1000),
        grouped(namespace, "file-own-group", 65532),
        deployment(
            namespace,
            "guaranteed",
            json!({}),
            json!({"containers": [bounded()]}),
        ),
        plain("memory", json!({"sidescale.io/state": "memory"})),
        plain(
            "proxied",
            json!({"sidescale.io/proxy": "1055", "sidescale.io/proxy-env": "true"}),
        ),
        // Its key is delivered as a file without a request.
        deployment(
            namespace,
            "shared",
            json!({}),
            json!({"shareProcessNamespace": true}),
        ),
        plain("tagged", json!({"sidescale.io/tags": "tag:web"})),
        store(namespace),
        volume(namespace, state),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A deployment with the key as a file, for a pod that runs as this user and group.
fn grouped(namespace: &str, name: &str, id: u32) -> Value {
    deployment(
        namespace,
        name,
        json!({"sidescale.io/auth-key-delivery": "file"}),
        json!({"securityContext": {"runAsUser": id, "runAsGroup": id, "fsGroup": id}}),
    )
}

/// A deployment of one pod; `spec` is merged over its own.
fn deployment(namespace: &str, name: &str, annotations: Value, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, annotations, spec),
        },
    })
}

fn template(name: &str, mut annotations: Value, over: Value) -> Value {
    annotations["sidescale.io/inject"] = json!("tailscale");
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "app", "image": BUSYBOX}],
    });
    if let (Some(spec), Value::Object(over)) = (spec.as_object_mut(), over) {
        spec.extend(over);
    }
    json!({"metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": spec})
}

fn server(name: &str, port: u16) -> Value {
    let serve = format!(
        "/bin/busybox mkdir /www && echo 'bytes from port {port}' >/www/index.html && \
         exec /bin/busybox httpd -f -p {port} -h /www"
    );
    json!({"name": name, "image": BUSYBOX, "command": ["/bin/busybox", "sh", "-c", serve]})
}

/// Requests equal limits, which makes its pod Guaranteed.
fn bounded() -> Value {
    json!({
        "name": "app", "image": BUSYBOX,
        "resources": {"limits": {"cpu": "50m", "memory": "32Mi"}},
    })
}

/// A workload that stores its identity in its own volume.
fn store(namespace: &str) -> Value {
    let claim = json!({
        "metadata": {"name": "state"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": namespace,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "store", "namespace": namespace},
        "spec": {
            "serviceName": "store",
            "selector": {"matchLabels": {"app": "store"}},
            "template": template(
                "store",
                json!({"sidescale.io/state": "volume:state", "sidescale.io/ephemeral": "false"}),
                json!({"securityContext": {"fsGroup": 2000}}),
            ),
            "volumeClaimTemplates": [claim],
        },
    })
}

/// A volume in a folder of the only node, for that claim.
fn volume(namespace: &str, state: &Path) -> Value {
    let here = json!({"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]});
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": namespace,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": state},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    })
}

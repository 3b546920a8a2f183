//! The harness's own first tests: the foundation of the product works without the product.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    Case,
    support::{
        context::Context,
        headscale::{self, Headscale},
        levels::Level,
        node::{BUSYBOX, TAILSCALE},
        wait,
    },
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "join::a_deployment_becomes_pods_without_a_node",
        needs: &[Level::Api],
        each: false,
        run: becomes_pods,
    },
    Case {
        name: "join::a_hand_made_sidecar_joins_headscale",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: hand_made_sidecar_joins,
    },
];

const LIMIT: Duration = Duration::from_secs(90);

fn becomes_pods(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let mut api = context.api()?;
    api.check_alive()?;
    api.namespace("becomes-pods", &json!({}))?;
    api.kubectl().apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "becomes-pods"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": BUSYBOX}]},
            },
        },
    }))?;
    wait::until("the ReplicaSet controller makes a pod", LIMIT, || {
        let pods = api
            .kubectl()
            .list(&["get", "pods", "--namespace", "becomes-pods"])?;
        ensure!(pods.len() == 1, "{} pods", pods.len());
        let owner = &pods[0]["metadata"]["ownerReferences"][0]["kind"];
        ensure!(owner == "ReplicaSet", "owned by {owner}");
        Ok(())
    })
}

fn hand_made_sidecar_joins(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs once for each Headscale")?;
    let node = context.node()?;
    let folder = context.folder.inner(&format!("join-{}", program.version))?;
    let headscale = Headscale::start(program, node.place(), &folder, &context.gateway_address())?;
    let key = headscale.create_key(&headscale.create_user("web")?)?;

    let namespace = format!("join-{}", program.version.replace('.', "-"));
    node.control_plane().namespace(
        &namespace,
        &json!({"pod-security.kubernetes.io/enforce": "restricted"}),
    )?;
    node.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "web", "namespace": namespace},
        "stringData": {"key": key},
    }))?;
    node.kubectl()
        .apply(&deployment(&namespace, headscale.url()))?;

    let joined = headscale.online("web", LIMIT)?;
    let pod = node.kubectl().ready_pod(&namespace, "app=web", LIMIT)?;
    ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
    ensure!(headscale.nodes()? == [joined], "{:?}", headscale.nodes()?);
    node.kubectl()
        .run(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}

/// Returns a short version of what the product's webhook makes of a plain Deployment.
pub(crate) fn deployment(namespace: &str, login_server: &str) -> serde_json::Value {
    let confined = json!({
        "runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let sidecar = json!({
        "name": "tailscale",
        "image": TAILSCALE,
        "restartPolicy": "Always",
        "securityContext": confined,
        "env": [
            {"name": "TS_AUTHKEY", "valueFrom": {"secretKeyRef": {"name": "web", "key": "key"}}},
            value("TS_KUBE_SECRET", ""),
            // A folder named "tailscale" is chmod-ed, which only root may do in a volume that root owns.
            value("TS_STATE_DIR", "/var/lib/tailscale/state"),
            value("TS_AUTH_ONCE", "true"),
            value("TS_USERSPACE", "true"),
            value("TS_ACCEPT_DNS", "false"),
            value("TS_HOSTNAME", "web"),
            value("TS_EXTRA_ARGS", &format!("--login-server={login_server}")),
            value("TS_ENABLE_HEALTH_CHECK", "true"),
            value("TS_NO_LOGS_NO_SUPPORT", "true"),
        ],
        "startupProbe": {"httpGet": {"path": "/healthz", "port": 9002}, "periodSeconds": 1, "failureThreshold": 120},
        "volumeMounts": [{"name": "state", "mountPath": "/var/lib/tailscale"}, {"name": "tmp", "mountPath": "/tmp"}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "initContainers": [sidecar],
                    "containers": [{"name": "web", "image": BUSYBOX, "securityContext": confined}],
                    "volumes": [{"name": "state", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    })
}

//! Pods: one annotation of injected ones may change, and the right exists together with its policy.

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use sidescale::pods::{Pods, Woken};

use super::evictions::{uid, with_client};
use super::{LIMIT, refused};
use crate::chart::Release;
use crate::serve::pod;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::wait;

const POD: &str = "stolen";
/// The policy's message about everything but the annotation.
const ONLY: &str = "Sidescale changes one annotation of a pod and nothing else";

/// Patches that a stolen token would try, and the kind of patch.
fn attempts() -> Vec<(&'static str, Value)> {
    let metadata = |change: Value| json!({"metadata": change});
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]);
    let written = "sidescale.io/key-written";
    vec![
        (
            "strategic",
            json!({"spec": {"containers": [{"name": "app", "image": "evil"}]}}),
        ),
        (
            "json",
            json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}]),
        ),
        ("merge", json!({"spec": {"activeDeadlineSeconds": 1}})),
        ("merge", metadata(json!({"labels": {"app": "bank"}}))),
        (
            "merge",
            metadata(json!({"labels": {"sidescale.io/sidecar": null}})),
        ),
        ("merge", metadata(json!({"ownerReferences": owner}))),
        ("merge", metadata(json!({"finalizers": ["evil.io/stay"]}))),
        ("merge", metadata(json!({"annotations": {"other": "1"}}))),
        (
            "merge",
            metadata(json!({"annotations": {"sidescale.io/status": null}})),
        ),
        (
            "merge",
            metadata(json!({"annotations": {written: "1", "other": "1"}})),
        ),
        ("merge", metadata(json!({"annotations": {written: "soon"}}))),
    ]
}

pub(super) fn one_annotation(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let admin = api.kubectl();
    let release = Release::install(context, &api, "stolen-pods")?;
    let account = release.account(&api)?;
    let apps = "stolen-pods-apps";
    api.namespace(apps, &json!({}))?;
    let own = release.name.as_str();
    for namespace in [apps, "kube-system", own] {
        let mut injected = pod(namespace, POD, &json!({"sidescale.io/status": "x"}));
        injected["metadata"]["labels"] = json!({"sidescale.io/sidecar": "tailscale"});
        injected["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1m"}});
        wait::until("pods can be made", LIMIT, || admin.apply(&injected))?;
    }
    admin.apply(&pod(apps, "plain", &json!({})))?;
    wait::until("the policy is in force", LIMIT, || {
        let label = json!({"metadata": {"labels": {"probe": "1"}}});
        refused("probe", patch(&account, apps, POD, "merge", &label), ONLY)
    })?;
    let before = admin.json(&["get", "pod", POD, "--namespace", apps])?;
    for (kind, change) in attempts() {
        let tried = patch(&account, apps, POD, kind, &change);
        refused(&change.to_string(), tried, ONLY)?;
    }
    let wake = json!({"metadata": {"annotations": {"sidescale.io/key-written": "1800000000"}}});
    let others = "Sidescale touches only pods that it injected";
    for (namespace, name) in [(apps, "plain"), ("kube-system", POD)] {
        let tried = patch(&account, namespace, name, "merge", &wake);
        refused(&format!("{namespace}/{name}"), tried, others)?;
    }
    no_other_request(admin, &account, &release, apps)?;
    let after = admin.json(&["get", "pod", POD, "--namespace", apps])?;
    ensure!(before == after, "changed: {after}");

    // As the process does it: the intended pod, and no other with that name.
    let uid = uid(admin, apps)?;
    let uid = uuid::Uuid::parse_str(&uid)?.as_u128();
    let now = Timestamp::from_second(1_800_000_000)?;
    with_client(account.kubeconfig(), async |client| {
        let unfenced = Pods::kubernetes(client.clone()).waking(|| false);
        let unfenced = unfenced.wake(apps, POD, uid, now).await;
        ensure!(unfenced == Woken::Unfenced, "{unfenced:?}");
        let pods = Pods::kubernetes(client).waking(|| true);
        for (uid, want) in [(uid ^ 1, Woken::Gone), (uid, Woken::Yes)] {
            let woken = pods.wake(apps, POD, uid, now).await;
            ensure!(woken == want, "{woken:?}");
        }
        Ok(())
    })?;
    let woken = admin.json(&["get", "pod", POD, "--namespace", apps])?;
    let written = &woken["metadata"]["annotations"]["sidescale.io/key-written"];
    ensure!(written == "1800000000", "{}", woken["metadata"]);
    for namespace in [apps, "kube-system"] {
        let delete = ["delete", "pod", POD, "--namespace", namespace];
        admin.run(&[&delete[..], &["--grace-period=1"]].concat())?;
    }
    drop(release);

    let off = ["--set", "config.rotation.wakePods=false"];
    let release = Release::install_with(context, &api, "stolen-no-wake", &off)?;
    let account = release.account(&api)?;
    let may = account.run(&["auth", "can-i", "patch", "pods", "-n", apps]);
    ensure!(may.is_err(), "it may patch pods, and nobody asked for it");
    let policies = admin.run(&["get", "validatingadmissionpolicies", "--output=name"])?;
    let name = format!("{}-pods", release.fullname());
    ensure!(!policies.contains(&name), "{policies}");
    Ok(())
}

/// Even where somebody grants the rights: neither the parts of a pod that have a path of their own, nor pods as a whole.
fn no_other_request(
    admin: &Kubectl,
    account: &Kubectl,
    release: &Release,
    apps: &str,
) -> Result<()> {
    let name = "stolen-pods-more";
    let parts = ["status", "ephemeralcontainers", "resize", "binding"];
    let parts = parts.map(|part| format!("pods/{part}"));
    let resources = Vec::from_iter(["pods"].into_iter().chain(parts.iter().map(String::as_str)));
    admin.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"namespace": apps, "name": name},
        "rules": [{"apiGroups": [""], "resources": resources, "verbs": ["*"]}],
    }))?;
    admin.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"namespace": apps, "name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": release.name, "name": release.fullname()}],
    }))?;
    wait::until("the rights are in force", LIMIT, || {
        let can = ["auth", "can-i", "delete", "pods", "--namespace", apps];
        account.run(&can)
    })?;
    let said = "Sidescale creates, binds and deletes no pods";
    let debugger = json!([{"name": "debug", "image": "evil"}]);
    let changes = [
        (
            "status",
            json!({"metadata": {"annotations": {"sidescale.io/key-written": "1"}}}),
        ),
        (
            "ephemeralcontainers",
            json!({"spec": {"ephemeralContainers": debugger}}),
        ),
        (
            "resize",
            json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "2"}}}]}}),
        ),
    ];
    for (part, change) in changes {
        let subresource = format!("--subresource={part}");
        let change = change.to_string();
        let what = ["patch", "pod", POD, "--namespace", apps];
        let tried = account.run(&[&what[..], &["--patch", &change, &subresource]].concat());
        refused(part, tried, said)?;
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": POD, "namespace": apps},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node1"},
    });
    let path = format!("/api/v1/namespaces/{apps}/pods/{POD}/binding");
    let create = ["create", "--raw", &path, "--filename=-"];
    let bound = account.feed(&create, &binding.to_string());
    refused("binding", bound, said)?;
    let made = account.feed(
        &["create", "--filename=-"],
        &pod(apps, "new", &json!({})).to_string(),
    );
    refused("a new pod", made, said)?;
    let deleted = account.run(&["delete", "pod", POD, "--namespace", apps]);
    refused("deletion", deleted, said)
}

fn patch(
    account: &Kubectl,
    namespace: &str,
    name: &str,
    kind: &str,
    change: &Value,
) -> Result<String> {
    let kind = format!("--type={kind}");
    let change = change.to_string();
    let what = ["patch", "pod", name, "--namespace", namespace, &kind];
    account.run(&[&what[..], &["--patch", &change]].concat())
}

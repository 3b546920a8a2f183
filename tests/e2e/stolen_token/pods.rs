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
            "merge",
            json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
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
    no_subresources(&account, apps)?;
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

/// Neither the parts of a pod that have a path of their own, nor pods as a whole.
fn no_subresources(account: &Kubectl, apps: &str) -> Result<()> {
    for part in ["status", "ephemeralcontainers", "resize"] {
        let change = json!({"metadata": {"annotations": {"sidescale.io/key-written": "1"}}});
        let subresource = format!("--subresource={part}");
        let change = change.to_string();
        let what = ["patch", "pod", POD, "--namespace", apps, "--type=merge"];
        let tried = account.run(&[&what[..], &["--patch", &change, &subresource]].concat());
        refused(part, tried, "cannot patch resource")?;
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": POD, "namespace": apps},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node1"},
    });
    let path = format!("/api/v1/namespaces/{apps}/pods/{POD}/binding");
    let create = ["create", "--raw", &path, "--filename=-"];
    let bound = account.feed(&create, &binding.to_string());
    refused("binding", bound, "cannot create resource")?;
    let made = account.feed(
        &["create", "--filename=-"],
        &pod(apps, "new", &json!({})).to_string(),
    );
    refused("a new pod", made, "cannot create resource")?;
    let deleted = account.run(&["delete", "pod", POD, "--namespace", apps]);
    refused("deletion", deleted, "cannot delete resource")
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

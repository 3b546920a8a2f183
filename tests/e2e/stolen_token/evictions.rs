//! Evictions: the right exists together with its policy, and only if the configuration asks for evictions.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use sidescale::pods::{Evicted, Pods};

use super::{LIMIT, refused};
use crate::chart::Release;
use crate::serve::pod;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::wait;

pub(super) fn nothing_of_the_clusters_own(
    context: &Context,
    _: Option<&headscale::Program>,
) -> Result<()> {
    let api = context.api()?;
    let admin = api.kubectl();
    let evict = ["--set", "config.rotation.onLost=evict"];
    let release = Release::install_with(context, &api, "stolen-evictions", &evict)?;
    let account = release.account(&api)?;
    let apps = "stolen-evictions-apps";
    api.namespace(apps, &json!({}))?;
    let own = release.name.as_str();
    let spaces = ["kube-system", "kube-public", own, apps];
    for namespace in spaces {
        wait::until("pods can be made", LIMIT, || {
            admin.apply(&pod(namespace, "stolen", &json!({})))
        })?;
    }
    wait::until("the policy is in force", LIMIT, || {
        let body = eviction(admin, own, |_| {})?;
        let said = format!("Sidescale evicts no pods of namespace {own}");
        refused("our own", post(&account, own, &body), &said)
    })?;
    for namespace in ["kube-system", "kube-public"] {
        let body = eviction(admin, namespace, |_| {})?;
        let said = format!("Sidescale evicts no pods of namespace {namespace}");
        refused(namespace, post(&account, namespace, &body), &said)?;
    }
    let said = "by its uid and within the pod's own grace period";
    let changes: [fn(&mut Value); 2] = [
        |body| body["deleteOptions"] = Value::Null,
        |body| body["deleteOptions"]["gracePeriodSeconds"] = json!(0),
    ];
    for change in changes {
        let body = eviction(admin, apps, change)?;
        refused(&body.to_string(), post(&account, apps, &body), said)?;
    }
    for namespace in spaces {
        admin.run(&["get", "pod", "stolen", "--namespace", namespace])?;
    }

    // As the process does it: the intended pod, and no other with that name.
    let uid = uid(admin, apps)?;
    let uid = uuid::Uuid::parse_str(&uid)?.as_u128();
    // The server retries for a while before it gives up.
    let _ = evict_as(account.kubeconfig(), apps, uid ^ 1);
    admin
        .run(&["get", "pod", "stolen", "--namespace", apps])
        .context("another pod of that name was evicted")?;
    evict_as(account.kubeconfig(), apps, uid)?;
    wait::until("it is evicted", LIMIT, || {
        let found = admin.run(&["get", "pod", "stolen", "--namespace", apps]);
        ensure!(found.is_err(), "still there");
        Ok(())
    })?;
    for namespace in ["kube-system", "kube-public"] {
        admin.run(&[
            "delete",
            "pod",
            "stolen",
            "--namespace",
            namespace,
            "--grace-period=1",
        ])?;
    }
    drop(release);

    let release = Release::install(context, &api, "stolen-no-evict")?;
    let account = release.account(&api)?;
    let may = account.run(&["auth", "can-i", "create", "pods/eviction", "-n", apps]);
    ensure!(may.is_err(), "it may evict, and nobody asked for it");
    Ok(())
}

pub(super) fn uid(admin: &Kubectl, namespace: &str) -> Result<String> {
    let found = admin.json(&["get", "pod", "stolen", "--namespace", namespace])?;
    Ok(found["metadata"]["uid"]
        .as_str()
        .context("no uid")?
        .to_owned())
}

fn eviction(admin: &Kubectl, namespace: &str, change: impl FnOnce(&mut Value)) -> Result<Value> {
    let uid = uid(admin, namespace)?;
    let mut body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"namespace": namespace, "name": "stolen"},
        "deleteOptions": {"preconditions": {"uid": uid}},
    });
    change(&mut body);
    Ok(body)
}

fn post(account: &Kubectl, namespace: &str, body: &Value) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/stolen/eviction");
    account.feed(
        &["create", "--raw", &path, "--filename=-"],
        &body.to_string(),
    )
}

fn evict_as(kubeconfig: &Path, namespace: &str, uid: u128) -> Result<()> {
    with_client(kubeconfig, async |client| {
        let evicted = Pods::kubernetes(client)
            .evict(namespace, "stolen", uid)
            .await;
        ensure!(evicted == Evicted::Yes, "{evicted:?}");
        Ok(())
    })
}

/// Runs with the client that the process itself would use.
pub(super) fn with_client(
    kubeconfig: &Path,
    run: impl AsyncFnOnce(kube::Client) -> Result<()>,
) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let file = Kubeconfig::read_from(kubeconfig)?;
    runtime.block_on(async {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
        run(kube::Client::try_from(config)?).await
    })
}

//! Writes allowed to the account beside Headscale, on a real API server.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, SECRET};
use crate::chart::Release;
use crate::support::api::kubeconfig;
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::kubectl::Kubectl;
use crate::support::processes::Place;
use crate::support::programs::Programs;
use crate::support::wait;

const TOKEN: &str = "kubernetes.io/service-account-token";

pub(super) fn denies(context: &Context, _: Option<&Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "manager-policy")?;
    let (admin, keys) = (api.kubectl(), format!("{}-headscale", release.name));
    admin.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "headscale", "namespace": keys},
    }))?;
    let account = account(context, admin, &keys)?;
    let create = |name: &str, kind: &str, labelled: bool| {
        let secret = secret(&keys, name, kind, labelled);
        account.feed(&["create", "--filename=-"], &secret.to_string())
    };
    wait::until("the policy is in force", LIMIT, || {
        refused(
            create("other", "Opaque", true),
            "controlPlane.apiKeySecret.name",
        )
    })?;
    // A token of any other account in that namespace.
    refused(
        create("other", TOKEN, true),
        "controlPlane.apiKeySecret.name",
    )?;
    refused(create(SECRET, TOKEN, true), "writes only Opaque ones")?;
    refused(
        create(SECRET, "Opaque", false),
        "app.kubernetes.io/component: api-key",
    )?;
    let mut unnamed = secret(&keys, SECRET, "Opaque", true);
    unnamed["metadata"]["name"] = Value::Null;
    unnamed["metadata"]["generateName"] = json!(SECRET);
    let unnamed = account.feed(&["create", "--filename=-"], &unnamed.to_string());
    refused(unnamed, "controlPlane.apiKeySecret.name")?;
    create(SECRET, "Opaque", true)?;

    let own = ["--namespace", keys.as_str()];
    let replace = || {
        let mut secret = account.json(&[&["get", "secret", SECRET], &own[..]].concat())?;
        secret["metadata"]["labels"] = json!({"app.kubernetes.io/component": "api-key"});
        account.feed(&["replace", "--filename=-"], &secret.to_string())
    };
    replace()?;
    // Our label does not take over a Secret of someone else, unless its owner says so.
    admin.run(&[&["delete", "secret", SECRET], &own[..]].concat())?;
    let theirs = secret(&keys, SECRET, "Opaque", false).to_string();
    admin.feed(&["create", "--filename=-"], &theirs)?;
    refused(replace(), "sidescale.io/adopt: true")?;
    let adopt = ["annotate", "secret", SECRET, "sidescale.io/adopt=true"];
    admin.run(&[&adopt[..], &own].concat())?;
    replace()?;
    // The chart does not deny what others let the account do with other Secrets; it still denies creating them.
    let more = [
        "create",
        "role",
        "more",
        "--verb=get,update",
        "--resource=secrets",
    ];
    admin.run(&[&more[..], &own].concat())?;
    let account_name = format!("{keys}:headscale");
    let bind = [
        "create",
        "rolebinding",
        "more",
        "--role=more",
        "--serviceaccount",
        &account_name,
    ];
    admin.run(&[&bind[..], &own].concat())?;
    let theirs = secret(&keys, "theirs", "Opaque", false).to_string();
    admin.feed(&["create", "--filename=-"], &theirs)?;
    wait::until("the account may update it", LIMIT, || {
        let found = account.json(&[&["get", "secret", "theirs"], &own[..]].concat())?;
        account.feed(&["replace", "--filename=-"], &found.to_string())
    })?;
    Ok(())
}

/// Returns kubectl with a token of Headscale's account.
fn account(context: &Context, admin: &Kubectl, namespace: &str) -> Result<Kubectl> {
    let token = ["create", "token", "headscale", "--namespace", namespace];
    let token = admin.run(&token)?;
    let path = context.folder.inner("manager-policy")?.join("account.conf");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(admin.kubeconfig())?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    let text = kubeconfig(server.context("no server")?, token.trim());
    std::fs::write(&path, text)?;
    let program = Programs::prepare()?.kubernetes("kubectl");
    Ok(Kubectl::new(Place::Host, program, path))
}

fn secret(namespace: &str, name: &str, kind: &str, labelled: bool) -> Value {
    let labels = if labelled {
        json!({"app.kubernetes.io/component": "api-key", "app.kubernetes.io/managed-by": "sidescale"})
    } else {
        json!({})
    };
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {
            "namespace": namespace, "name": name, "labels": labels,
            "annotations": {"kubernetes.io/service-account.name": "default"},
        },
    })
}

fn refused(result: Result<String>, said: &str) -> Result<()> {
    let error = result.err().context("not refused")?;
    let error = format!("{error:#}");
    ensure!(error.contains(said), "want {said:?}: {error}");
    Ok(())
}

//! Rights of the release's account, tried with its own token, and the policy that denies it every other Secret.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{LIMIT, Release, create};
use crate::support::{context::Context, headscale, wait};

pub(super) fn rights(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "rights")?;
    let account = release.account(&api)?;
    let may = [
        "get secrets/headscale-auth-keys -n default",
        "update secrets/headscale-auth-keys -n default",
        "create secrets -n default",
        "get secrets/rights-sidescale-webhook-ca -n rights",
        "update secrets/rights-sidescale-webhook-ca -n rights",
        "get secrets/headscale-api-key -n rights-headscale",
        "update secrets/headscale-api-key -n rights-headscale",
        "list pods -A",
        "watch namespaces",
        "create events.events.k8s.io -n default",
        "get leases.coordination.k8s.io/rights-sidescale -n rights",
        "patch leases.coordination.k8s.io/rights-sidescale -n rights",
        "get configmaps/rights-sidescale-hostnames -n rights",
        "watch configmaps/rights-sidescale-hostnames -n rights",
        "patch configmaps/rights-sidescale-hostnames -n rights",
        "list mutatingwebhookconfigurations",
        "patch mutatingwebhookconfigurations/rights-sidescale",
        "patch validatingwebhookconfigurations/rights-sidescale",
    ];
    let may_not = [
        "get secrets/other -n default",
        "list secrets -A",
        "patch secrets/headscale-auth-keys -n default",
        "delete secrets/headscale-auth-keys -n default",
        "get secrets/rights-sidescale-webhook-ca -n default",
        "update secrets/other -n rights-headscale",
        "delete secrets/headscale-api-key -n rights-headscale",
        "update secrets/headscale-api-key -n default",
        "get secrets/headscale-api-key -n default",
        "get leases.coordination.k8s.io -n default",
        "list leases.coordination.k8s.io -n rights",
        "create leases.coordination.k8s.io -n rights",
        "delete leases.coordination.k8s.io/rights-sidescale -n rights",
        "patch leases.coordination.k8s.io/other -n rights",
        "get configmaps/rights-sidescale -n rights",
        "patch configmaps/rights-sidescale -n rights",
        "patch configmaps/rights-sidescale-hostnames -n default",
        "create configmaps -n rights",
        "delete configmaps/rights-sidescale-hostnames -n rights",
        "create pods/eviction -n default",
        "create events -n default",
        "get clusterroles",
        "patch mutatingwebhookconfigurations/other",
        "patch validatingwebhookconfigurations/other",
        "delete mutatingwebhookconfigurations/rights-sidescale",
        "create pods -n default",
        "create pods/exec -n default",
        "create serviceaccounts/token -n rights",
        "impersonate users",
        "get nodes",
    ];
    for (rights, expected) in [(&may[..], true), (&may_not[..], false)] {
        for right in rights {
            let words: Vec<&str> = ["auth", "can-i"]
                .into_iter()
                .chain(right.split(' '))
                .collect();
            // can-i exits with 1 for a no.
            ensure!(
                account.run(&words).is_ok() == expected,
                "{right}: want {expected}"
            );
        }
    }
    // One name is one watch: a list of all namespaces is allowed with the name as its field selector.
    account.run(&[
        "get",
        "secrets",
        "-A",
        "--field-selector=metadata.name=headscale-auth-keys",
    ])?;
    Ok(())
}

pub(super) fn policy(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "policy")?;
    let (admin, account) = (api.kubectl(), release.account(&api)?);
    let ca = format!("{}-webhook-ca", release.fullname());
    api.namespace("policy-app", &json!({}))?;
    let app = "policy-app";

    wait::until("the policy is in force", LIMIT, || {
        refused(
            create(&account, app, "other", "Opaque", true),
            "is not on the list of Secrets that Sidescale writes",
        )
    })?;
    let token = "kubernetes.io/service-account-token";
    refused(
        create(&account, app, "headscale-auth-keys", token, true),
        "Sidescale writes only Opaque ones",
    )?;
    refused(
        create(&account, app, "headscale-auth-keys", "Opaque", false),
        "lacks the label app.kubernetes.io/managed-by",
    )?;
    refused(
        create(&account, app, &ca, "Opaque", true),
        "is not on the list",
    )?;
    create(&account, app, "headscale-auth-keys", "Opaque", true)?;
    create(&account, &release.name, &ca, "Opaque", true)?;
    // The API key's Secret only in its own namespace, and only while Sidescale owns it.
    refused(
        create(&account, app, "headscale-api-key", "Opaque", true),
        "is not on the list",
    )?;
    let keys = format!("{}-headscale", release.name);
    create(&account, &keys, "headscale-api-key", "Opaque", true)?;
    refused(
        create(&account, &keys, "another", "Opaque", true),
        "is not on the list",
    )?;

    // Our label on a Secret of someone else does not take it over, unless its owner says so.
    create(admin, app, "headscale-pod-auth-keys", "Opaque", false)?;
    let take = || {
        let mut secret = account.json(&[
            "get",
            "secret",
            "headscale-pod-auth-keys",
            "--namespace",
            app,
        ])?;
        secret["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "sidescale"});
        account.feed(&["replace", "--filename=-"], &secret.to_string())
    };
    refused(
        take(),
        "was not made by Sidescale: annotate it with sidescale.io/adopt: true",
    )?;
    admin.run(&[
        "annotate",
        "secret",
        "headscale-pod-auth-keys",
        "--namespace",
        app,
        "sidescale.io/adopt=true",
    ])?;
    take()?;
    Ok(())
}

fn refused(result: Result<String>, said: &str) -> Result<()> {
    let Err(error) = result else {
        anyhow::bail!("not refused; want {said:?}")
    };
    ensure!(
        format!("{error:#}").contains(said),
        "want {said:?}: {error:#}"
    );
    Ok(())
}

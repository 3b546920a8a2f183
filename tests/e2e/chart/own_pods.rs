//! With `failurePolicy: Fail` and no replica, our own pods start; and other pods are not exempt by having our label.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, Release};
use crate::serve::pod;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::wait;

pub(super) fn do_without(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let fail = ["--set", "webhook.failurePolicy=Fail"];
    let release = Release::install_with(context, &api, "own-pods", &fail)?;
    let (admin, own) = (api.kubectl(), release.name.as_str());
    let (plain, opted_in) = ("own-pods-plain", "own-pods-in");
    api.namespace(plain, &json!({}))?;
    api.namespace(opted_in, &json!({"sidescale.io/inject": "tailscale"}))?;
    let ours = json!({"app.kubernetes.io/name": "sidescale", "app.kubernetes.io/instance": own});
    let asks = json!({"sidescale.io/inject": "tailscale"});
    let create = |namespace: &str, labels: &Value, annotations: &Value| {
        let mut pod = pod(namespace, "web", annotations);
        pod["metadata"]["labels"] = labels.clone();
        admin.dry_run(&pod)
    };
    let asked = |created: Result<Value>| {
        let Err(error) = created else {
            anyhow::bail!("the webhook was not asked");
        };
        ensure!(
            format!("{error:#}").contains("failed calling webhook"),
            "{error:#}"
        );
        Ok(())
    };
    wait::until("the webhook is in force", LIMIT, || {
        asked(create(plain, &json!({}), &asks))
    })?;
    // Our labels do not bypass it.
    asked(create(plain, &ours, &asks))?;
    asked(create(opted_in, &ours, &json!({})))?;
    create(plain, &json!({}), &json!({}))?;

    for label in ["", "sidescale.io/inject=tailscale"] {
        if !label.is_empty() {
            admin.run(&["label", "namespace", own, label])?;
            wait::until("its namespace opts in", LIMIT, || {
                asked(create(own, &json!({}), &json!({})))
            })?;
        }
        create(own, &ours, &json!({}))?;
        create(own, &ours, &asks)?;
        asked(create(own, &json!({}), &asks))?;
        // Pods of another release in the same namespace are not exempt.
        let other =
            json!({"app.kubernetes.io/name": "sidescale", "app.kubernetes.io/instance": "other"});
        asked(create(own, &other, &asks))?;
    }
    Ok(())
}

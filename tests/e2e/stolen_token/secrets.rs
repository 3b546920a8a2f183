//! Secrets: only those on the list, of type Opaque, with our label, and never one that someone else created.

use anyhow::Result;
use serde_json::{Value, json};

use super::{LIMIT, refused};
use crate::chart::{Release, create};
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::wait;

const TOKEN: &str = "kubernetes.io/service-account-token";
const LISTED: &str = "headscale-auth-keys";
const NOT_LISTED: &str = "is not on the list of Secrets that Sidescale writes";

pub(super) fn only_the_list(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "stolen-secrets")?;
    let (admin, account) = (api.kubectl(), release.account(&api)?);
    let keys = format!("{}-headscale", release.name);
    api.namespace("stolen-secrets-apps", &json!({}))?;
    let apps = "stolen-secrets-apps";
    wait::until("the policy is in force", LIMIT, || {
        let made = create(&account, apps, "other", "Opaque", true);
        refused("another name", made, NOT_LISTED)
    })?;
    for namespace in [apps, "kube-system", &release.name, &keys] {
        for kind in ["Opaque", TOKEN] {
            let made = create(&account, namespace, "other", kind, true);
            refused(&format!("{kind} in {namespace}"), made, NOT_LISTED)?;
        }
        let made = create(&account, namespace, LISTED, TOKEN, true);
        refused("a token", made, "writes only Opaque ones")?;
        let made = create(&account, namespace, LISTED, "Opaque", false);
        refused("without our label", made, "lacks the label")?;
    }
    // A generated name is known when the policy is evaluated.
    let generated = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {
            "namespace": apps, "generateName": LISTED, "labels": {"app.kubernetes.io/managed-by": "sidescale"},
        },
    });
    let made = account.feed(&["create", "--filename=-"], &generated.to_string());
    refused("a generated name", made, NOT_LISTED)?;

    // A Secret of someone else with a listed name: neither with our label, nor with the adopt annotation added too.
    for (namespace, name) in [(apps, LISTED), (keys.as_str(), "headscale-api-key")] {
        create(admin, namespace, name, "Opaque", false)?;
        let get = ["get", "secret", name, "--namespace", namespace];
        let replace = |change: &dyn Fn(&mut Value)| {
            let mut secret = account.json(&get)?;
            change(&mut secret["metadata"]);
            account.feed(&["replace", "--filename=-"], &secret.to_string())
        };
        let label = json!({"app.kubernetes.io/managed-by": "sidescale"});
        refused(
            "a foreign Secret",
            replace(&|metadata| metadata["labels"] = label.clone()),
            "was not made by Sidescale",
        )?;
        refused(
            "a foreign Secret, adopted by the thief",
            replace(&|metadata| {
                metadata["labels"] = label.clone();
                metadata["annotations"] = json!({"sidescale.io/adopt": "true"});
            }),
            "was not made by Sidescale",
        )?;
        let what = ["secret", name, "--namespace", namespace];
        refused(
            "a patch",
            account.run(
                &[
                    &["patch"],
                    &what[..],
                    &["--patch", r#"{"data":{"a":"Yg=="}}"#],
                ]
                .concat(),
            ),
            "cannot patch resource \"secrets\"",
        )?;
        refused(
            "a deletion",
            account.run(&[&["delete"], &what[..]].concat()),
            "cannot delete resource \"secrets\"",
        )?;
    }
    // Our own may be written.
    create(&account, &release.name, LISTED, "Opaque", true)?;
    refused(
        "all Secrets",
        account.run(&["get", "secrets", "--all-namespaces"]),
        "cannot list resource \"secrets\"",
    )
}

//! Our webhook configurations: everything except the caBundle is protected.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, refused};
use crate::chart::{Release, base64_of};
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::wait;

const KINDS: [(&str, &[&str]); 2] = [
    (
        "MutatingWebhookConfiguration",
        &["pods.sidescale.io", "namespaces.sidescale.io"],
    ),
    (
        "ValidatingWebhookConfiguration",
        &["workloads.sidescale.io"],
    ),
];

/// The policy's message about everything else.
const ONLY: &str = "Sidescale changes only clientConfig.caBundle of its webhook configurations";
const BUNDLE: &str = "Sidescale writes no caBundle that is empty or larger than 64 KiB";

pub(super) fn only_the_ca_bundle(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "stolen-webhooks")?;
    let (admin, account, name) = (api.kubectl(), release.account(&api)?, release.fullname());
    wait::until("the policy is in force", LIMIT, || {
        let edit = change("replace", "/webhooks/0/timeoutSeconds", &json!(9));
        refused(
            "probe",
            patch(&account, KINDS[0].0, &name, &edit, true),
            ONLY,
        )
    })?;
    let pem = rcgen::generate_simple_self_signed(["ca.test".to_owned()])?;
    let pem = pem.cert.pem();
    for (kind, entries) in KINDS {
        // One authority, the same again, and as many as may accumulate over a long time.
        for count in [1, 1, 40] {
            apply(
                &account,
                kind,
                &name,
                entries,
                &base64_of(&pem.repeat(count)),
            )?;
        }
        let before = admin.json(&["get", kind, &name])?;
        let bundle = before["webhooks"][0]["clientConfig"]["caBundle"].clone();
        ensure!(bundle.is_string(), "the honest apply did nothing: {before}");
        let mut edits = edits(&bundle);
        if kind == KINDS[0].0 {
            edits.extend([
                change("replace", "/webhooks/0/reinvocationPolicy", &json!("Never")),
                json!({"op": "move", "from": "/webhooks/0", "path": "/webhooks/1"}),
                json!({"op": "remove", "path": "/webhooks/1"}),
            ]);
        }
        for edit in edits {
            refused(
                &format!("{kind}: {edit}"),
                patch(&account, kind, &name, &edit, false),
                ONLY,
            )?;
        }
        let removed = json!({"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"});
        let edited = patch(&account, kind, &name, &removed, false);
        refused("no caBundle", edited, ONLY)?;
        let huge = base64_of(&pem.repeat(200));
        let edited = apply(&account, kind, &name, entries, &huge);
        refused("a huge caBundle", edited, BUNDLE)?;
        refused(
            "a configuration of ours",
            account.run(&["delete", kind, &name]),
            "cannot delete resource",
        )?;
        let mut other = before.clone();
        other["metadata"] = json!({"name": "stolen-new"});
        refused(
            "a new configuration",
            account.feed(&["create", "--filename=-"], &other.to_string()),
            "cannot create resource",
        )?;
        let after = admin.json(&["get", kind, &name])?;
        ensure!(before == after, "it is not as it was: {after}");
        // An administrator is not restricted.
        let edit = change("replace", "/webhooks/0/timeoutSeconds", &json!(4));
        patch(admin, kind, &name, &edit, false)?;
        let first = entries.first().context("no entry")?;
        let partial = apply(&account, kind, &name, &[first, "new.sidescale.io"], "YQ==");
        ensure!(partial.is_err(), "an entry was added by apply");
    }
    Ok(())
}

/// Returns a change of each field of an entry and of the metadata.
fn edits(bundle: &Value) -> Vec<Value> {
    let all = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"]}]);
    let owner = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "x"}]);
    let elsewhere = json!({"url": "https://attacker.example/x", "caBundle": bundle});
    let fields = [
        ("rules", all),
        ("clientConfig", elsewhere),
        ("clientConfig/service/name", json!("other")),
        ("clientConfig/service/path", json!("/other")),
        ("namespaceSelector", json!({})),
        ("objectSelector", json!({"matchLabels": {"a": "b"}})),
        ("matchConditions", json!([])),
        ("failurePolicy", json!("Fail")),
        ("timeoutSeconds", json!(30)),
        ("sideEffects", json!("NoneOnDryRun")),
        ("matchPolicy", json!("Exact")),
        ("admissionReviewVersions", json!(["v1", "v1beta1"])),
        ("name", json!("other.sidescale.io")),
    ];
    let fields = fields
        .into_iter()
        .map(|(field, value)| change("replace", &format!("/webhooks/0/{field}"), &value));
    let metadata = [
        ("labels/stolen", json!("yes")),
        ("annotations/stolen", json!("yes")),
        ("ownerReferences", owner),
        ("finalizers", json!(["stolen.example/yes"])),
    ];
    let metadata = metadata
        .into_iter()
        .map(|(field, value)| change("add", &format!("/metadata/{field}"), &value));
    // One label, and all of them.
    let removed = [
        "/metadata/labels/app.kubernetes.io~1part-of",
        "/metadata/labels",
    ];
    let removed = removed.map(|path| json!({"op": "remove", "path": path}));
    fields.chain(metadata).chain(removed).collect()
}

fn change(op: &str, path: &str, value: &Value) -> Value {
    json!({"op": op, "path": path, "value": value})
}

fn patch(kubectl: &Kubectl, kind: &str, name: &str, edit: &Value, dry_run: bool) -> Result<String> {
    let edit = json!([edit]).to_string();
    let dry_run = if dry_run { "server" } else { "none" };
    kubectl.run(&[
        "patch",
        kind,
        name,
        "--type=json",
        "--patch",
        &edit,
        &format!("--dry-run={dry_run}"),
    ])
}

/// As the process does it.
fn apply(
    account: &Kubectl,
    kind: &str,
    name: &str,
    entries: &[&str],
    bundle: &str,
) -> Result<String> {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| json!({"name": entry, "clientConfig": {"caBundle": bundle}}))
        .collect();
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": entries,
    });
    let how = [
        "--server-side",
        "--force-conflicts",
        "--field-manager=sidescale",
    ];
    account.feed(
        &[&["apply", "--filename=-"], &how[..]].concat(),
        &body.to_string(),
    )
}

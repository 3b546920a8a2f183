//! Every golden pod of `tests/cases` by a real API server: it takes what our patch makes, and keeps it as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::levels::Level;
use crate::support::pods;

pub(crate) const CASES: &[Case] = &[Case {
    name: "golden::an_api_server_takes_every_patched_pod_as_it_is",
    needs: &[Level::Api],
    each: false,
    run,
}];

const NAMESPACE: &str = "golden";

fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    api.namespace(NAMESPACE, &json!({}))?;
    let mut wrong = Vec::new();
    let folders = injected()?;
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let golden = read(&folder.join("injected.json"))?;
        if let Some(account) = golden["spec"]["serviceAccountName"].as_str() {
            api.kubectl().apply(&json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": NAMESPACE},
            }))?;
        }
        let after = match api.kubectl().dry_run(&placed(&golden)) {
            Ok(after) => after,
            Err(error) => {
                wrong.push(format!("{name}: refused: {error:#}"));
                continue;
            }
        };
        // What is in no version of the types is not kept by a server either.
        let known: Pod = serde_json::from_value(placed(&golden))?;
        let different = pods::differences(&serde_json::to_value(known)?, &after);
        wrong.extend(different.into_iter().map(|how| format!("{name}: {how}")));

        if has_token(&after) {
            wrong.push(format!(
                "{name}: our sidecar is given a token of the pod's account"
            ));
        }
        let before = api.kubectl().dry_run(&placed(&original(folder)?))?;
        let class = |pod: &Value| pod["status"]["qosClass"].clone();
        if class(&before) == "Guaranteed" && class(&after) != "Guaranteed" {
            wrong.push(format!("{name}: no longer Guaranteed: {}", class(&after)));
        }
    }
    eprintln!("e2e: {} patched pods sent to the API server", folders.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(folders.len() >= 20, "only {} golden pods", folders.len());
    Ok(())
}

/// Whether the API server mounts the account's token into our sidecar, as it does into every other container.
fn has_token(pod: &Value) -> bool {
    ["containers", "initContainers"]
        .iter()
        .filter_map(|kind| pod["spec"][kind].as_array())
        .flatten()
        .filter(|container| container["name"] == "tailscale")
        .filter_map(|container| container["volumeMounts"].as_array())
        .flatten()
        .filter_map(|mount| mount["name"].as_str())
        .any(|volume| volume.starts_with("kube-api-access-"))
}

/// The folders whose pod is injected.
fn injected() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> = fs::read_dir(root)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("injected.json").exists());
    folders.sort();
    Ok(folders)
}

/// The pod as it was before the patch.
fn original(folder: &Path) -> Result<Value> {
    let pod = folder.join("pod.json");
    if pod.exists() {
        return read(&pod);
    }
    Ok(read(&folder.join("review.json"))?["request"]["object"].take())
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

fn placed(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod
}

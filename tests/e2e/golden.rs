//! Every golden pod of `tests/cases` on a real API server: it accepts our patched pod, and stores it unchanged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::pods;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "golden::an_api_server_takes_every_patched_pod_as_it_is",
        needs: &[Level::Api],
        each: false,
        run,
    },
    Case {
        name: "golden::one_of_the_oldest_version_takes_them_too",
        needs: &[Level::Api],
        each: false,
        run: run_on_the_oldest,
    },
];

const NAMESPACE: &str = "golden";
const OURS: [&str; 2] = ["tailscale", "apikey-manager"];
/// The oldest supported version.
const OLDEST: &str = "1.32";

fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    api.namespace(NAMESPACE, &json!({}))?;
    takes_all(api.kubectl())
}

fn run_on_the_oldest(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let began = Instant::now();
    let api = context.api()?;
    let oldest = api.emulating(OLDEST)?;
    oldest.namespace(NAMESPACE)?;
    let version = oldest.kubectl().raw("/version")?;
    let version: Value = serde_json::from_str(&version)?;
    let minor = OLDEST.split_once('.').context("no minor version")?.1;
    ensure!(version["emulationMinor"] == minor, "{version}");
    takes_all(oldest.kubectl())?;
    eprintln!("e2e: as version {OLDEST}, in {:.1?}", began.elapsed());
    Ok(())
}

fn takes_all(kubectl: &Kubectl) -> Result<()> {
    let folders = injected()?;
    let mut golden: Vec<Value> = Vec::new();
    let mut sent: Vec<Value> = Vec::new();
    for folder in &folders {
        golden.push(placed(&read(&folder.join("injected.json"))?));
        sent.push(placed(&original(folder)?));
    }
    let accounts = golden.iter().map(|pod| &pod["spec"]["serviceAccountName"]);
    let accounts: BTreeSet<&str> = accounts.filter_map(Value::as_str).collect();
    for account in accounts {
        kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": NAMESPACE},
        }))?;
    }
    let (after, before) = (kubectl.dry_run_all(&golden)?, kubectl.dry_run_all(&sent)?);
    let mut wrong = Vec::new();
    for (n, folder) in folders.iter().enumerate() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // Fields that this version does not know, or that another one sets, are not ours.
        let theirs = changes(&sent[n], &before[n])?;
        let ours = changes(&golden[n], &after[n])?;
        // Our own containers have no fields that the types do not know.
        let whole = pods::differences(&sidecars(&golden[n]), &sidecars(&after[n]));
        let ours = ours.into_iter().chain(whole);
        let ours = ours.filter(|how| !theirs.contains(how));
        wrong.extend(ours.map(|how| format!("{name}: {how}")));

        if has_token(&after[n]) {
            wrong.push(format!(
                "{name}: our sidecar is given a token of the pod's account"
            ));
        }
        let [was, is] = [&before[n], &after[n]].map(|pod| &pod["status"]["qosClass"]);
        if was == "Guaranteed" && is != "Guaranteed" {
            wrong.push(format!("{name}: no longer Guaranteed: {is}"));
        }
    }
    eprintln!("e2e: {} patched pods sent to the API server", folders.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(folders.len() >= 20, "only {} golden pods", folders.len());
    Ok(())
}

/// Returns how the API server changed a pod, except for fields in no version of the types: no server keeps those either.
fn changes(sent: &Value, returned: &Value) -> Result<Vec<String>> {
    let known: Pod = serde_json::from_value(sent.clone())?;
    Ok(pods::differences(&serde_json::to_value(known)?, returned))
}

/// Returns the pod with only our containers.
fn sidecars(pod: &Value) -> Value {
    let of = |kind: &str| -> Vec<&Value> {
        let all = pod["spec"][kind].as_array().into_iter().flatten();
        all.filter(|container| OURS.iter().any(|name| container["name"] == *name))
            .collect()
    };
    json!({"spec": {"containers": of("containers"), "initContainers": of("initContainers")}})
}

/// Returns whether the API server mounts the account's token into our sidecar, as it does into every other container.
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

/// Returns the folders whose pod is injected.
fn injected() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> = fs::read_dir(root)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("injected.json").exists());
    folders.sort();
    Ok(folders)
}

/// Returns the pod before the patch.
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

//! Real manifests, from the folder that `SIDESCALE_CORPUS` names: each workload's pod asks for a sidecar.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidescale_webhook::mutate::OptIn;
use sidescale_webhook::profile::Policy;

use crate::support::{Setting, review};

const EXPECTED: &str = include_str!("corpus.txt");

#[test]
fn injects_into_real_workloads_or_says_why_not() {
    let Some(root) = std::env::var_os("SIDESCALE_CORPUS").map(PathBuf::from) else {
        // Bypasses the test runner's capture, to be visible in a passing run.
        let loud =
            "SKIPPED: SIDESCALE_CORPUS names no folder of manifests, so no real workload was met\n";
        let _ = std::io::stderr().write_all(loud.as_bytes());
        let required = std::env::var("SIDESCALE_E2E_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|level| level.trim() == "corpus");
        assert!(!required, "level corpus is required and missing");
        return;
    };
    let policy = Policy::for_login_server("https://headscale.example.com").unwrap();
    let setting = Setting {
        policy,
        opt_in: OptIn::Pod,
        namespace: None,
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in manifests(&root) {
        let text = fs::read_to_string(&path).unwrap();
        let Ok(documents) = serde_saphyr::from_multiple::<Value>(&text) else {
            *counts.entry("file: no YAML".to_owned()).or_default() += 1;
            continue;
        };
        for pod in documents.iter().flat_map(pods) {
            if serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod.clone()).is_err() {
                *counts
                    .entry("pod: not accepted by the API".to_owned())
                    .or_default() += 1;
                continue;
            }
            let answer = setting.send_twice(&review(&pod));
            let verdict = answer.outcome.verdict;
            *counts
                .entry(format!("{}: {}", verdict.as_str(), verdict.reason()))
                .or_default() += 1;
        }
    }
    let counts: String = counts
        .into_iter()
        .map(|(what, count)| format!("{what}: {count}\n"))
        .collect();
    assert_eq!(counts, EXPECTED, "corpus.txt holds what is expected");
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(manifests(&path));
        } else if path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the pods that a document leads to, as their controllers create them.
fn pods(document: &Value) -> Vec<Value> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let name = document["metadata"]["name"].as_str().unwrap_or("unnamed");
    let spec = &document["spec"];
    match kind {
        "List" => document["items"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(pods)
            .collect(),
        "Pod" => {
            let mut pod = asking(document.clone());
            // Test data of others has names that no API server accepts.
            pod["metadata"]["name"] = json!(name.replace('_', "-").to_lowercase());
            vec![pod]
        }
        "AdmissionReview" => pods(&document["request"]["object"]),
        "Deployment" => vec![owned(
            &spec["template"],
            "ReplicaSet",
            &format!("{name}-7c9d8f6b5"),
        )],
        "CronJob" => vec![owned(
            &spec["jobTemplate"]["spec"]["template"],
            "Job",
            &format!("{name}-28961234"),
        )],
        "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "ReplicationController" => {
            vec![owned(&spec["template"], kind, name)]
        }
        _ => Vec::new(),
    }
}

fn owned(template: &Value, kind: &str, name: &str) -> Value {
    let mut pod = asking(template.clone());
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true});
    pod["metadata"]["ownerReferences"] = json!([owner]);
    pod["metadata"]["generateName"] = json!(format!("{name}-"));
    if kind == "ReplicaSet" {
        if !pod["metadata"]["labels"].is_object() {
            pod["metadata"]["labels"] = json!({});
        }
        pod["metadata"]["labels"]["pod-template-hash"] = json!("7c9d8f6b5");
    }
    pod
}

fn asking(mut pod: Value) -> Value {
    for part in ["metadata", "spec"] {
        if !pod[part].is_object() {
            pod[part] = json!({});
        }
    }
    if !pod["metadata"]["annotations"].is_object() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["annotations"]["sidescale.io/inject"] = json!("tailscale");
    pod
}

//! Every folder of `tests/cases` is a pod as sent and its result.
//!
//! `pod.json` is the pod, or `review.json` the whole review; `setting.yaml` its setting. The answer is in one of
//! `injected.json` (the pod after the patch), `denial.txt` and `skip.txt`, and the warnings for the pod's creator are in
//! `warnings.txt`. `SIDESCALE_BLESS=1` rewrites the answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sidescale_webhook::annotations::{DenyReason, NamespaceMetadata, SkipReason};
use sidescale_webhook::mutate::{OptIn, Verdict};
use sidescale_webhook::profile::{Config, Policy};

use crate::support::{Answer, Setting, review};

const ANSWERS: [&str; 3] = ["injected.json", "denial.txt", "skip.txt"];
const WARNINGS: &str = "warnings.txt";
const SCHEMA: &str = include_str!("../../../docs/config.schema.json");

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    namespace_opts_in: bool,
    namespace: Namespace,
    namespace_unknown: bool,
    config: Option<Config>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Namespace {
    label: Option<String>,
    labels: std::collections::BTreeMap<String, String>,
    annotations: std::collections::BTreeMap<String, String>,
}

#[test]
fn answers_every_case_as_written_down() {
    let folders = folders();
    assert!(folders.len() >= 20, "only {} cases", folders.len());
    let failed: Vec<String> = folders
        .iter()
        .filter_map(|folder| run(folder).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_annotation_and_every_reason_has_a_case() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let annotations =
        &schema["properties"]["profiles"]["additionalProperties"]["properties"]["annotations"];
    let annotations = annotations["properties"].as_object().unwrap();
    // A profile cannot set these.
    let of_pods = ["inject", "service", "profile", "status"];
    let mut missing: BTreeSet<String> = annotations
        .keys()
        .map(String::as_str)
        .chain(of_pods)
        .map(str::to_owned)
        .collect();
    assert!(missing.len() >= 39, "{missing:?}");
    let denials = [
        DenyReason::BadValue,
        DenyReason::NoHeadscale,
        DenyReason::NotAllowed,
        DenyReason::NoService,
        DenyReason::NotSupported,
    ];
    let skips = [
        SkipReason::AlreadyInjected,
        SkipReason::Disabled,
        SkipReason::HandMade,
        SkipReason::HostNetwork,
        SkipReason::Invalid,
        SkipReason::MirrorPod,
        SkipReason::NameTaken,
        SkipReason::NoService,
        SkipReason::NotRequested,
        SkipReason::NotAPodCreate,
        SkipReason::SwitchedOff,
        SkipReason::Windows,
    ];
    let denials = denials.map(|reason| format!("deny: {}", reason.as_str()));
    let skips = skips.map(|reason| format!("skip: {}", reason.as_str()));
    missing.extend(denials.into_iter().chain(skips));

    for folder in folders() {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let input = input(&folder);
        let on_pod = input["request"]["object"]["metadata"]["annotations"].as_object();
        for key in on_pod.into_iter().flat_map(serde_json::Map::keys) {
            missing.remove(key.strip_prefix("sidescale.io/").unwrap_or_default());
        }
        for answer in ["denial.txt", "skip.txt"].map(read) {
            missing.remove(answer.lines().next().unwrap_or_default());
        }
    }
    assert!(missing.is_empty(), "no case for {missing:?}");
}

/// Returns every case, in the order of their names.
pub(crate) fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let mut folders: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

fn run(folder: &Path) -> Result<(), String> {
    let answer = setting(folder).send_twice(&input(folder));
    let (name, text) = shown(&answer);
    let warnings = warnings(&answer);
    if std::env::var_os("SIDESCALE_BLESS").is_some() {
        for other in ANSWERS.into_iter().chain([WARNINGS]) {
            let _ = fs::remove_file(folder.join(other));
        }
        fs::write(folder.join(name), &text).unwrap();
        if !warnings.is_empty() {
            fs::write(folder.join(WARNINGS), &warnings).unwrap();
        }
    }
    let present: Vec<&str> = ANSWERS
        .into_iter()
        .filter(|answer| folder.join(answer).exists())
        .collect();
    if present != [name] {
        return Err(format!(
            "{}: got {name}, not {present:?}:\n{text}",
            folder.display()
        ));
    }
    let warned = fs::read_to_string(folder.join(WARNINGS)).unwrap_or_default();
    if warned != warnings {
        return Err(format!(
            "{}/{WARNINGS}: got\n{warnings}\nwant\n{warned}",
            folder.display()
        ));
    }
    let want = fs::read_to_string(folder.join(name)).unwrap();
    if want == text {
        Ok(())
    } else {
        Err(format!(
            "{}/{name}: got\n{text}\nwant\n{want}",
            folder.display()
        ))
    }
}

/// Returns the setting of a case's pod.
pub(crate) fn setting(folder: &Path) -> Setting {
    let written = fs::read_to_string(folder.join("setting.yaml")).map_or_else(
        |_| Written::default(),
        |text| serde_saphyr::from_str(&text).unwrap(),
    );
    let Written {
        namespace_opts_in,
        namespace,
        namespace_unknown,
        config,
    } = written;
    let policy = match config {
        Some(config) => Policy::from_config(config).unwrap(),
        None => {
            let mut policy = Policy::for_login_server("https://headscale.example.com").unwrap();
            // The namespace of the cases' pods: a Headscale among them is the one of this control plane.
            let plane = policy.control_planes.get_mut("default").unwrap();
            "shop".clone_into(&mut plane.api_key_namespace);
            policy
        }
    };
    let Namespace {
        label,
        labels,
        annotations,
    } = namespace;
    let namespace = (!namespace_unknown).then_some(NamespaceMetadata {
        inject: label,
        labels,
        annotations,
    });
    let opt_in = if namespace_opts_in {
        OptIn::Namespace
    } else {
        OptIn::Pod
    };
    Setting {
        policy,
        opt_in,
        namespace,
    }
}

/// Returns a case's review.
pub(crate) fn input(folder: &Path) -> Value {
    let read = |name: &str| {
        fs::read(folder.join(name))
            .ok()
            .map(|text| serde_json::from_slice(&text).unwrap())
    };
    read("review.json")
        .unwrap_or_else(|| review(&read("pod.json").expect("pod.json or review.json")))
}

fn shown(answer: &Answer) -> (&'static str, String) {
    let mut lines = vec![format!(
        "{}: {}",
        answer.outcome.verdict.as_str(),
        answer.outcome.verdict.reason()
    )];
    if let Some(message) = answer.response["status"]["message"].as_str() {
        lines.push(message.to_owned());
    }
    if let Some(audit) = answer.response["auditAnnotations"].as_object() {
        lines.push(format!("audit: {}", serde_json::to_string(audit).unwrap()));
    }
    let receipt = answer
        .pod
        .as_ref()
        .map(|pod| &pod["metadata"]["annotations"]["sidescale.io/status"]);
    if let Some(receipt) = receipt {
        lines.push(format!("receipt: {}", receipt.as_str().unwrap()));
    }
    match answer.outcome.verdict {
        Verdict::Inject => ("injected.json", injected(answer)),
        Verdict::Deny(_) => ("denial.txt", lines.join("\n") + "\n"),
        Verdict::Skip(_) => ("skip.txt", lines.join("\n") + "\n"),
    }
}

/// Returns the pod after the patch.
fn injected(answer: &Answer) -> String {
    let mut pod = answer.pod.clone().unwrap();
    // The hash changes with every new field of a profile.
    let status = &mut pod["metadata"]["annotations"]["sidescale.io/status"];
    let mut receipt: Value = serde_json::from_str(status.as_str().unwrap()).unwrap();
    let hash = receipt["profileHash"].take();
    let text = status.as_str().unwrap();
    *status = Value::from(text.replace(hash.as_str().unwrap(), "<hash>"));
    serde_json::to_string_pretty(&pod).unwrap() + "\n"
}

fn warnings(answer: &Answer) -> String {
    let warnings = answer.response["warnings"].as_array().into_iter().flatten();
    let lines = warnings.map(|warning| {
        let warning = warning.as_str().unwrap();
        assert!(!warning.contains('"'), "helm escapes quotes: {warning}");
        format!("{warning}\n")
    });
    lines.collect()
}

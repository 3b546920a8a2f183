//! Evidence kept when a test fails, with every key masked, and all logs, for the leak check (I/O).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{kubectl::Kubectl, node::Node, recorder};

/// Prefixes of the keys of all supported servers, those that they create and their own.
const KEY_MARKS: [&str; 4] = ["hskey-", "tskey-", "sdk-test-", "privkey:"];

/// Writes pods, Events and logs into `target/e2e/<test>`, and returns that folder.
pub(crate) fn keep(test: &str, node: Option<&Node>, run_folder: &Path) -> Result<PathBuf> {
    let name: String = test
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let target = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/e2e")
        .join(name);
    let _ = fs::remove_dir_all(&target);
    fs::create_dir_all(&target)?;
    if let Some(node) = node {
        for (kind, text) in objects(node.kubectl()) {
            fs::write(target.join(kind), masked(&text))?;
        }
    }
    for log in logs(run_folder) {
        let name = log
            .strip_prefix(run_folder)?
            .to_string_lossy()
            .replace('/', "_");
        fs::write(
            target.join(name),
            masked(&String::from_utf8_lossy(&fs::read(&log)?)),
        )?;
    }
    Ok(target)
}

/// Returns everything written so far where a key must never be: a name and the text, unmasked.
pub(crate) fn everything(clusters: &[&Kubectl], run_folder: &Path) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = clusters
        .iter()
        .flat_map(|kubectl| objects(kubectl))
        .map(|(name, text)| (name.to_owned(), text))
        .collect();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = logs(run_folder);
    // Files that tests compare with, and the evidence of those that failed.
    for folder in ["tests", "target/e2e"] {
        files.extend(below(&checkout.join(folder), &|_| true));
    }
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
        all.push((file.display().to_string(), text));
    }
    all
}

/// Returns the text with the rest of every key replaced.
pub(crate) fn masked(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, mark)) = KEY_MARKS
        .iter()
        .filter_map(|mark| Some((rest.find(mark)?, mark)))
        .min()
    {
        let key_from = at + mark.len();
        let key =
            rest[key_from..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        result.push_str(&rest[..key_from]);
        result.push_str("<masked>");
        rest = key.map_or("", |length| &rest[key_from + length..]);
    }
    result.push_str(rest);
    result
}

fn objects(kubectl: &Kubectl) -> Vec<(&'static str, String)> {
    let kinds = [
        ("pods.yaml", "pods"),
        ("deployments.yaml", "deployments,replicasets"),
        ("events.yaml", "events"),
        ("configmaps.yaml", "configmaps"),
        ("webhooks.yaml", "mutatingwebhookconfigurations"),
    ];
    kinds
        .into_iter()
        .map(|(file, kind)| {
            let text = kubectl.run(&["get", kind, "--all-namespaces", "--output", "yaml"]);
            (file, text.unwrap_or_else(|error| format!("{error:#}")))
        })
        .collect()
}

/// Returns every log of the run: servers', containers', and those added by tests.
fn logs(folder: &Path) -> Vec<PathBuf> {
    below(folder, &|file| {
        file.extension().is_some_and(|extension| extension == "log")
            // The one list of all keys.
            && file.file_stem().is_none_or(|name| name != recorder::SECRETS)
    })
}

/// Returns all wanted files below the folder.
fn below(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // etcd, kubelet and containerd store Secrets, in files and environments: their data is skipped, their logs are not.
        // Containers' logs are read where they are stored.
        let skip = ["containerd", "kubelet", "etcd", "pod-logs"]
            .iter()
            .any(|name| path.ends_with(name));
        if path.is_dir() && !path.is_symlink() && !skip {
            found.extend(below(&path, wanted));
        } else if path.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found
}

//! What is kept when a test fails, with every key masked, and everything that was ever logged, for the leak check (I/O).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{kubectl::Kubectl, node::Node};

/// A piece of this length is as good as the key.
const PIECE: usize = 16;
/// How the keys of all supported servers begin.
const KEY_MARKS: [&str; 3] = ["hskey-", "tskey-", "sdk-test-"];

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

/// Everything written so far where a key must never stand: a name and the text, unmasked.
pub(crate) fn everything(kubectl: &Kubectl, run_folder: &Path) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = objects(kubectl)
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text))
        .collect();
    for log in logs(run_folder) {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        all.push((log.display().to_string(), text));
    }
    all
}

/// Where a key stands that should not: its name's first letters and the place, never more of the key.
pub(crate) fn leaks(texts: &[(String, String)], keys: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for key in keys {
        let secret = secret_part(key);
        let encoded = STANDARD.encode(key);
        let mut pieces: Vec<&str> = (0..=secret.len().saturating_sub(PIECE))
            .filter_map(|at| secret.get(at..at + PIECE))
            .collect();
        pieces.extend([key.as_str(), encoded.as_str()]);
        for (place, text) in texts {
            if pieces.iter().any(|piece| text.contains(piece)) {
                found.push(format!("{}… in {place}", &key[..key.len() - secret.len()]));
            }
        }
    }
    found
}

/// Headscale's keys begin with a mark and a public prefix of twelve characters, which servers do write down.
fn secret_part(key: &str) -> &str {
    ["hskey-auth-", "hskey-api-"]
        .iter()
        .find_map(|mark| key.strip_prefix(mark)?.get(13..))
        .unwrap_or(key)
}

/// The text with the rest of every key replaced.
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

/// Every log file below the folder: servers' and containers'.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Container root file systems are of no interest, and mounts of pods are not visible here.
        let skip = ["containerd", "kubelet", "etcd"]
            .iter()
            .any(|name| path.ends_with(name));
        if path.is_dir() && !path.is_symlink() && !skip {
            found.extend(logs(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found
}

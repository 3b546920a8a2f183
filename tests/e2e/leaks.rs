//! After all other tests: no key that was in a Secret during the run appears anywhere else.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::Case;
use crate::support::context::Context;
use crate::support::leaks::leaks;
use crate::support::levels::Level;
use crate::support::node::{BUSYBOX, Node};
use crate::support::{evidence, headscale, wait};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "leaks::a_planted_key_is_found_wherever_it_stands",
        needs: &[Level::Node],
        each: false,
        run: finds_what_is_planted,
    },
    Case {
        name: "leaks::no_key_is_in_a_log_event_metric_patch_or_object",
        needs: &[Level::Node],
        each: false,
        run: nothing_leaked,
    },
];

/// Prefix of the keys that are leaked on purpose.
const PLANTED: &str = "hskey-auth-plantedplant-";
const NAMESPACE: &str = "planted";
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Tests the check itself: it knows a key because it was in a Secret, and finds it in each kind of place, even after deletion.
fn finds_what_is_planted(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let node = context.node()?;
    let [one, two] =
        [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|uuid| uuid.simple().to_string());
    let secret = format!("{one}{two}");
    let key = format!("{PLANTED}{secret}");
    plant(node, &key, &secret)?;
    std::fs::write(
        node.folder().join("planted.log"),
        format!("a log with {}", &secret[20..36]),
    )?;
    wait::until("the key is known", LIMIT, || {
        ensure!(node.keys().contains(&key), "not seen by the watch");
        Ok(())
    })?;
    wait::until("the key is found everywhere", LIMIT, || {
        let texts = evidence::everything(&[node.kubectl()], context.folder.path());
        let found = leaks(&texts, std::slice::from_ref(&key));
        for place in ["configmaps.yaml", "planted.log", "audit.log", "loud_0.log"] {
            ensure!(
                found.iter().any(|leak| leak.ends_with(place)),
                "not in {place}: {found:?}"
            );
        }
        Ok(())
    })
}

/// Leaks a key: in a Secret, where it belongs; in a pod's log and an Event, both deleted at once; encoded in a ConfigMap.
fn plant(node: &Node, key: &str, secret: &str) -> Result<()> {
    node.control_plane().namespace(NAMESPACE, &json!({}))?;
    let kubectl = node.kubectl();
    let metadata = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata("planted"), "stringData": {"key": key},
    }))?;
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("planted"),
        "data": {"document": STANDARD.encode(format!("a longer text with {key} in it"))},
    }))?;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": metadata("planted"), "type": "Normal", "reason": "Planted",
        "message": format!("a piece: {}", &secret[8..24]),
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "loud", "namespace": NAMESPACE},
    });
    kubectl.feed(&["create", "--filename=-"], &event.to_string())?;
    kubectl.run(&["delete", "event", "planted", "--namespace", NAMESPACE])?;
    // The pod gets the key from its Secret: only its log contains it.
    let variable =
        json!({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "planted", "key": "key"}}});
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata("loud"),
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "loud", "image": BUSYBOX, "env": [variable],
                "command": ["/bin/busybox", "sh", "-c", "echo \"logged in with $KEY\"; /bin/busybox sleep 600"],
            }],
        },
    }))?;
    wait::until("the pod has logged it", LIMIT, || {
        let log = kubectl.run(&["logs", "loud", "--namespace", NAMESPACE])?;
        ensure!(log.contains("logged in"), "nothing yet");
        Ok(())
    })?;
    kubectl.run(&["delete", "pod", "loud", "--namespace", NAMESPACE])?;
    Ok(())
}

fn nothing_leaked(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let node = context.node()?;
    let api = context.has(Level::Api).then(|| context.api()).transpose()?;
    let mut clusters = vec![node.kubectl()];
    let mut keys: BTreeSet<String> = node.keys();
    if let Some(api) = &api {
        clusters.push(api.kubectl());
        keys.extend(api.keys());
    }
    let keys: Vec<String> = keys
        .into_iter()
        .filter(|key| !key.starts_with(PLANTED))
        .collect();
    let texts = evidence::everything(&clusters, context.folder.path());
    let size: usize = texts.iter().map(|(_, text)| text.len()).sum();
    eprintln!(
        "e2e: looked for {} keys in {} texts of {} kB",
        keys.len(),
        texts.len(),
        size / 1024
    );
    ensure!(
        !keys.is_empty(),
        "no key was seen: run this after the other tests of level node"
    );
    let leaks = leaks(&texts, &keys);
    ensure!(leaks.is_empty(), "{}", Vec::from_iter(leaks).join("\n"));
    Ok(())
}

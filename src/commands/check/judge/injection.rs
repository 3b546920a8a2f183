//! Whether the webhook saw the pod, and how it changed it. Pure.

use std::collections::BTreeMap;

use sidescale_webhook::annotations::{Kinds, NamespaceMetadata, unknown};
use sidescale_webhook::keys::{INJECT, PREFIX, SIDECAR_LABEL, STATUS};
use sidescale_webhook::sidecar::{Done, Receipt};

use super::super::facts::{CheckFinding, Facts, Observed};
use crate::commands::view::inventory::workload;

const CHECK: &str = "injection";

/// Namespaces that the webhook is never called for.
const LEFT_OUT: [&str; 2] = ["kube-system", "kube-node-lease"];

pub(super) fn judge(facts: &Facts) -> Vec<CheckFinding> {
    let Some(text) = facts.annotation(STATUS) else {
        return unseen(facts);
    };
    let Ok(receipt) = Receipt::parse(text) else {
        let text = format!("annotation {STATUS} of the pod cannot be read: it was overwritten");
        return vec![CheckFinding::fail(CHECK, text, again(facts))];
    };
    let mut findings = vec![match receipt.decision {
        Done::Skip => skipped(facts, receipt.reason.as_deref().unwrap_or_default()),
        Done::Inject => injected(facts, &receipt),
    }];
    if receipt.namespace_unknown {
        let text = "the namespace was too new for its annotations to be seen".to_owned();
        findings.push(CheckFinding::warn(CHECK, text).then(again(facts)));
    }
    let remarks = receipt.unknown.iter();
    findings.extend(remarks.map(|remark| CheckFinding::warn("annotation", remark.clone())));
    findings
}

fn injected(facts: &Facts, receipt: &Receipt<'_>) -> CheckFinding {
    let profile = receipt.profile.as_deref().unwrap_or_default();
    let labels = facts.pod.metadata.labels.as_ref();
    if labels.is_none_or(|labels| !labels.contains_key(SIDECAR_LABEL)) {
        let text = format!(
            "the pod has a sidecar but lacks the label {SIDECAR_LABEL}, so rotation does not see it"
        );
        let kinds = Kinds {
            tailscale: receipt.injected.is_some(),
            apikey_manager: receipt.api_key_secret.is_some(),
            server_keys: receipt.server_keys_secret.is_some(),
        };
        let next = format!(
            "kubectl label pod --namespace {} {} {SIDECAR_LABEL}={}",
            facts.namespace_name(),
            facts.name(),
            kinds.as_str()
        );
        return CheckFinding::fail(CHECK, text, next);
    }
    match &receipt.injected {
        Some(key) => CheckFinding::ok(
            CHECK,
            format!(
                "profile {profile:?}, service {:?}, control plane {:?}",
                key.service, key.control_plane
            ),
        ),
        None => CheckFinding::warn(
            CHECK,
            format!(
                "profile {profile:?}, without a Tailscale sidecar: annotation {PREFIX}inject is {:?}",
                facts.annotation(INJECT).unwrap_or_default()
            ),
        ),
    }
}

/// Judges a pod that the webhook saw and skipped.
fn skipped(facts: &Facts, reason: &str) -> CheckFinding {
    let fail = |text: &str, next: String| {
        CheckFinding::fail(CHECK, format!("no sidecar: {text} ({reason})"), next)
    };
    match reason {
        "disabled" => CheckFinding::warn(
            CHECK,
            "no sidecar, as the pod's annotation or its namespace requests (disabled)".to_owned(),
        ),
        "handMade" => CheckFinding::warn(
            CHECK,
            "not injected: the pod has a hand-written sidecar (handMade)".to_owned(),
        ),
        "hostNetwork" => fail(
            "pods with hostNetwork are not supported",
            "remove hostNetwork, or run Tailscale on the machine itself".to_owned(),
        ),
        "windows" => fail(
            "Windows pods are not supported",
            "use a Linux pod".to_owned(),
        ),
        "nameTaken" => fail(
            "a container is named tailscale, or a volume's name begins with sidescale-",
            "rename it".to_owned(),
        ),
        "noService" => fail(
            "no service name can be derived from this pod",
            annotate(facts, "service", "NAME"),
        ),
        "notRequested" => fail(
            "nothing requests one",
            annotate(facts, "inject", "tailscale"),
        ),
        "switchedOff" => fail(
            "the operator switched injection off",
            "set webhook.inject to true in the configuration, then create the pod again".to_owned(),
        ),
        "invalid" => fail(
            "an annotation is invalid, and the profile has onInvalid: warn",
            format!(
                "kubectl create --dry-run=server --filename MANIFEST --namespace {} (its warnings name the annotation)",
                facts.namespace_name()
            ),
        ),
        _ => fail("it was skipped", facts.describe()),
    }
}

/// Judges a pod without any trace of the webhook.
fn unseen(facts: &Facts) -> Vec<CheckFinding> {
    let annotations = facts.pod.metadata.annotations.iter().flatten();
    let ours: BTreeMap<String, String> = annotations
        .filter(|(key, _)| key.starts_with(PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let own = NamespaceMetadata {
        annotations: ours,
        ..NamespaceMetadata::default()
    };
    let namespace = facts.namespace.seen();
    let remarks = unknown(&own, namespace);
    let mut findings = vec![unseen_for(facts, &own, namespace)];
    findings.extend(
        remarks
            .into_iter()
            .map(|remark| CheckFinding::warn("annotation", remark)),
    );
    if let Observed::Blind(why) = &facts.namespace {
        findings.push(CheckFinding::blind("namespace", why));
    }
    findings
}

fn unseen_for(
    facts: &Facts,
    own: &NamespaceMetadata,
    namespace: Option<&NamespaceMetadata>,
) -> CheckFinding {
    let name = facts.namespace_name();
    let fail = |text: String, next: String| CheckFinding::fail(CHECK, text, next);
    if LEFT_OUT.contains(&name) {
        let text = format!("no sidecar: pods of namespace {name} are never injected");
        return fail(text, "use another namespace".to_owned());
    }
    if facts.annotation("kubernetes.io/config.mirror").is_some() {
        let text = "no sidecar: static pods are not supported".to_owned();
        return fail(text, "use a Deployment".to_owned());
    }
    let label = namespace.and_then(|namespace| namespace.inject.as_deref());
    match label {
        Some("disabled" | "false") => {
            let text =
                format!("no sidecar: namespace {name} is switched off by its label {PREFIX}inject");
            fail(
                text,
                format!("kubectl label namespace {name} {PREFIX}inject-"),
            )
        }
        Some("tailscale" | "true") => missed(
            facts,
            &format!("its namespace's label {PREFIX}inject requests one"),
        ),
        Some(_) | None if !own.annotations.is_empty() => {
            missed(facts, "its annotations request one")
        }
        Some(other) => {
            let text = format!(
                "no sidecar: label {PREFIX}inject of namespace {name} is {other:?}, want tailscale"
            );
            let next =
                format!("kubectl label namespace {name} {PREFIX}inject=tailscale --overwrite");
            fail(text, next)
        }
        None => {
            let text = format!(
                "no sidecar: the pod has no annotation {PREFIX}inject, and its namespace has no such label that is visible here"
            );
            fail(text, annotate(facts, "inject", "tailscale"))
        }
    }
}

/// Returns a finding about a pod that the webhook should have seen.
fn missed(facts: &Facts, why: &str) -> CheckFinding {
    let text = format!(
        "no sidecar: {why}, and the webhook never saw the pod. Either the pod is older than that or than Sidescale, or the \
         API server could not reach Sidescale and admitted the pod unchanged (kubectl get --raw /metrics counts these in \
         apiserver_admission_webhook_fail_open_count)"
    );
    CheckFinding::fail(CHECK, text, again(facts))
}

/// Returns what recreates the pod.
fn again(facts: &Facts) -> String {
    let (namespace, pod) = (facts.namespace_name(), facts.name());
    let workload = workload(&facts.pod.metadata);
    match workload.split_once('/') {
        Some(("deployment" | "statefulset" | "daemonset", _)) => {
            format!("kubectl rollout restart --namespace {namespace} {workload}")
        }
        Some(("pod", _)) | None => {
            format!("delete pod {namespace}/{pod} and apply its manifest again")
        }
        Some(_) => {
            format!(
                "kubectl delete pod --namespace {namespace} {pod} ({workload} creates a new one)"
            )
        }
    }
}

/// Returns the command that puts an annotation on the pods of the workload.
pub(super) fn annotate(facts: &Facts, key: &str, value: &str) -> String {
    let workload = workload(&facts.pod.metadata);
    match workload.split_once('/') {
        Some(("deployment" | "statefulset" | "daemonset", _)) => format!(
            "kubectl patch --namespace {} {workload} --type merge --patch \
             '{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{{\"{PREFIX}{key}\":\"{value}\"}}}}}}}}}}'",
            facts.namespace_name()
        ),
        Some(_) | None => format!(
            "set annotation {PREFIX}{key}: {value} on the pod in its manifest ({workload}), and create it again"
        ),
    }
}

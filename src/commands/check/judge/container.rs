//! State of the sidecar's container. Pure.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting};
use sidescale_webhook::keys::CONTAINER;

use super::super::facts::{CheckFinding, Facts};
use crate::commands::view::span::span;

const CHECK: &str = "container";

/// Age up to which a pod may still be starting.
const STARTING: SignedDuration = SignedDuration::from_mins(1);

pub(super) fn judge(facts: &Facts) -> CheckFinding {
    let Some(status) = facts.sidecar() else {
        return without_status(facts);
    };
    let restarts = match status.restart_count {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        n => format!(", restarted {n} times"),
    };
    let last = status.last_state.as_ref();
    let last = last.and_then(|state| state.terminated.as_ref());
    let restarts = match last {
        Some(ended) => format!("{restarts}, before that {}", over(facts, ended)),
        None => restarts,
    };
    match &status.state {
        Some(ContainerState {
            waiting: Some(waiting),
            ..
        }) => waits(facts, waiting, &restarts),
        Some(ContainerState {
            terminated: Some(ended),
            ..
        }) => {
            let text = format!("{CONTAINER} {}{restarts}", over(facts, ended));
            CheckFinding::fail(CHECK, text, facts.sidecar_log())
        }
        Some(ContainerState {
            running: Some(running),
            ..
        }) => {
            let since = running.started_at.as_ref();
            let since = since.map_or_else(String::new, |at| {
                format!(" for {}", span(facts.now.duration_since(at.0)))
            });
            let text = format!("{CONTAINER} running{since}{restarts}");
            match status.started {
                Some(false) => CheckFinding::warn(CHECK, format!("{text}, not started yet"))
                    .then(facts.sidecar_log()),
                Some(true) | None => CheckFinding::ok(CHECK, text),
            }
        }
        Some(_) | None => without_status(facts),
    }
}

fn waits(facts: &Facts, waiting: &ContainerStateWaiting, restarts: &str) -> CheckFinding {
    let reason = waiting.reason.as_deref().unwrap_or("no reason given");
    let message = waiting.message.as_deref().map(|said| format!(" ({said})"));
    let text = format!(
        "{CONTAINER} waiting: {reason}{}{restarts}",
        message.unwrap_or_default()
    );
    match reason {
        "CrashLoopBackOff" => {
            CheckFinding::fail(CHECK, text, format!("{} --previous", facts.sidecar_log()))
        }
        "PodInitializing" | "ContainerCreating" if facts.age() < STARTING => {
            CheckFinding::warn(CHECK, text)
        }
        _ => CheckFinding::fail(CHECK, text, facts.describe()),
    }
}

fn over(facts: &Facts, ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_deref().map(|reason| format!(" ({reason})"));
    let ago = ended
        .finished_at
        .as_ref()
        .map(|at| format!(" {} ago", span(facts.now.duration_since(at.0))));
    format!(
        "exited with code {}{}{}",
        ended.exit_code,
        reason.unwrap_or_default(),
        ago.unwrap_or_default()
    )
}

/// Judges a pod without a status from a kubelet.
fn without_status(facts: &Facts) -> CheckFinding {
    let spec = facts.pod.spec.as_ref();
    let made = spec.is_some_and(|spec| {
        let init = spec.init_containers.iter().flatten();
        init.chain(&spec.containers)
            .any(|container| container.name == CONTAINER)
    });
    if !made {
        let text = format!("the pod has no container {CONTAINER}: another webhook removed it");
        let next = "kubectl get mutatingwebhookconfigurations (shows which webhooks change pods)"
            .to_owned();
        return CheckFinding::fail(CHECK, text, next);
    }
    let conditions = facts
        .pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let unscheduled = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("no reason given");
        let text = format!("the pod is not scheduled: {why}");
        return CheckFinding::fail(CHECK, text, facts.describe());
    }
    let text = format!("no status of {CONTAINER} yet");
    CheckFinding::warn(CHECK, text).then(facts.describe())
}

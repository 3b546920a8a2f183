//! The key and the pod's node, as the control plane sees them, and what the sidecar logs. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use sidescale_core::id::NodeId;
use sidescale_core::objects::Node;
use sidescale_rotation::nodes::LATE_AFTER;
use sidescale_rotation::nodes::replicas::expanded;
use sidescale_rotation::owner::ServiceOwner;
use sidescale_rotation::ownership::{foreign_keys, ownership};
use sidescale_rotation::record::KeyRecord;
use sidescale_webhook::keys::STATUS;
use sidescale_webhook::sidecar::{Injected, Receipt};

use super::super::facts::{CheckFinding, Facts, Level, Observed, annotation};
use super::super::words::Refused;
use crate::commands::view::held::{PlaneView, ServerSnapshot};
use crate::commands::view::span::span;

const PLANE: &str = "control plane";
const NODE: &str = "node";
const LOG: &str = "log";

pub(super) fn judge(facts: &Facts, reference: &Injected<'_>) -> Vec<CheckFinding> {
    let mut findings = Vec::new();
    let record = record(facts, reference);
    let mut online = false;
    match &facts.plane {
        Observed::NotAsked => {}
        Observed::Blind(why) => findings.push(CheckFinding::blind(PLANE, why)),
        Observed::Saw(PlaneView::Trouble(problem)) => {
            // Its message names the URL, the cause and what to do.
            let next = "if only this machine cannot reach it, use kubectl port-forward and --api-url http://127.0.0.1:8080";
            findings.push(CheckFinding::fail(
                PLANE,
                problem.message.clone(),
                next.to_owned(),
            ));
        }
        Observed::Saw(PlaneView::Held(held)) => {
            let node = node(facts, reference, record.as_ref(), held);
            online = node.result == Level::Ok;
            findings.push(key(facts, reference, record.as_ref(), held, online));
            findings.push(node);
        }
    }
    match &facts.log {
        Observed::Blind(why) => findings.push(CheckFinding::blind(LOG, why)),
        Observed::Saw(Some(refused)) if !online => {
            findings.push(refusal(facts, reference, *refused));
        }
        Observed::Saw(_) | Observed::NotAsked => {}
    }
    findings
}

fn record(facts: &Facts, reference: &Injected<'_>) -> Option<KeyRecord> {
    let secret = facts.secret.seen()?.as_ref()?;
    let (_, mut record, _) = ownership(secret);
    record.keys.remove(&*reference.data_key)
}

/// Judges the key as the control plane sees it.
fn key(
    facts: &Facts,
    reference: &Injected<'_>,
    record: Option<&KeyRecord>,
    held: &ServerSnapshot,
    online: bool,
) -> CheckFinding {
    let plane = &reference.control_plane;
    let Some(current) = record.and_then(|record| record.current.as_ref()) else {
        let text = format!("{plane:?} answers; its list does not show which key this is");
        return CheckFinding::ok(PLANE, text);
    };
    let id = current.id.0;
    // A pod's own key may have expired, and its row be gone, once the pod has joined.
    let joined = record.is_some_and(|record| record.joined_with.is_some());
    let owner = ServiceOwner::new(facts.namespace_name(), &reference.service);
    if let Some(wrong) = held
        .difference(facts.now, &owner, current)
        .filter(|_| !joined)
    {
        let text = format!("{plane:?}: key {id} {wrong}");
        return CheckFinding::fail(PLANE, text, facts.rotate(reference));
    }
    let row = held.keys.iter().find(|key| key.id == current.id);
    if row.is_some_and(|key| key.used && !key.reusable) && !online {
        let text = format!("{plane:?}: key {id} works only once, and was already used");
        return CheckFinding::fail(PLANE, text, facts.rotate(reference));
    }
    let text = if joined {
        format!("{plane:?} answers; the pod has joined, and no longer needs a key")
    } else {
        format!("{plane:?} answers, and key {id} is valid")
    };
    CheckFinding::ok(PLANE, text)
}

/// Returns the names of the pod's node in the tailnet; if replicas share a name, those of all of them.
pub(super) fn names(facts: &Facts, reference: &Injected<'_>) -> Vec<String> {
    let (Some(PlaneView::Held(held)), Some(host)) = (facts.plane.seen(), hostname(facts)) else {
        return Vec::new();
    };
    let record = record(facts, reference);
    let nodes = candidates(facts, reference, record.as_ref(), held, &host).into_iter();
    let online = nodes.filter(|node| node.online);
    online.map(|node| node.given_name.clone()).collect()
}

/// Returns the nodes that may be the pod's, as rotation would find them; with a key of a person, all of its hostname.
fn candidates<'a>(
    facts: &Facts,
    reference: &Injected<'_>,
    record: Option<&KeyRecord>,
    held: &'a ServerSnapshot,
    host: &str,
) -> Vec<&'a Node> {
    let nodes = held.nodes.iter();
    let current = record.and_then(|record| record.current.as_ref());
    let Some(current) = current.filter(|_| !reference.own_key) else {
        return nodes.filter(|node| node.name == host).collect();
    };
    let foreign = foreign_keys(facts.secret.seen().into_iter().flatten());
    let foreign = foreign.into_iter();
    let foreign = foreign.filter(|(plane, ..)| *plane == reference.control_plane);
    let foreign = foreign.map(|(_, id, namespace)| (id, namespace)).collect();
    let owner = ServiceOwner::new(facts.namespace_name(), &reference.service);
    let oldest = replicas(facts, reference).oldest;
    let tailnet = held.tailnet(facts.now, &foreign);
    let found = tailnet.candidates(&owner, &current.asked.user, Some(host), oldest);
    let found: BTreeSet<NodeId> = found.map(|node| node.id).collect();
    nodes.filter(|node| found.contains(&node.id)).collect()
}

/// Judges the pod's node.
fn node(
    facts: &Facts,
    reference: &Injected<'_>,
    record: Option<&KeyRecord>,
    held: &ServerSnapshot,
) -> CheckFinding {
    let Some(host) = hostname(facts) else {
        return CheckFinding::warn(
            NODE,
            "the sidecar has no TS_HOSTNAME, which identifies its node".to_owned(),
        );
    };
    let replicas = replicas(facts, reference);
    let nodes = candidates(facts, reference, record, held, &host);
    let online: Vec<&&Node> = nodes.iter().filter(|node| node.online).collect();
    let shown = |node: &Node| format!("{} (node {})", node.given_name, node.id.0);
    let seen = nodes
        .iter()
        .filter_map(|node| Some((node.last_seen?, *node)))
        .max_by_key(|(at, _)| *at);
    let of = replicas.count;
    match (online.as_slice(), of) {
        ([node], 1) => {
            let other = (node.given_name != host)
                .then(|| format!(", because another node has the name {host}"));
            CheckFinding::ok(
                NODE,
                format!("{} is online{}", shown(node), other.unwrap_or_default()),
            )
        }
        ([], _) => {
            let seen = seen.map(|(at, node)| (at, shown(node)));
            absent(facts, reference, &host, seen)
        }
        (some, of) if some.len() >= of => {
            let text = format!(
                "{} nodes named {host} are online, for {of} pods that share that name",
                some.len()
            );
            CheckFinding::ok(NODE, text)
        }
        (some, of) => {
            let text = format!(
                "{} of {of} pods named {host} are online; they share key and name, so it is unknown which",
                some.len()
            );
            CheckFinding::warn(NODE, text).then(facts.sidecar_log())
        }
    }
}

fn absent(
    facts: &Facts,
    reference: &Injected<'_>,
    host: &str,
    seen: Option<(Timestamp, String)>,
) -> CheckFinding {
    let runs = facts
        .sidecar()
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let age = facts.age();
    if let Some((at, node)) = seen {
        let text = format!(
            "{node} is offline, last seen {} ago",
            span(facts.now.duration_since(at))
        );
        return CheckFinding::fail(NODE, text, facts.sidecar_log());
    }
    if SignedDuration::try_from(LATE_AFTER).is_ok_and(|late| age < late) {
        let text = format!("no node {host} yet; the pod is {} old", span(age));
        return CheckFinding::warn(NODE, text).then(facts.sidecar_log());
    }
    let text = format!("no node {host}, although the pod is {} old", span(age));
    if runs {
        // A removed node does not come back in any other way.
        let text = format!("{text}: it never joined, or was removed from the tailnet");
        CheckFinding::fail(
            NODE,
            text,
            format!(
                "{} (if its log shows nothing: {})",
                facts.sidecar_log(),
                facts.restart(reference)
            ),
        )
    } else {
        CheckFinding::fail(NODE, text, facts.describe())
    }
}

fn refusal(facts: &Facts, reference: &Injected<'_>, refused: Refused) -> CheckFinding {
    let server = || {
        let arguments = facts.variable("TS_EXTRA_ARGS").unwrap_or_default();
        let mut words = arguments.split_whitespace();
        let server = words.find_map(|word| word.strip_prefix("--login-server="));
        server.unwrap_or("controlplane.tailscale.com").to_owned()
    };
    let next = match refused {
        Refused::Expired | Refused::Used | Refused::Unknown if reference.own_key => {
            "headscale preauthkeys create --user ID --reusable --expiration 90d, and put the key that it prints into the \
             Secret".to_owned()
        }
        Refused::Expired | Refused::Used | Refused::Unknown => {
            let (rotate, restart) = (facts.rotate(reference), facts.restart(reference));
            if rotate == restart {
                restart
            } else {
                format!("{rotate}, then {restart}")
            }
        }
        Refused::Tags => "headscale policy get (see its tagOwners), or remove annotation sidescale.io/tags".to_owned(),
        Refused::Untrusted => format!("set caBundle of control plane {:?} in the configuration", reference.control_plane),
        Refused::Unreachable => format!("check loginServer, DNS and network policies: curl {}/health", server()),
    };
    let text = match refused {
        Refused::Untrusted | Refused::Unreachable => format!("{} at {}", refused.text(), server()),
        Refused::Expired | Refused::Used | Refused::Unknown | Refused::Tags => {
            refused.text().to_owned()
        }
    };
    CheckFinding::fail(LOG, text, next)
}

/// Returns the name that the pod's node asks for.
pub(super) fn hostname(facts: &Facts) -> Option<String> {
    let text = facts.variable("TS_HOSTNAME")?;
    let machine = facts
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref());
    let text = text.replace("$(NODE_NAME)", machine.unwrap_or_default());
    Some(expanded(&text, facts.name()))
}

/// Pods that share the pod's name in the tailnet.
struct Replicas {
    count: usize,
    oldest: Timestamp,
}

fn replicas(facts: &Facts, reference: &Injected<'_>) -> Replicas {
    let own = &facts.pod.metadata;
    let is_own_name = facts
        .variable("TS_HOSTNAME")
        .is_some_and(|text| text.contains("$("));
    let siblings = facts.injected.seen().into_iter().flatten().filter(|pod| {
        let receipt = annotation(pod, STATUS).and_then(|text| Receipt::parse(text).ok());
        let key = receipt.and_then(|receipt| receipt.injected);
        let same = key.is_some_and(|key| {
            (&key.secret, &key.data_key) == (&reference.secret, &reference.data_key)
        });
        same && !is_own_name && pod.uid != own.uid && pod.deletion_timestamp.is_none()
    });
    let pods: Vec<&ObjectMeta> = siblings.chain([own]).collect();
    let created = pods
        .iter()
        .filter_map(|pod| pod.creation_timestamp.as_ref());
    Replicas {
        count: pods.len(),
        oldest: created.map(|at| at.0).min().unwrap_or(facts.now),
    }
}

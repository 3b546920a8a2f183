//! The Secret that the pod refers to, and the key in it. Pure: of the value it shows only the kind.

use jiff::{SignedDuration, Timestamp};
use sidescale_core::key_form::{KeyKind, kind_of_key};
use sidescale_core::secret::{MANAGED_BY, StoredSecret};
use sidescale_rotation::demand::KeyDemand;
use sidescale_rotation::ownership::ownership;
use sidescale_rotation::plan::Ownership;
use sidescale_rotation::record::{DATA_KEY, IssuedKey, Record};
use sidescale_webhook::sidecar::Injected;

use super::super::facts::{CheckFinding, Facts, Observed, is_tailscales};
use crate::commands::view::span::span;
use crate::watch::{Namespaces, pods};

const SECRET: &str = "secret";
const VALUE: &str = "value";
const KEY: &str = "key";

/// Delay from which a late renewal is a problem.
const LATE: SignedDuration = SignedDuration::from_hours(1);

/// Age up to which a warning of rotation counts.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn judge(facts: &Facts, reference: &Injected<'_>) -> Vec<CheckFinding> {
    let secret = match &facts.secret {
        Observed::Saw(secret) => secret.as_ref(),
        Observed::Blind(why) => return vec![CheckFinding::blind(SECRET, why)],
        Observed::NotAsked => return Vec::new(),
    };
    let name = format!("{}/{}", facts.namespace_name(), reference.secret);
    let Some(secret) = secret else {
        let text = format!("Secret {name} does not exist");
        return vec![missing(facts, reference, text)];
    };
    let mut findings = Vec::new();
    let (owned, record, problem) = ownership(secret);
    let whose = if reference.own_key {
        "the pod's own, which Sidescale does not manage"
    } else {
        "created by Sidescale"
    };
    if !reference.own_key
        && let Some(problem) = problem
    {
        findings.push(CheckFinding::fail(
            SECRET,
            problem.message,
            take_over(secret),
        ));
    }
    let Some(value) = secret.data.get(&*reference.data_key) else {
        findings.push(missing(facts, reference, without(secret, &name, reference)));
        return findings;
    };
    if findings.is_empty() {
        let text = format!("{name} contains {}, {whose}", reference.data_key);
        findings.push(CheckFinding::ok(SECRET, text));
    }
    if owned == Ownership::Paused && !reference.own_key {
        let next = format!(
            "kubectl annotate secret {} --namespace {} sidescale.io/paused-",
            reference.secret, secret.namespace
        );
        let text = format!("rotation of {name} is paused");
        findings.push(CheckFinding::warn(SECRET, text).then(next));
    }
    findings.push(form(facts, reference, value));
    if !reference.own_key && owned != Ownership::NotOurs {
        findings.push(age(facts, reference, &record));
    }
    findings
}

/// Returns the command that lets Sidescale write a foreign Secret, or one with an unreadable record.
fn take_over(secret: &StoredSecret) -> String {
    let StoredSecret {
        namespace,
        name,
        labels,
        ..
    } = secret;
    let (label, ours) = MANAGED_BY;
    if labels.get(label).is_some_and(|value| value == ours) {
        let patch = format!("{{\"data\":{{\"{DATA_KEY}\":null}}}}");
        return format!(
            "kubectl patch secret {name} --namespace {namespace} --type merge --patch '{patch}' (all its keys are then \
             created again)"
        );
    }
    format!("kubectl annotate secret {name} --namespace {namespace} sidescale.io/adopt=true")
}

fn without(secret: &StoredSecret, name: &str, reference: &Injected<'_>) -> String {
    let there = secret.data.keys().map(String::as_str);
    let there: Vec<_> = there.filter(|key| *key != DATA_KEY).collect();
    let there = if there.is_empty() {
        "none".to_owned()
    } else {
        there.join(", ")
    };
    format!(
        "Secret {name} has no data key {}; it has {there}",
        reference.data_key
    )
}

/// Returns a finding about who has to put a key there, and why it is missing as far as rotation reported.
fn missing(facts: &Facts, reference: &Injected<'_>, text: String) -> CheckFinding {
    if reference.own_key {
        return CheckFinding::fail(SECRET, text, put(facts, reference));
    }
    let fresh = |note: &&crate::commands::view::inventory::RotationWarning| {
        facts.now.duration_since(note.at) < FRESH
    };
    match facts.notes.iter().find(fresh) {
        Some(note) => {
            let text = format!("{text}. Sidescale reports {}: {}", note.reason, note.text);
            CheckFinding::fail(
                SECRET,
                text,
                format!("sidescale status {}{}", facts.namespace_name(), facts.flags),
            )
        }
        None => CheckFinding::fail(
            SECRET,
            format!("{text}: Sidescale has not created it, and no Event says why"),
            facts.logs.clone(),
        ),
    }
}

/// Returns the command that puts a manual key in its place, without showing it.
fn put(facts: &Facts, reference: &Injected<'_>) -> String {
    let Injected {
        secret, data_key, ..
    } = reference;
    format!(
        "kubectl create secret generic {secret} --namespace {} --from-file={data_key}=FILE --dry-run=client --output yaml | \
         kubectl apply --filename - (FILE contains what \"headscale preauthkeys create\" printed)",
        facts.namespace_name()
    )
}

fn form(facts: &Facts, reference: &Injected<'_>, value: &[u8]) -> CheckFinding {
    let mend = || {
        if reference.own_key {
            put(facts, reference)
        } else {
            facts.rotate(reference)
        }
    };
    let ok = |text: &str| CheckFinding::ok(VALUE, text.to_owned());
    let finding = match kind_of_key(value) {
        KeyKind::Headscale => ok("a well-formed pre-auth key of Headscale"),
        KeyKind::OldHeadscale => ok("a well-formed pre-auth key of Headscale before 0.28"),
        KeyKind::Cut { length } => {
            let text = format!(
                "begins like a pre-auth key of Headscale but has {length} characters, want 88: it was truncated or changed"
            );
            CheckFinding::fail(VALUE, text, mend())
        }
        KeyKind::Tailscale if logs_in_there(facts) => {
            ok("a pre-auth key of Tailscale, as its server expects")
        }
        KeyKind::Tailscale => {
            let text =
                "is a key of Tailscale's own service, which Headscale does not know".to_owned();
            CheckFinding::fail(VALUE, text, mend())
        }
        KeyKind::Unknown => CheckFinding::warn(VALUE, "of an unknown form".to_owned()),
        KeyKind::None(what) => CheckFinding::fail(
            VALUE,
            format!("cannot be a pre-auth key: it {what}"),
            mend(),
        ),
    };
    let spaced = value.trim_ascii().len() < value.len();
    if spaced && finding.result == super::super::facts::Level::Ok {
        let text = format!("{}, with white space around it", finding.text);
        return CheckFinding::warn(VALUE, text).then(mend());
    }
    finding
}

/// Whether the sidecar logs in to Tailscale's own service.
fn logs_in_there(facts: &Facts) -> bool {
    let arguments = facts.variable("TS_EXTRA_ARGS").unwrap_or_default();
    let mut servers = arguments
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--login-server="));
    servers.all(is_tailscales)
}

/// Returns the key's age and expiration, from its record.
fn age(facts: &Facts, reference: &Injected<'_>, record: &Record) -> CheckFinding {
    let key = record.keys.get(&*reference.data_key);
    if let Some(id) = key.and_then(|key| key.joined_with) {
        let text = format!(
            "the pod joined with its own key {}, which is no longer needed",
            id.0
        );
        return CheckFinding::ok(KEY, text);
    }
    let Some(key) = key.and_then(|key| key.current.as_ref()) else {
        let text = "no record names this key, so it was added manually: Sidescale keeps it if it is valid, and replaces it if not".to_owned();
        return CheckFinding::warn(KEY, text).then(facts.rotate(reference));
    };
    let IssuedKey {
        id,
        created,
        expires,
        ..
    } = key;
    let now = facts.now;
    let old = span(now.duration_since(*created));
    if *expires <= now {
        let text = format!(
            "key {} is {old} old and expired {} ago",
            id.0,
            span(now.duration_since(*expires))
        );
        return CheckFinding::fail(KEY, text, facts.rotate(reference));
    }
    let text = format!(
        "key {} is {old} old, expires in {}",
        id.0,
        span(expires.duration_since(now))
    );
    let Some(due) = due(facts, reference, *expires) else {
        return CheckFinding::ok(KEY, text);
    };
    let late = now.duration_since(due);
    if late.is_negative() {
        CheckFinding::ok(KEY, format!("{text}, due for renewal in {}", span(late)))
    } else if late < LATE {
        CheckFinding::ok(KEY, format!("{text}, due for renewal now"))
    } else {
        let text = format!("{text}; its renewal was due {} ago", span(late));
        CheckFinding::warn(KEY, text).then(facts.logs.clone())
    }
}

/// Returns when rotation renews it: repeats the webhook's own decision.
fn due(facts: &Facts, reference: &Injected<'_>, expires: Timestamp) -> Option<Timestamp> {
    let demand = demand(facts, reference)?;
    let buffer = SignedDuration::try_from(demand.buffer).ok()?;
    expires.checked_sub(buffer).ok()
}

fn demand(facts: &Facts, reference: &Injected<'_>) -> Option<KeyDemand> {
    let (policy, namespace) = (facts.policy.seen()?, facts.namespace.seen()?);
    let namespaces = Namespaces::default();
    namespaces.insert(facts.namespace_name(), namespace.clone());
    let own = &facts.pod.metadata;
    let mut pods = facts.injected.seen().cloned().unwrap_or_default();
    if pods.iter().all(|pod| pod.uid != own.uid) {
        pods.push(own.clone());
    }
    let demands = pods::demands_of(pods, &namespaces, policy);
    let secrets = &demands.get(facts.namespace_name())?.secrets;
    secrets
        .get(&*reference.secret)?
        .get(&*reference.data_key)
        .cloned()
}

//! Selects the profile and control plane of a pod, and checks that its namespace may name them. Pure.

use super::asked::{Annotation, Asked};
use super::{Caller, DenyReason, Refusal, Subject};
use crate::profile::{ControlPlaneSettings, DEFAULT, NamespaceScope, Policy, Profile};

/// Returns the profile: the one named, else the one that selects such pods, else the default.
pub(super) fn profile<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    policy: &'a Policy,
) -> Result<(&'a str, &'a Profile), Refusal> {
    let open = |name: &str, profile: &Profile| may_name(subject, name, profile.namespaces.as_ref());
    if let Some(name) = subject.profile {
        let entry = policy.profiles.get_key_value(name);
        let entry =
            entry.filter(|(name, profile)| open(name, profile) || selects(subject, profile));
        return entry
            .map(|(name, profile)| (name.as_str(), profile))
            .ok_or_else(|| not_open("profile", name, subject));
    }
    let Some(value) = asked.get(Annotation::Profile) else {
        return selected(subject, policy);
    };
    let entry = policy.profiles.get_key_value(value.text);
    let entry = entry.filter(|(name, profile)| open(name, profile));
    entry
        .map(|(name, profile)| (name.as_str(), profile))
        .ok_or_else(|| {
            let all = policy.profiles.iter();
            let listed = |profile: &Profile| may_list(subject, profile.namespaces.as_ref());
            let names = all.filter(|(name, profile)| open(name, profile) && listed(profile));
            let names = names.map(|(name, _)| name.as_str());
            not_one_of(
                subject,
                asked,
                Annotation::Profile,
                "profiles",
                names.collect(),
            )
        })
}

/// Returns the profile that selects pods with these labels, else the default.
fn selected<'a>(
    subject: &Subject<'_>,
    policy: &'a Policy,
) -> Result<(&'a str, &'a Profile), Refusal> {
    let mut found: Option<(&str, &Profile)> = None;
    if subject.namespace_opted_in && policy.has_pod_selectors() {
        for (name, profile) in &policy.profiles {
            if !is_for(subject, profile) {
                continue;
            }
            if let Some((first, other)) = found {
                let listed = |profile: &Profile| may_list(subject, profile.namespaces.as_ref());
                let which = if listed(other) && listed(profile) {
                    format!("profiles {first:?} and {name:?}")
                } else {
                    "two profiles".to_owned()
                };
                let message = format!(
                    "{which} both select this pod with their podSelector: set annotation \"sidescale.io/profile\" to one of them, or ask the operator to change the selectors"
                );
                return Err(Refusal {
                    reason: DenyReason::NotAllowed,
                    message,
                });
            }
            found = Some((name, profile));
        }
    }
    let default = || {
        let entry = policy.profiles.get_key_value(DEFAULT);
        let entry = entry.map(|(name, profile)| (name.as_str(), profile));
        entry.filter(|(name, profile)| may_name(subject, name, profile.namespaces.as_ref()))
    };
    found
        .or_else(default)
        .ok_or_else(|| not_open("profile", DEFAULT, subject))
}

/// Returns whether an existing pod may have the profile by its labels: a forged receipt gets no more than they allow.
fn selects(subject: &Subject<'_>, profile: &Profile) -> bool {
    let metadata = subject.namespace_metadata;
    let label = metadata.and_then(|metadata| metadata.inject.as_deref());
    matches!(label, Some("tailscale" | "true")) && is_for(subject, profile)
}

/// Returns whether the profile selects pods of this namespace with these labels.
fn is_for(subject: &Subject<'_>, profile: &Profile) -> bool {
    let meant = |namespaces: &NamespaceScope| {
        namespaces.hold(subject.namespace, subject.namespace_metadata)
    };
    let selector = profile.pod_selector.as_ref();
    selector.is_some_and(|selector| selector.selects(subject.labels))
        && profile.namespaces.as_ref().is_none_or(meant)
}

/// Returns the control plane by name; only configured ones exist.
pub(super) fn control_plane<'a>(
    subject: &Subject<'_>,
    asked: &Asked<'a>,
    profile: &Profile,
    policy: &'a Policy,
) -> Result<(&'a str, &'a ControlPlaneSettings), Refusal> {
    let value = asked.get(Annotation::ControlPlane);
    let name = value.map_or(DEFAULT, |value| value.text);
    // A value set by the operator needs no permission.
    let by_profile = profile.default_of("control-plane") == Some(name);
    let open = |name: &str, plane: &ControlPlaneSettings| {
        by_profile || may_name(subject, name, plane.namespaces.as_ref())
    };
    let entry = policy.control_planes.get_key_value(name);
    let entry = entry.filter(|(name, plane)| open(name, plane));
    entry
        .map(|(name, plane)| (name.as_str(), plane))
        .ok_or_else(|| {
            if value.is_none() {
                return not_open("control plane", name, subject);
            }
            let all = policy.control_planes.iter();
            let listed =
                |plane: &ControlPlaneSettings| may_list(subject, plane.namespaces.as_ref());
            let names = all.filter(|(name, plane)| open(name, plane) && listed(plane));
            let names = names.map(|(name, _)| name.as_str());
            not_one_of(
                subject,
                asked,
                Annotation::ControlPlane,
                "control planes",
                names.collect(),
            )
        })
}

/// Returns whether the pod's namespace may name it: only the default is open to all without configuration.
fn may_name(subject: &Subject<'_>, name: &str, namespaces: Option<&NamespaceScope>) -> bool {
    match namespaces {
        // The configuration is being checked, for any namespace.
        _ if subject.namespace.is_empty() => true,
        Some(namespaces) => namespaces.hold(subject.namespace, subject.namespace_metadata),
        None => name == DEFAULT,
    }
}

/// Returns whether a message may list it for its reader: without a list of namespaces it depends on none.
pub(super) fn may_list(subject: &Subject<'_>, namespaces: Option<&NamespaceScope>) -> bool {
    match subject.caller {
        Caller::Verified => true,
        Caller::Unverified => namespaces.is_none(),
    }
}

fn not_one_of(
    subject: &Subject<'_>,
    asked: &Asked<'_>,
    key: Annotation,
    what: &str,
    names: Vec<&str>,
) -> Refusal {
    let names = match names[..] {
        [] => "none".to_owned(),
        _ => names.join(", "),
    };
    let namespace = subject.namespace;
    let want = match subject.caller {
        _ if namespace.is_empty() => format!("want one of the configured {what}: {names}"),
        Caller::Verified => {
            format!("want one of the {what} that are open to namespace {namespace:?}: {names}")
        }
        Caller::Unverified => format!(
            "want one of the {what} that are open to all: {names}; or one that the operator opened to namespace {namespace:?}"
        ),
    };
    asked.refuse(DenyReason::NotAllowed, key, &want)
}

fn not_open(what: &str, name: &str, subject: &Subject<'_>) -> Refusal {
    let message = format!(
        "{what} {name:?} is not open to namespace {:?}: set annotation \"sidescale.io/{}\" to one that is, or ask the operator to add the namespace to it",
        subject.namespace,
        what.replace(' ', "-")
    );
    Refusal {
        reason: DenyReason::NotAllowed,
        message,
    }
}

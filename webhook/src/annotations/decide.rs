//! Metadata and policy -> the decision on a pod. Pure.

use super::asked::{Annotation as Name, Asked};
use super::key::KeyNames;
use super::{
    AuthKeyRef, Caller, Decision, DenyReason, Injection, Kinds, NamespaceMetadata, Refusal,
    SkipReason, Subject, Tailscale, choose, headscale, key, kinds, network, read, state,
};
use crate::identity::{self, WorkloadOwner};
use crate::keys::PREFIX;
use crate::profile::{DEFAULT, Policy, Profile};
use crate::quote;

const TAILSCALE: Kinds = Kinds {
    tailscale: true,
    apikey_manager: false,
    server_keys: false,
};

/// Decides from metadata alone; the webhook adds what depends on the pod's spec.
#[must_use]
pub fn decide<'a>(subject: &Subject<'a>, policy: &'a Policy) -> Decision<'a> {
    let label = subject
        .namespace_metadata
        .and_then(|metadata| metadata.inject.as_deref());
    if matches!(label, Some("disabled" | "false")) {
        return Decision::Skip(SkipReason::Disabled);
    }
    let mut asked = Asked::of(subject);
    let (kinds, on_pod) = match kinds::inject(&asked) {
        Ok(Some(kinds)) if kinds.is_empty() => return Decision::Skip(SkipReason::Disabled),
        Ok(Some(kinds)) => (kinds, true),
        Ok(None) if subject.namespace_opted_in => (TAILSCALE, false),
        Ok(None) => return Decision::Skip(SkipReason::NotRequested),
        Err(refusal) => return refused(refusal, policy, DEFAULT),
    };
    if let Err(refusal) = asked.refuse_what_is_too_long() {
        return refused(refusal, policy, DEFAULT);
    }
    let (profile_name, profile) = match choose::profile(subject, &asked, policy) {
        Ok(chosen) => chosen,
        Err(refusal) => return refused(refusal, policy, DEFAULT),
    };
    asked.fill(profile_name, &profile.defaults);
    if !choose::may_list(subject, profile.namespaces.as_ref()) {
        asked.withhold();
    }
    let service = match service(subject, &asked) {
        _ if !kinds.tailscale => None,
        Ok(None) if on_pod => return refused(no_service(subject), policy, profile_name),
        Ok(None) => return Decision::Skip(SkipReason::NoService),
        Ok(service) => service,
        Err(refusal) => return refused(refusal, policy, profile_name),
    };
    match injection(
        subject,
        &asked,
        kinds,
        service,
        (profile_name, profile),
        policy,
    ) {
        Ok(injection) => Decision::Inject(Box::new(injection)),
        Err(refusal) => refused(refusal, policy, profile_name),
    }
}

fn refused<'a>(refusal: Refusal, policy: &Policy, profile: &str) -> Decision<'a> {
    if policy.tolerates(profile) {
        Decision::Warn(refusal)
    } else {
        Decision::Deny(refusal)
    }
}

/// Reads a profile's defaults as if a pod asked for nothing else.
pub(crate) fn check_defaults(
    name: &str,
    profile: &Profile,
    policy: &Policy,
) -> Result<(), Refusal> {
    let nothing = NamespaceMetadata::default();
    let subject = Subject {
        namespace: "",
        name: "",
        annotations: &nothing,
        labels: &nothing,
        // Every annotation can be valid only for pods of a StatefulSet.
        owner: Some(WorkloadOwner {
            kind: "StatefulSet",
            name: "any",
        }),
        namespace_metadata: None,
        namespace_opted_in: true,
        profile: None,
        caller: Caller::Verified,
        request: "",
    };
    let mut asked = Asked::of(&subject);
    asked.fill(name, &profile.defaults);
    let mut remarks = Vec::new();
    tailscale(&subject, &asked, "any", profile, policy, &mut remarks)?;
    headscale::apikey_manager(subject.namespace, &asked, policy, &mut remarks)?;
    headscale::server_keys(&asked)?;
    Ok(())
}

fn service<'a>(subject: &Subject<'a>, asked: &Asked<'a>) -> Result<Option<&'a str>, Refusal> {
    if let Some(value) = asked.get(Name::Service) {
        let fits = identity::is_service(value.text);
        return if fits {
            Ok(Some(value.text))
        } else {
            Err(asked.bad(Name::Service, read::SERVICE))
        };
    }
    let hashes = ["pod-template-hash", "rollouts-pod-template-hash"]
        .map(|label| subject.labels.value(label));
    Ok(identity::service(subject.owner, subject.name, hashes)
        .filter(|name| identity::is_service(name)))
}

fn no_service(subject: &Subject<'_>) -> Refusal {
    let found = match subject.owner {
        Some(WorkloadOwner { kind, name }) => {
            format!("its owner is {} {}", quote::line(kind), quote::shown(name))
        }
        None if subject.name.is_empty() => {
            "it has no owner, and its name is not generated yet".to_owned()
        }
        None => format!(
            "it has no owner, and {} is too long or not a DNS name",
            quote::shown(subject.name)
        ),
    };
    let message = format!(
        "no service name can be derived from this pod ({found}): set annotation \"{PREFIX}service\" to {}",
        read::SERVICE.trim_start_matches("want ")
    );
    Refusal {
        reason: DenyReason::NoService,
        message,
    }
}

fn injection<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    kinds: Kinds,
    service: Option<&'a str>,
    (profile_name, profile): (&'a str, &'a Profile),
    policy: &'a Policy,
) -> Result<Injection<'a>, Refusal> {
    asked.refuse_what_is_not_built()?;
    let mut remarks = Vec::new();
    let tailscale = match service {
        Some(service) => Some(tailscale(
            subject,
            asked,
            service,
            profile,
            policy,
            &mut remarks,
        )?),
        None => None,
    };
    let apikey_manager = if kinds.apikey_manager {
        let namespace = subject.namespace;
        Some(headscale::apikey_manager(
            namespace,
            asked,
            policy,
            &mut remarks,
        )?)
    } else {
        None
    };
    let server_keys = if kinds.server_keys {
        Some(headscale::server_keys(asked)?)
    } else {
        None
    };
    Ok(Injection {
        profile: profile_name,
        profile_hash: &profile.hash,
        tailscale,
        apikey_manager,
        server_keys,
        pull_secrets: &profile.image_pull_secrets,
        remarks,
    })
}

fn tailscale<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    service: &'a str,
    profile: &'a Profile,
    policy: &'a Policy,
    remarks: &mut Vec<String>,
) -> Result<Tailscale<'a>, Refusal> {
    let (control_plane, plane) = choose::control_plane(subject, asked, profile, policy)?;
    let (delivery, delivery_asked) = read::delivery(asked)?;
    read::only_what_is_built(asked)?;
    let state = state::state(subject, asked)?;
    let names = KeyNames {
        service,
        control_plane,
        plane,
    };
    let bounds = (profile, &policy.rotation);
    let key = key::key(subject, asked, state, names, bounds, remarks)?;
    if let (AuthKeyRef::Given { secret, .. }, Some(_)) = (&key, &plane.ca_bundle) {
        remarks.push(format!(
            "annotation '{PREFIX}auth-key-secret' names Secret '{}', and the control plane has a private certificate authority: add that authority's PEM to the Secret as 'ca.crt', or the pod does not start",
            quote::line(secret)
        ));
    }
    let (native, wait) = read::start(asked)?;
    if !native && subject.owner.is_some_and(|owner| owner.kind == "Job") {
        remarks.push(
            "annotation 'sidescale.io/native-sidecar' is 'false': an ordinary container keeps the Job from completing, remove the annotation"
                .to_owned(),
        );
    }
    let (proxy, proxy_env) = network::proxy(asked)?;
    Ok(Tailscale {
        control_plane,
        login_server: &plane.login_server,
        private_ca: plane.ca_bundle.is_some(),
        service,
        hostname: read::hostname(subject, asked, service)?,
        key,
        delivery,
        delivery_asked,
        state,
        native,
        wait,
        accept_dns: asked.switch(Name::AcceptDns)?.unwrap_or(false),
        accept_routes: asked.switch(Name::AcceptRoutes)?.unwrap_or(false),
        extra_args: network::extra_args(asked, profile)?,
        proxy,
        proxy_env,
        image: read::image(asked, profile)?,
        resources: read::resources(asked, read::TAILSCALE)?,
        overlay: &profile.overlay,
    })
}

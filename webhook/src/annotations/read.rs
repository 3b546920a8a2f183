//! One function per kind of value: returns what was asked, within what the profile allows, or a refusal. Pure.

use std::borrow::Cow;

use super::asked::{Allowed, Annotation, Asked, ValuePlace};
use super::{DenyReason, Refusal, Subject};
use crate::forms;
use crate::identity::{self, Hostname, TemplateNames};
use crate::profile::{Delivery, Profile, Resources};
use crate::quote;

pub(super) const SERVICE: &str = "want a name of lower-case letters, digits, dashes and dots, at most 200 characters, such as api";
const HOSTNAME: &str = "want lower-case letters, digits, dashes, dots, {service}, {namespace}, {pod} and {node}, such as {service}-{namespace}";
const TAGS: &str = "want tags such as tag:web,tag:prod, in lower case";

/// Requests and limits of a Tailscale sidecar: CPU, then memory.
pub(super) const TAILSCALE: [(&str, &str); 2] = [("50m", "200m"), ("128Mi", "256Mi")];

/// Returns the key's tags, each allowed by the profile.
pub(super) fn tags(asked: &Asked<'_>, profile: &Profile) -> Result<Vec<String>, Refusal> {
    let Some(value) = asked.get(Annotation::Tags) else {
        return Ok(Vec::new());
    };
    // The profile's own tags need no permission.
    let by_profile = profile.default_of("tags").unwrap_or_default();
    let by_profile = || {
        by_profile
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
    };
    let mut tags: Vec<String> = Vec::new();
    for tag in value.text.split(',').map(str::trim) {
        if !forms::is_tag(tag) {
            return Err(asked.bad(Annotation::Tags, TAGS));
        }
        let allowed = profile.allowed_tags.iter().map(String::as_str);
        let allowed = || allowed.clone().chain(by_profile());
        if !allowed().any(|allowed| allowed == tag) {
            let allowed = match asked.allowed(allowed()) {
                Allowed::Nothing => "the profile allows none: remove the annotation".to_owned(),
                Allowed::These(list) => {
                    format!("the profile allows {list}: use one of these")
                }
                Allowed::Withheld => "the profile allows others".to_owned(),
            };
            let want = format!(
                "{} is not allowed; {allowed}, or ask the operator to add it to profiles.{}.allowedTags",
                quote::redacted(tag),
                asked.profile()
            );
            return Err(asked.refuse(DenyReason::NotAllowed, Annotation::Tags, &want));
        }
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    Ok(tags)
}

/// Returns how the key reaches the sidecar, and whether the pod itself asks for it.
pub(super) fn delivery(asked: &Asked<'_>) -> Result<(Delivery, bool), Refusal> {
    let Some(value) = asked.get(Annotation::Delivery) else {
        return Ok((Delivery::Env, false));
    };
    let delivery = Delivery::read(value.text)
        .ok_or_else(|| asked.bad(Annotation::Delivery, "want env or file"))?;
    Ok((delivery, value.on_pod()))
}

/// Refuses values of the table that are not built yet.
pub(super) fn only_what_is_built(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.switch(Annotation::Userspace)? == Some(false) {
        return Err(asked.refuse(
            DenyReason::NotSupported,
            Annotation::Userspace,
            "not supported yet, want true",
        ));
    }
    Ok(())
}

/// Returns whether the sidecar is a native one, and whether the app waits for it.
pub(super) fn start(asked: &Asked<'_>) -> Result<(bool, bool), Refusal> {
    let native = asked.switch(Annotation::NativeSidecar)?.unwrap_or(true);
    let wait = asked.switch(Annotation::Wait)?.unwrap_or(false);
    if wait && !native {
        let want =
            "an app can wait only for a native sidecar: want true, or remove sidescale.io/wait";
        return Err(asked.bad(Annotation::NativeSidecar, want));
    }
    Ok((native, wait))
}

/// Returns the image, if the profile allows it.
pub(super) fn image<'a>(asked: &Asked<'a>, profile: &'a Profile) -> Result<&'a str, Refusal> {
    let Some(value) = asked.get(Annotation::Image) else {
        return Ok(&profile.image);
    };
    let image = value.text;
    if !forms::is_image(image) {
        return Err(asked.bad(Annotation::Image, forms::IMAGE));
    }
    let allows = |allowed: &String| match allowed.strip_suffix('*') {
        // After the beginning of a tag or digest nothing can make it a different image.
        Some(beginning) => image
            .strip_prefix(beginning)
            .is_some_and(|rest| beginning.ends_with('/') || !rest.contains('/')),
        None => image == allowed,
    };
    if value.place == ValuePlace::Profile
        || image == profile.image
        || profile.allowed_images.iter().any(allows)
    {
        return Ok(image);
    }
    let images = profile.allowed_images.iter().map(String::as_str);
    let allowed = match asked.allowed(images) {
        Allowed::Nothing => "only its own: remove the annotation".to_owned(),
        Allowed::These(list) => list,
        Allowed::Withheld => "others".to_owned(),
    };
    let want = format!(
        "the profile allows {allowed}, or ask the operator to add it to profiles.{}.allowedImages",
        asked.profile()
    );
    Err(asked.refuse(DenyReason::NotAllowed, Annotation::Image, &want))
}

/// Returns the hostname in the tailnet.
pub(super) fn hostname<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    service: &'a str,
) -> Result<Hostname<'a>, Refusal> {
    let names = TemplateNames {
        service,
        namespace: subject.namespace,
        pod: subject.name,
    };
    if let Some(value) = asked.get(Annotation::Hostname) {
        if !identity::is_hostname_template(value.text) {
            return Err(asked.bad(Annotation::Hostname, HOSTNAME));
        }
        return Ok(identity::hostname(value.text, names));
    }
    let of_stateful_set = subject
        .owner
        .is_some_and(|owner| owner.kind == "StatefulSet");
    let default = if of_stateful_set {
        "{pod}"
    } else {
        "{service}"
    };
    Ok(identity::hostname(default, names))
}

/// Returns the sidecar's requests and limits.
pub(super) fn resources<'a>(
    asked: &Asked<'a>,
    [cpu, memory]: [(&'static str, &'static str); 2],
) -> Result<Resources<'a>, Refusal> {
    let quantity = |key, default: &'a str, want| {
        let Some(value) = asked.get(key) else {
            return Ok(default);
        };
        if forms::quantity(value.text).is_none_or(|amount| amount == 0) {
            return Err(asked.bad(key, want));
        }
        Ok(value.text)
    };
    let pair = |request,
                limit,
                defaults: (&'a str, &'a str),
                want|
     -> Result<(&'a str, &'a str), Refusal> {
        // Our defaults need no check.
        if asked.get(request).is_none() && asked.get(limit).is_none() {
            return Ok(defaults);
        }
        let (lower, upper) = (
            quantity(request, defaults.0, want)?,
            quantity(limit, defaults.1, want)?,
        );
        if forms::quantity(lower) <= forms::quantity(upper) {
            return Ok((lower, upper));
        }
        Err(match asked.get(request) {
            Some(_) => asked.bad(
                request,
                &format!("want no more than the limit, which is {upper}"),
            ),
            None => asked.bad(
                limit,
                &format!("want no less than the request, which is {lower}"),
            ),
        })
    };
    let cpu = pair(
        Annotation::CpuRequest,
        Annotation::CpuLimit,
        cpu,
        forms::CPU,
    )?;
    let memory = pair(
        Annotation::MemoryRequest,
        Annotation::MemoryLimit,
        memory,
        forms::MEMORY,
    )?;
    Ok(Resources {
        cpu_request: Cow::Borrowed(cpu.0),
        cpu_limit: Cow::Borrowed(cpu.1),
        memory_request: Cow::Borrowed(memory.0),
        memory_limit: Cow::Borrowed(memory.1),
    })
}

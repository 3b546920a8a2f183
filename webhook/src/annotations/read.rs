//! One function per kind of value: what was asked, within what the profile allows, or a refusal. Pure.

use std::borrow::Cow;
use std::time::Duration;

use super::asked::{Asked, Key, Place, Value};
use super::{DenyReason, PREFIX, Refusal, SHORTEST_LIFE, Subject};
use crate::forms;
use crate::identity::{self, Hostname, Names};
use crate::profile::{Delivery, Profile, Resources};

pub(super) const SERVICE: &str =
    "want a name of lower-case letters, digits, dashes and dots, at most 200, such as api";
const HOSTNAME: &str = "want lower-case letters, digits, dashes, dots, {service}, {namespace}, {pod} and {node}, such as {service}-{namespace}";
const TAGS: &str = "want tags such as tag:web,tag:prod, in lower case";

/// Is what a Tailscale sidecar requests and may use: CPU, then memory.
pub(super) const TAILSCALE: [(&str, &str); 2] = [("50m", "200m"), ("128Mi", "256Mi")];

const EXPIRATION: Duration = Duration::from_secs(2160 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const BUFFER: Duration = Duration::from_secs(240 * 3600);

/// How long a key lives, how long before its end it is renewed, and what is to be said of it.
pub(super) struct Life<'a> {
    pub(super) expiration: Duration,
    pub(super) buffer: Duration,
    /// The buffer as its author wrote it, where that is not the operator.
    asked: Option<(&'static str, &'a str)>,
    /// The life as its author wrote it, where it is more than a year.
    long: Option<(&'static str, &'a str)>,
    /// What of its author's words has no effect.
    vain: Option<String>,
}

impl Life<'_> {
    /// A remark where the key is renewed sooner than its author can have meant.
    pub(super) fn remark(&self) -> Option<String> {
        if self.vain.is_some() {
            return self.vain.clone();
        }
        if let Some((name, text)) = self.long {
            return Some(format!(
                "annotation '{PREFIX}{name}' is '{text}': a key that is stolen stays good for more than a year, 2160h is usual"
            ));
        }
        let (name, text) = self.asked?;
        let often = self.expiration.saturating_sub(self.buffer);
        (often < self.buffer).then(|| format!(
            "annotation '{PREFIX}{name}' is '{text}': with a life of {} the key is renewed every {}, a buffer of less than half its life is usual",
            forms::show(self.expiration),
            forms::show(often)
        ))
    }
}

/// The key's tags, each allowed by the profile.
pub(super) fn tags(asked: &Asked<'_>, profile: &Profile) -> Result<Vec<String>, Refusal> {
    let Some(value) = asked.get(Key::Tags) else {
        return Ok(Vec::new());
    };
    // What the profile itself gives needs no leave.
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
            return Err(asked.bad(Key::Tags, TAGS));
        }
        let allowed = profile.allowed_tags.iter().map(String::as_str);
        let allowed = || allowed.clone().chain(by_profile());
        if !allowed().any(|allowed| allowed == tag) {
            let allowed: Vec<&str> = allowed().collect();
            let allowed = match allowed[..] {
                [] => "the profile allows none: remove the annotation".to_owned(),
                _ => format!(
                    "the profile allows {}: ask for one of these",
                    allowed.join(", ")
                ),
            };
            let want = format!(
                "{tag} is not allowed; {allowed}, or have the operator add it to profiles.{}.allowedTags",
                asked.profile()
            );
            return Err(asked.refuse(DenyReason::NotAllowed, Key::Tags, &want));
        }
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    Ok(tags)
}

/// The life of a key, by the keys of its length and of its buffer.
pub(super) fn life<'a>(asked: &Asked<'a>, keys: [Key; 2]) -> Result<Life<'a>, Refusal> {
    let [life, before] = keys;
    let duration = |key, default| {
        let Some(value) = asked.get(key) else {
            return Ok(default);
        };
        forms::duration(value.text).ok_or_else(|| asked.bad(key, forms::DURATION))
    };
    let expiration = duration(life, EXPIRATION)?;
    let buffer = duration(before, BUFFER)?;
    if expiration < SHORTEST_LIFE {
        return Err(asked.bad(
            life,
            &format!("want at least {}", forms::show(SHORTEST_LIFE)),
        ));
    }
    let by_author = |key: Key| {
        let value = asked.get(key);
        let value = value.filter(|value| value.place != Place::Profile);
        value.map(|value| (key.name(), value.text))
    };
    if buffer < expiration {
        return Ok(Life {
            expiration,
            buffer,
            asked: by_author(before),
            long: by_author(life).filter(|_| expiration > YEAR),
            vain: None,
        });
    }
    if asked.get(before).is_some() {
        let want = format!(
            "want less than the key's life of {}",
            forms::show(expiration)
        );
        return Err(asked.bad(before, &want));
    }
    let want = format!(
        "not more than the rotation buffer of {}: set \"{PREFIX}{}\" to less",
        forms::show(buffer),
        before.name()
    );
    Err(asked.bad(life, &want))
}

/// The life of a key that one pod uses once, by the key of its length: no longer than `most`, renewed in its last third.
pub(super) fn short_life<'a>(
    asked: &Asked<'a>,
    key: Key,
    most: Duration,
) -> Result<Life<'a>, Refusal> {
    let value = asked.get(key);
    let given = match value {
        Some(value) => {
            forms::duration(value.text).ok_or_else(|| asked.bad(key, forms::DURATION))?
        }
        None => most,
    };
    if given < SHORTEST_LIFE {
        let want = format!("want at least {}", forms::show(SHORTEST_LIFE));
        return Err(asked.bad(key, &want));
    }
    let vain = |value: &Value<'_>| {
        format!(
            "annotation '{PREFIX}{}' is '{}': a key of one pod lives {} at most, and is renewed until the pod has joined",
            key.name(),
            value.text,
            forms::show(most)
        )
    };
    let expiration = given.min(most);
    Ok(Life {
        expiration,
        buffer: expiration / 3,
        asked: None,
        long: None,
        vain: value
            .filter(|value| value.on_pod() && given > most)
            .as_ref()
            .map(vain),
    })
}

/// How the key reaches the sidecar, and whether the pod itself says so.
pub(super) fn delivery(asked: &Asked<'_>) -> Result<(Delivery, bool), Refusal> {
    let Some(value) = asked.get(Key::Delivery) else {
        return Ok((Delivery::Env, false));
    };
    let delivery =
        Delivery::read(value.text).ok_or_else(|| asked.bad(Key::Delivery, "want env or file"))?;
    Ok((delivery, value.on_pod()))
}

/// Refuses values of the table that are not built yet.
pub(super) fn only_what_is_built(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.switch(Key::Userspace)? == Some(false) {
        return Err(asked.refuse(
            DenyReason::NotSupported,
            Key::Userspace,
            "not supported yet, want true",
        ));
    }
    Ok(())
}

/// Whether the sidecar is a native one, and whether the app waits for it.
pub(super) fn start(asked: &Asked<'_>) -> Result<(bool, bool), Refusal> {
    let native = asked.switch(Key::NativeSidecar)?.unwrap_or(true);
    let wait = asked.switch(Key::Wait)?.unwrap_or(false);
    if wait && !native {
        let want =
            "an app can wait for a native sidecar alone: want true, or remove sidescale.io/wait";
        return Err(asked.bad(Key::NativeSidecar, want));
    }
    Ok((native, wait))
}

/// The image, where the profile allows it.
pub(super) fn image<'a>(asked: &Asked<'a>, profile: &'a Profile) -> Result<&'a str, Refusal> {
    let Some(value) = asked.get(Key::Image) else {
        return Ok(&profile.image);
    };
    let image = value.text;
    if !forms::is_image(image) {
        return Err(asked.bad(Key::Image, forms::IMAGE));
    }
    let allows = |allowed: &String| match allowed.strip_suffix('*') {
        Some(beginning) => image.starts_with(beginning),
        None => image == allowed,
    };
    if value.place == Place::Profile
        || image == profile.image
        || profile.allowed_images.iter().any(allows)
    {
        return Ok(image);
    }
    let allowed = match &profile.allowed_images[..] {
        [] => "none but its own: remove the annotation".to_owned(),
        allowed => allowed.join(", "),
    };
    let want = format!(
        "the profile allows {allowed}, or have the operator add it to profiles.{}.allowedImages",
        asked.profile()
    );
    Err(asked.refuse(DenyReason::NotAllowed, Key::Image, &want))
}

/// The name in the tailnet.
pub(super) fn hostname<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    service: &'a str,
) -> Result<Hostname<'a>, Refusal> {
    let names = Names {
        service,
        namespace: subject.namespace,
        pod: subject.name,
    };
    if let Some(value) = asked.get(Key::Hostname) {
        if !identity::is_hostname_template(value.text) {
            return Err(asked.bad(Key::Hostname, HOSTNAME));
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

/// The sidecar's requests and limits.
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
        // Our own need no look.
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
    let cpu = pair(Key::CpuRequest, Key::CpuLimit, cpu, forms::CPU)?;
    let memory = pair(Key::MemoryRequest, Key::MemoryLimit, memory, forms::MEMORY)?;
    Ok(Resources {
        cpu_request: Cow::Borrowed(cpu.0),
        cpu_limit: Cow::Borrowed(cpu.1),
        memory_request: Cow::Borrowed(memory.0),
        memory_limit: Cow::Borrowed(memory.1),
    })
}

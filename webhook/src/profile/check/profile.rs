//! One profile of the configuration. Pure.

use sha2::{Digest, Sha256};

use super::value::{self, checked_image, selector, value};
use crate::annotations::{KNOWN, Support, is_argument, of_ours};
use crate::forms;
use crate::identity::POD_SECRET;
use crate::profile::config::NOT_OF_A_PROFILE;
use crate::profile::{
    ContainerOverride, IMAGE, OnInvalid, Overlay, PolicyError, Profile, ProfileConfig,
};

const TAGS: &str = "want tags such as tag:web, in lower case";

/// Checks one profile.
pub(super) fn profile(name: &str, config: ProfileConfig) -> Result<Profile, PolicyError> {
    let ProfileConfig {
        image,
        allowed_tags,
        allowed_images,
        allowed_extra_args,
        max_auth_key_expiration,
        auth_key_secret_name,
        image_pull_secrets,
        namespaces,
        pod_selector,
        on_invalid,
        container_override,
        annotations,
    } = config;
    let path = |key: &str| format!("profiles.{name}.{key}");
    let mut profile = Profile {
        image: match image {
            Some(image) => checked_image(path("image"), image, IMAGE)?,
            None => IMAGE.to_owned(),
        },
        allowed_tags: all(path("allowedTags"), allowed_tags, forms::is_tag, TAGS)?,
        allowed_images: allowed_images
            .into_iter()
            .map(|image| beginning(path("allowedImages"), image))
            .collect::<Result<_, _>>()?,
        allowed_extra_args: allowed_extra_args
            .iter()
            .map(|argument| extra_arg(path("allowedExtraArgs"), argument))
            .collect::<Result<_, _>>()?,
        image_pull_secrets: all(
            path("imagePullSecrets"),
            image_pull_secrets,
            |name| forms::is_dns_subdomain(name, 253),
            "want names of Secrets",
        )?,
        namespaces: namespaces
            .map(|config| value::namespaces(path("namespaces"), config))
            .transpose()?,
        pod_selector: pod_selector
            .map(|config| selector(&path("podSelector"), config))
            .transpose()?,
        on_invalid: checked_on_invalid(path("onInvalid"), on_invalid)?,
        overlay: overlay(&path("containerOverride."), container_override)?,
        ..Profile::default()
    };
    if let Some(name) = auth_key_secret_name {
        if !forms::is_dns_subdomain(&name, 253) {
            let want = "want the name of a Secret";
            return Err(value(path("authKeySecretName"), &name, want));
        }
        if name == POD_SECRET {
            let want = "that Secret is reserved for per-pod keys: want another name";
            return Err(value(path("authKeySecretName"), &name, want));
        }
        profile.auth_key_secret_name = name;
    }
    if let Some(text) = max_auth_key_expiration {
        let path = path("maxAuthKeyExpiration");
        let given = forms::duration(&text);
        profile.max_auth_key_expiration =
            given.ok_or_else(|| value(path, &text, forms::DURATION))?;
    }
    for (name, text) in annotations {
        annotation(&mut profile, &name, text, &path("annotations."))?;
    }
    let hash = Sha256::digest(format!("{profile:?}").as_bytes());
    profile.hash = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(profile)
}

fn overlay(base: &str, config: ContainerOverride) -> Result<Overlay, PolicyError> {
    let ContainerOverride {
        env,
        volume_mounts,
        liveness_probe,
        readiness_probe,
        security_context,
    } = config;
    let probes = [liveness_probe, readiness_probe];
    Overlay::checked(base, env, volume_mounts, probes, security_context)
}

fn checked_on_invalid(path: String, text: Option<String>) -> Result<OnInvalid, PolicyError> {
    match text.as_deref() {
        None | Some("deny") => Ok(OnInvalid::Deny),
        Some("warn") => Ok(OnInvalid::Warn),
        Some(other) => Err(value(path, other, "want deny or warn")),
    }
}

/// Fails at the first value not of the form.
fn all(
    path: String,
    values: Vec<String>,
    fits: impl Fn(&str) -> bool,
    want: &str,
) -> Result<Vec<String>, PolicyError> {
    match values.iter().find(|text| !fits(text)) {
        Some(wrong) => Err(value(path, wrong, want)),
        None => Ok(values),
    }
}

/// Returns an image, or a prefix that cannot match a longer name of a registry or a repository.
fn beginning(path: String, image: String) -> Result<String, PolicyError> {
    let whole = match image.strip_suffix('*') {
        Some(beginning) => forms::is_image(beginning) && beginning.ends_with(['/', ':', '@']),
        None => forms::is_image(&image),
    };
    if whole {
        return Ok(image);
    }
    let want = format!(
        "{}, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        forms::IMAGE
    );
    Err(value(path, &image, &want))
}

fn extra_arg(path: String, argument: &str) -> Result<String, PolicyError> {
    let name = argument.strip_prefix("--").unwrap_or(argument);
    if !is_argument(name) {
        let want = "want names of arguments of tailscale up, such as --shields-up";
        return Err(value(path, argument, want));
    }
    match of_ours(name) {
        Some(instead) => {
            let want = format!("it would override what Sidescale sets: {instead}");
            Err(value(path, argument, &want))
        }
        None => Ok(name.to_owned()),
    }
}

/// Sets the default of one annotation; its value is checked with all others, once the whole policy exists.
fn annotation(
    profile: &mut Profile,
    name: &str,
    text: String,
    base: &str,
) -> Result<(), PolicyError> {
    let path = format!("{base}{name}");
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    match known.map(|(_, support)| *support) {
        Some(Support::NotYet) => return Err(PolicyError::NotSupported { path }),
        Some(Support::Now) if NOT_OF_A_PROFILE.contains(&name) => {
            let want = "a profile cannot set this: set it on the pod";
            return Err(value(path, &text, want));
        }
        Some(Support::Now) => {}
        Some(Support::Ours) | None => {
            let now = KNOWN
                .iter()
                .filter(|(_, support)| *support == Support::Now)
                .map(|(known, _)| *known);
            return Err(PolicyError::unknown(path, name, now));
        }
    }
    profile.defaults.set(name, text);
    Ok(())
}

//! The configuration as written -> Policy, or an error that names the key, its value and what is accepted. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::config::Rest;
use super::{
    Config, ControlPlane, ControlPlaneConfig, DEFAULT, Delivery, Policy, Profile, ProfileConfig,
    Rotation, RotationConfig, SecretConfig, USER_TEMPLATE,
};
use crate::annotations::{KNOWN, SHORTEST_LIFE, Support};
use crate::forms;
use crate::identity::is_hostname_template;

/// Says what is wrong with a configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Something needed is not there.
    #[error("{path} is missing: want {want}")]
    Missing {
        /// Path of the key.
        path: String,
        /// What is accepted.
        want: &'static str,
    },
    /// A key of the design that is not built yet.
    #[error("{path} is not supported yet: remove it")]
    NotSupported {
        /// Path of the key.
        path: String,
    },
    /// A key that nothing knows.
    #[error("{path} is unknown: want one of {accepted}{}", meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default())]
    Unknown {
        /// Path of the key.
        path: String,
        /// The keys that stand beside it.
        accepted: String,
        /// The one that was probably meant.
        meant: Option<&'static str>,
    },
    /// A value that cannot be read or is not allowed.
    #[error("{path} is {value:?}: {want}")]
    Value {
        /// Path of the key.
        path: String,
        /// Its value.
        value: String,
        /// What is accepted.
        want: String,
    },
}

const URL: &str = "want a URL such as https://headscale.example.com";

pub(super) fn policy(config: Config) -> Result<Policy, ConfigError> {
    let Config {
        control_planes,
        profiles,
        rotation,
        rest,
    } = config;
    refuse(
        &rest,
        "",
        &["controlPlanes", "profiles", "rotation"],
        &["clusterName", "webhook"],
    )?;
    only_default("controlPlanes", &control_planes)?;
    only_default("profiles", &profiles)?;
    let plane = control_planes.into_values().next().unwrap_or_default();
    let profile = profiles.into_values().next().unwrap_or_default();
    Ok(Policy {
        control_planes: [(DEFAULT.to_owned(), control_plane(plane)?)].into(),
        profiles: [(DEFAULT.to_owned(), self::profile(profile)?)].into(),
        rotation: self::rotation(rotation)?,
    })
}

fn only_default<T>(path: &str, named: &BTreeMap<String, T>) -> Result<(), ConfigError> {
    match named.keys().find(|name| *name != DEFAULT) {
        Some(name) => Err(ConfigError::NotSupported {
            path: format!("{path}.{name}"),
        }),
        None => Ok(()),
    }
}

fn control_plane(config: ControlPlaneConfig) -> Result<ControlPlane, ConfigError> {
    let ControlPlaneConfig {
        login_server,
        api_url,
        api_key_secret,
        allow_insecure,
        ca_bundle,
        user_template,
        adopt_users,
        rest,
    } = config;
    let path = |key: &str| format!("controlPlanes.{DEFAULT}.{key}");
    let keys = [
        "loginServer",
        "apiUrl",
        "apiKeySecret",
        "allowInsecure",
        "caBundle",
        "userTemplate",
        "adoptUsers",
    ];
    refuse(&rest, &path(""), &keys, &["namespaces"])?;
    let Some(login_server) = login_server else {
        let want = "the URL that sidecars log in to, such as https://headscale.example.com";
        return Err(ConfigError::Missing {
            path: path("loginServer"),
            want,
        });
    };
    let login_server = url(path("loginServer"), login_server)?;
    let named = api_url.is_some();
    let api_url = url(
        path("apiUrl"),
        api_url.unwrap_or_else(|| login_server.clone()),
    )?;
    if api_url.starts_with("http://") && !allow_insecure {
        let key = if named { "apiUrl" } else { "loginServer" };
        let want = "the API key would be sent in the clear: want https://, or allowInsecure: true beside it";
        return Err(value(path(key), &api_url, want));
    }
    let (api_key_namespace, api_key_secret) = secret(api_key_secret, &path("apiKeySecret."))?;
    if let Some(pem) = &ca_bundle
        && !(pem.contains("-----BEGIN CERTIFICATE-----")
            && pem.contains("-----END CERTIFICATE-----"))
    {
        let want = "want certificates in PEM, from -----BEGIN CERTIFICATE----- on";
        return Err(value(
            path("caBundle"),
            &pem.chars().take(40).collect::<String>(),
            want,
        ));
    }
    let user_template = checked_user_template(path("userTemplate"), user_template)?;
    Ok(ControlPlane {
        login_server,
        api_url,
        api_key_namespace,
        api_key_secret,
        allow_insecure,
        ca_bundle,
        user_template,
        adopt_users,
    })
}

fn secret(config: SecretConfig, base: &str) -> Result<(String, String), ConfigError> {
    let SecretConfig {
        namespace,
        name,
        rest,
    } = config;
    refuse(&rest, base, &["namespace", "name"], &[])?;
    let namespace = namespace.unwrap_or_else(|| "headscale".to_owned());
    if !forms::is_dns_label(&namespace) {
        return Err(value(
            format!("{base}namespace"),
            &namespace,
            "want a namespace",
        ));
    }
    let name = name.unwrap_or_else(|| "headscale-api-key".to_owned());
    if !forms::is_dns_subdomain(&name, 253) {
        return Err(value(
            format!("{base}name"),
            &name,
            "want the name of a Secret",
        ));
    }
    Ok((namespace, name))
}

fn checked_user_template(path: String, template: Option<String>) -> Result<String, ConfigError> {
    let template = template.unwrap_or_else(|| USER_TEMPLATE.to_owned());
    if template.contains("{cluster}") {
        return Err(value(path, &template, "{cluster} is not supported yet"));
    }
    if !is_user_template(&template) {
        let want = "want {namespace} and {service} once each with a dot, _ or @ between them, and else only letters, digits, dashes and dots";
        return Err(value(path, &template, want));
    }
    Ok(template)
}

/// Whether the template keeps users of two namespaces apart, and makes names that Headscale takes.
fn is_user_template(template: &str) -> bool {
    let [n, s] = ["{namespace}", "{service}"].map(|name| {
        template
            .match_indices(name)
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    });
    let ([n], [s]) = (&n[..], &s[..]) else {
        return false;
    };
    let between = if n < s {
        &template[n + "{namespace}".len()..*s]
    } else {
        &template[s + "{service}".len()..*n]
    };
    let literal = template.replace("{namespace}", "").replace("{service}", "");
    between.contains(['.', '_', '@'])
        && literal.matches('@').count() <= 1
        && literal
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
}

fn profile(config: ProfileConfig) -> Result<Profile, ConfigError> {
    let ProfileConfig {
        image,
        allowed_tags,
        auth_key_secret_name,
        annotations,
        rest,
    } = config;
    let path = |key: &str| format!("profiles.{DEFAULT}.{key}");
    let later = [
        "allowKernelMode",
        "allowedExtraArgs",
        "allowedImages",
        "containerOverride",
        "imagePullSecrets",
        "namespaces",
        "onInvalid",
        "podSelector",
    ];
    refuse(
        &rest,
        &path(""),
        &["image", "allowedTags", "authKeySecretName", "annotations"],
        &later,
    )?;
    let mut profile = Profile {
        allowed_tags,
        ..Profile::default()
    };
    if let Some(image) = image {
        if image.is_empty() || !image.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(value(
                path("image"),
                &image,
                "want an image such as docker.io/tailscale/tailscale:v1.102.3",
            ));
        }
        profile.image = image;
    }
    if let Some(tag) = profile.allowed_tags.iter().find(|tag| !forms::is_tag(tag)) {
        return Err(value(
            path("allowedTags"),
            tag,
            "want tags such as tag:web, in lower case",
        ));
    }
    if let Some(name) = auth_key_secret_name {
        if !forms::is_dns_subdomain(&name, 253) {
            return Err(value(
                path("authKeySecretName"),
                &name,
                "want the name of a Secret",
            ));
        }
        profile.auth_key_secret_name = name;
    }
    for (name, text) in annotations {
        annotation(&mut profile, &name, text, &path("annotations."))?;
    }
    check_life(&profile, &path("annotations."))?;
    check_resources(&profile, &path("annotations."))?;
    let hash = Sha256::digest(format!("{profile:?}").as_bytes());
    profile.hash = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(profile)
}

/// Takes the default of one annotation.
fn annotation(
    profile: &mut Profile,
    name: &str,
    text: String,
    base: &str,
) -> Result<(), ConfigError> {
    let path = format!("{base}{name}");
    let bad = |want: &str| value(path.clone(), &text, want);
    match KNOWN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, support)| *support)
    {
        Some(Support::NotYet) => return Err(ConfigError::NotSupported { path }),
        Some(Support::Now) => {}
        Some(Support::Ours) | None => {
            let now = KNOWN
                .iter()
                .filter(|(_, support)| *support == Support::Now)
                .map(|(known, _)| *known);
            let accepted = now.clone().collect::<Vec<_>>().join(", ");
            return Err(ConfigError::Unknown {
                path,
                accepted,
                meant: forms::nearest(name, now),
            });
        }
    }
    let switch = || forms::switch(&text).ok_or_else(|| bad(forms::SWITCH));
    let duration = || forms::duration(&text).ok_or_else(|| bad(forms::DURATION));
    let quantity = |want| {
        forms::quantity(&text)
            .map(|_| Cow::Owned(text.clone()))
            .ok_or_else(|| bad(want))
    };
    match name {
        "inject" | "service" => return Err(bad("no profile can say this: set it on the pod")),
        "hostname" if is_hostname_template(&text) => profile.hostname = Some(text),
        "hostname" => return Err(bad(crate::annotations::HOSTNAME)),
        "control-plane" if text == DEFAULT => {}
        "control-plane" => return Err(bad("want one of the configured control planes: default")),
        "tags" => {
            profile.tags = text.split(',').map(|tag| tag.trim().to_owned()).collect();
            if !profile.tags.iter().all(|tag| forms::is_tag(tag)) {
                return Err(bad(crate::annotations::TAGS));
            }
        }
        "reusable" => profile.reusable = switch()?,
        "auth-key-expiration" => profile.auth_key_expiration = duration()?,
        "auth-key-rotation-buffer" => profile.auth_key_rotation_buffer = duration()?,
        "auth-key-delivery" => {
            profile.auth_key_delivery =
                Delivery::read(&text).ok_or_else(|| bad("want env or file"))?;
        }
        "auth-key-secret" => {
            let (secret, key) =
                forms::secret_reference(&text).ok_or_else(|| bad(forms::SECRET_REFERENCE))?;
            profile.given_key = Some((secret.to_owned(), key.to_owned()));
        }
        "state" if text == "emptydir" => {}
        "state" => return Err(bad("only emptydir is supported yet")),
        "userspace" | "native-sidecar" if text == "true" => {}
        "userspace" | "native-sidecar" => return Err(bad("only true is supported yet")),
        "wait" => profile.wait = switch()?,
        "cpu-request" => profile.resources.cpu_request = quantity(forms::CPU)?,
        "cpu-limit" => profile.resources.cpu_limit = quantity(forms::CPU)?,
        "memory-request" => profile.resources.memory_request = quantity(forms::MEMORY)?,
        "memory-limit" => profile.resources.memory_limit = quantity(forms::MEMORY)?,
        _ => return Err(ConfigError::NotSupported { path }),
    }
    Ok(())
}

fn check_life(profile: &Profile, base: &str) -> Result<(), ConfigError> {
    let (life, buffer) = (
        profile.auth_key_expiration,
        profile.auth_key_rotation_buffer,
    );
    if life < SHORTEST_LIFE {
        let want = format!("want at least {}", forms::show(SHORTEST_LIFE));
        return Err(value(
            format!("{base}auth-key-expiration"),
            &forms::show(life),
            &want,
        ));
    }
    if buffer >= life {
        let want = format!(
            "want less than auth-key-expiration, which is {}",
            forms::show(life)
        );
        return Err(value(
            format!("{base}auth-key-rotation-buffer"),
            &forms::show(buffer),
            &want,
        ));
    }
    Ok(())
}

fn check_resources(profile: &Profile, base: &str) -> Result<(), ConfigError> {
    let resources = &profile.resources;
    let pairs = [
        ("cpu", &resources.cpu_request, &resources.cpu_limit),
        ("memory", &resources.memory_request, &resources.memory_limit),
    ];
    for (name, request, limit) in pairs {
        if forms::quantity(request) > forms::quantity(limit) {
            let want = format!("want no more than {name}-limit, which is {limit}");
            return Err(value(format!("{base}{name}-request"), request, &want));
        }
    }
    Ok(())
}

fn rotation(config: RotationConfig) -> Result<Rotation, ConfigError> {
    let RotationConfig {
        overlap,
        paused,
        max_services_per_namespace,
        rest,
    } = config;
    refuse(
        &rest,
        "rotation.",
        &["overlap", "paused", "maxServicesPerNamespace"],
        &["onLost"],
    )?;
    let mut rotation = Rotation {
        paused,
        ..Rotation::default()
    };
    if let Some(text) = overlap {
        let duration: Option<Duration> = forms::duration(&text);
        rotation.overlap =
            duration.ok_or_else(|| value("rotation.overlap".to_owned(), &text, forms::DURATION))?;
    }
    if let Some(most) = max_services_per_namespace {
        if most == 0 {
            let want = "want at least 1; rotation.paused stops everything";
            return Err(value(
                "rotation.maxServicesPerNamespace".to_owned(),
                "0",
                want,
            ));
        }
        rotation.max_services_per_namespace = most;
    }
    Ok(rotation)
}

fn refuse(
    rest: &Rest,
    base: &str,
    accepted: &[&'static str],
    later: &[&str],
) -> Result<(), ConfigError> {
    let Some(key) = rest.keys().next() else {
        return Ok(());
    };
    let path = format!("{base}{key}");
    if later.contains(&key.as_str()) {
        return Err(ConfigError::NotSupported { path });
    }
    let meant = forms::nearest(key, accepted.iter().copied());
    Err(ConfigError::Unknown {
        path,
        accepted: accepted.join(", "),
        meant,
    })
}

fn url(path: String, text: String) -> Result<String, ConfigError> {
    let text = text.trim_end_matches('/').to_owned();
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or_default();
    // `$` would be expanded by the kubelet, a space would split TS_EXTRA_ARGS, `@` would be a password.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&b);
    if host.is_empty() || host.starts_with(['/', ':']) || !host.bytes().all(fits) {
        return Err(value(path, &text, URL));
    }
    Ok(text)
}

fn value(path: String, value: &str, want: &str) -> ConfigError {
    ConfigError::Value {
        path,
        value: value.to_owned(),
        want: want.to_owned(),
    }
}

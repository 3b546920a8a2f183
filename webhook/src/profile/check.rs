//! The configuration as written -> Policy, or an error that names the key, its value and what is accepted. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::config::Rest;
use super::{
    Config, ControlPlane, ControlPlaneConfig, DEFAULT, IMAGE, OWN_IMAGE, OnLost, Policy, Profile,
    ProfileConfig, Rotation, RotationConfig, SecretConfig, USER_TEMPLATE, WebhookConfig,
};
use crate::annotations::{KNOWN, Support, check_defaults, is_argument, of_ours};
use crate::forms;

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
    /// A profile's default of an annotation that no pod could ask for either.
    #[error("{message}")]
    Default {
        /// Names the key, its value and what is accepted.
        message: String,
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
        webhook,
        rest,
    } = config;
    refuse(
        &rest,
        "",
        &["controlPlanes", "profiles", "rotation", "webhook"],
        &["clusterName"],
    )?;
    only_default("controlPlanes", &control_planes)?;
    only_default("profiles", &profiles)?;
    let plane = control_planes.into_values().next().unwrap_or_default();
    let profile = profiles.into_values().next().unwrap_or_default();
    let policy = Policy {
        control_planes: [(DEFAULT.to_owned(), control_plane(plane)?)].into(),
        profiles: [(DEFAULT.to_owned(), self::profile(profile)?)].into(),
        rotation: self::rotation(rotation)?,
        image: own_image(webhook)?,
    };
    for (name, profile) in &policy.profiles {
        check_defaults(name, profile, &policy).map_err(|refusal| ConfigError::Default {
            message: refusal.message,
        })?;
    }
    Ok(policy)
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
        allowed_images,
        allowed_extra_args,
        auth_key_secret_name,
        annotations,
        rest,
    } = config;
    let path = |key: &str| format!("profiles.{DEFAULT}.{key}");
    let later = [
        "allowKernelMode",
        "containerOverride",
        "imagePullSecrets",
        "namespaces",
        "onInvalid",
        "podSelector",
    ];
    refuse(
        &rest,
        &path(""),
        &[
            "image",
            "allowedTags",
            "allowedImages",
            "allowedExtraArgs",
            "authKeySecretName",
            "annotations",
        ],
        &later,
    )?;
    let mut profile = Profile {
        allowed_tags,
        allowed_images,
        ..Profile::default()
    };
    if let Some(image) = image {
        profile.image = checked_image(path("image"), image, IMAGE)?;
    }
    if let Some(tag) = profile.allowed_tags.iter().find(|tag| !forms::is_tag(tag)) {
        return Err(value(
            path("allowedTags"),
            tag,
            "want tags such as tag:web, in lower case",
        ));
    }
    for image in &profile.allowed_images {
        if !forms::is_image(image.strip_suffix('*').unwrap_or(image)) {
            let want = format!(
                "{}, or the beginning of one with * at its end",
                forms::IMAGE
            );
            return Err(value(path("allowedImages"), image, &want));
        }
    }
    for argument in allowed_extra_args {
        let argument = extra_arg(path("allowedExtraArgs"), &argument)?;
        profile.allowed_extra_args.push(argument);
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
    let hash = Sha256::digest(format!("{profile:?}").as_bytes());
    profile.hash = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(profile)
}

fn extra_arg(path: String, argument: &str) -> Result<String, ConfigError> {
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

/// Takes the default of one annotation; its value is checked with all others, when the whole policy is there.
fn annotation(
    profile: &mut Profile,
    name: &str,
    text: String,
    base: &str,
) -> Result<(), ConfigError> {
    let path = format!("{base}{name}");
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    match known.map(|(_, support)| *support) {
        Some(Support::NotYet) => return Err(ConfigError::NotSupported { path }),
        Some(Support::Now) if ["inject", "service"].contains(&name) => {
            let want = "no profile can say this: set it on the pod";
            return Err(value(path, &text, want));
        }
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
    profile.defaults.set(name, text);
    Ok(())
}

fn own_image(config: WebhookConfig) -> Result<String, ConfigError> {
    let WebhookConfig { image, rest } = config;
    refuse(&rest, "webhook.", &["image"], &[])?;
    match image {
        Some(image) => checked_image("webhook.image".to_owned(), image, OWN_IMAGE),
        None => Ok(OWN_IMAGE.to_owned()),
    }
}

fn checked_image(path: String, image: String, such: &str) -> Result<String, ConfigError> {
    if !forms::is_image(&image) {
        return Err(value(
            path,
            &image,
            &format!("want an image such as {such}"),
        ));
    }
    Ok(image)
}

fn rotation(config: RotationConfig) -> Result<Rotation, ConfigError> {
    let RotationConfig {
        overlap,
        paused,
        max_services_per_namespace,
        on_lost,
        rest,
    } = config;
    refuse(
        &rest,
        "rotation.",
        &["overlap", "paused", "maxServicesPerNamespace", "onLost"],
        &[],
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
    if let Some(text) = on_lost {
        rotation.on_lost = match text.as_str() {
            "report" => OnLost::Report,
            "evict" => OnLost::Evict,
            _ => {
                let want = "want report, or evict";
                return Err(value("rotation.onLost".to_owned(), &text, want));
            }
        };
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

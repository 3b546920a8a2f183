//! The configuration as written -> Policy, or an error that names the key, its value and what is accepted. Pure.

use std::collections::BTreeMap;

use thiserror::Error;

mod installation;
mod plane;
mod profile;
mod rotation;

use super::config::{NamespacesConfig, RequirementConfig, Rest, SelectorConfig};
use super::{
    Config, DEFAULT, Namespaces, OWN_IMAGE, Operator, Policy, Requirement, Selector, WebhookConfig,
};
use crate::annotations::check_defaults;
use crate::{forms, quote};

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

// With the longest service, the two characters between and our suffix, a data key has at most 253.
const LONGEST_NAME: usize = 40;

pub(super) fn policy(config: Config) -> Result<Policy, ConfigError> {
    let Config {
        cluster_name,
        installation,
        former_installations,
        reserved_hostnames,
        control_planes,
        profiles,
        rotation,
        webhook,
        rest,
    } = config;
    refuse(
        &rest,
        "",
        &[
            "clusterName",
            "installation",
            "formerInstallations",
            "reservedHostnames",
            "controlPlanes",
            "profiles",
            "rotation",
            "webhook",
        ],
        &[],
    )?;
    if let Some(name) = cluster_name.iter().find(|name| !forms::is_dns_label(name)) {
        let want = "want lower-case letters, digits and dashes";
        return Err(value("clusterName".to_owned(), name, want));
    }
    let cluster = cluster_name.as_deref();
    let control_plane = |name: &str, config| plane::control_plane(name, config, cluster);
    let policy = Policy {
        control_planes: named("controlPlanes", control_planes, control_plane)?,
        profiles: named("profiles", profiles, profile::profile)?,
        rotation: rotation::rotation(rotation)?,
        inject: webhook.inject.unwrap_or(true),
        image: own_image(webhook)?,
        installation: installation::installation(installation)?,
        former_installations: installation::former(former_installations)?,
        reserved_hostnames: installation::reserved_hostnames(reserved_hostnames)?,
    };
    plane::one_key_a_secret(&policy.control_planes)?;
    let least = policy.rotation.min_auth_key_expiration;
    for (name, profile) in &policy.profiles {
        let most = profile.max_auth_key_expiration;
        if most < least {
            let want = format!(
                "want at least rotation.minAuthKeyExpiration, which is {}",
                forms::show(least)
            );
            let path = format!("profiles.{name}.maxAuthKeyExpiration");
            return Err(value(path, &forms::show(most), &want));
        }
        check_defaults(name, profile, &policy).map_err(|refusal| ConfigError::Default {
            message: refusal.message,
        })?;
    }
    Ok(policy)
}

/// Checks each entry of a map; the default is always there.
fn named<C: Default, T>(
    path: &str,
    mut configs: BTreeMap<String, C>,
    check: impl Fn(&str, C) -> Result<T, ConfigError>,
) -> Result<BTreeMap<String, T>, ConfigError> {
    configs.entry(DEFAULT.to_owned()).or_default();
    let checked = configs.into_iter().map(|(name, config)| {
        // A part of a data key, beside the service's name.
        if !forms::is_dns_label(&name) || name.len() > LONGEST_NAME {
            let want = format!(
                "want a name of lower-case letters, digits and dashes, at most {LONGEST_NAME}"
            );
            return Err(value(path.to_owned(), &name, &want));
        }
        check(&name, config).map(|checked| (name, checked))
    });
    checked.collect()
}

/// Checks a list of namespaces, or a selector of theirs.
fn namespaces(path: String, config: NamespacesConfig) -> Result<Namespaces, ConfigError> {
    match config {
        NamespacesConfig::Names(names) => {
            if let Some(name) = names.iter().find(|name| !forms::is_dns_label(name)) {
                return Err(value(path, name, "want names of namespaces"));
            }
            Ok(Namespaces::Names(names))
        }
        NamespacesConfig::Labels(config) => selector(&path, config).map(Namespaces::Labels),
    }
}

/// Checks a selector.
fn selector(path: &str, config: SelectorConfig) -> Result<Selector, ConfigError> {
    let SelectorConfig {
        match_labels,
        match_expressions,
        rest,
    } = config;
    let accepted = ["matchLabels", "matchExpressions"];
    refuse(&rest, &format!("{path}."), &accepted, &[])?;
    let requirements = match_expressions.into_iter().map(|config| {
        let RequirementConfig {
            key,
            operator,
            values,
            rest,
        } = config;
        let path = format!("{path}.matchExpressions");
        let accepted = ["key", "operator", "values"];
        refuse(&rest, &format!("{path}."), &accepted, &[])?;
        let needs_values = match &*operator {
            "In" | "NotIn" => true,
            "Exists" | "DoesNotExist" => false,
            _ => {
                let want = "want In, NotIn, Exists or DoesNotExist";
                return Err(value(format!("{path}.operator"), &operator, want));
            }
        };
        if needs_values == values.is_empty() {
            let want = "want values with In and NotIn, and with nothing else";
            return Err(value(format!("{path}.values"), &values.join(","), want));
        }
        let operator = match &*operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        Ok(Requirement {
            key,
            operator,
            values,
        })
    });
    Ok(Selector {
        labels: match_labels,
        requirements: requirements.collect::<Result<_, _>>()?,
    })
}

fn own_image(config: WebhookConfig) -> Result<String, ConfigError> {
    let WebhookConfig {
        image,
        inject: _,
        rest,
    } = config;
    refuse(&rest, "webhook.", &["image", "inject"], &[])?;
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

fn value(path: String, value: &str, want: &str) -> ConfigError {
    ConfigError::Value {
        path,
        value: quote::redacted(value).into_owned(),
        want: want.to_owned(),
    }
}

//! The configuration as written -> Policy, or an error that names the key, its value and what is accepted. Pure.

use std::collections::BTreeMap;

mod installation;
mod plane;
mod profile;
mod rotation;
mod value;

use value::{checked_image, value};

use super::{Config, ControlPlaneConfig, DEFAULT, OWN_IMAGE, Policy, PolicyError, WebhookConfig};
use crate::annotations::check_defaults;
use crate::forms;

// With the longest service, the two characters between and our suffix, a data key has at most 253.
const LONGEST_NAME: usize = 40;

impl Policy {
    /// Checks a configuration and fills its gaps.
    ///
    /// # Errors
    /// If a key is unknown, a value cannot be parsed, or a required value is missing.
    pub fn from_config(config: Config) -> Result<Self, PolicyError> {
        policy(config)
    }

    /// Returns the policy of a configuration with only a login server.
    ///
    /// # Errors
    /// If the URL is not valid.
    pub fn for_login_server(url: &str) -> Result<Self, PolicyError> {
        let plane = ControlPlaneConfig {
            login_server: Some(url.to_owned()),
            allow_insecure: true,
            ..ControlPlaneConfig::default()
        };
        let control_planes = [(DEFAULT.to_owned(), plane)].into();
        Self::from_config(Config {
            control_planes,
            ..Config::default()
        })
    }
}

fn policy(config: Config) -> Result<Policy, PolicyError> {
    let Config {
        cluster_name,
        installation,
        former_installations,
        reserved_hostnames,
        control_planes,
        profiles,
        rotation,
        webhook: WebhookConfig { image, inject },
        unknown_key,
    } = config;
    if let Some(error) = unknown_key {
        return Err(error);
    }
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
        inject: inject.unwrap_or(true),
        image: own_image(image)?,
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
        check_defaults(name, profile, &policy).map_err(|refusal| PolicyError::Default {
            message: refusal.message,
        })?;
    }
    Ok(policy)
}

/// Checks each entry of a map; the default always exists.
fn named<C: Default, T>(
    path: &str,
    mut configs: BTreeMap<String, C>,
    check: impl Fn(&str, C) -> Result<T, PolicyError>,
) -> Result<BTreeMap<String, T>, PolicyError> {
    configs.entry(DEFAULT.to_owned()).or_default();
    let checked = configs.into_iter().map(|(name, config)| {
        // It becomes part of a data key, beside the service's name.
        if !forms::is_dns_label(&name) || name.len() > LONGEST_NAME {
            let want = format!(
                "want a name of lower-case letters, digits and dashes, at most {LONGEST_NAME} characters"
            );
            return Err(value(path.to_owned(), &name, &want));
        }
        check(&name, config).map(|checked| (name, checked))
    });
    checked.collect()
}

fn own_image(image: Option<String>) -> Result<String, PolicyError> {
    match image {
        Some(image) => checked_image("webhook.image".to_owned(), image, OWN_IMAGE),
        None => Ok(OWN_IMAGE.to_owned()),
    }
}

//! One control plane of the configuration. Pure.

use std::collections::BTreeMap;

use super::value::{self, value};
use crate::forms;
use crate::profile::{
    ControlPlaneConfig, ControlPlaneSettings, PolicyError, SecretConfig, USER_TEMPLATE,
};

const CLUSTER: &str = "{cluster}";

const URL: &str = "want a URL such as https://headscale.example.com";

/// Checks one control plane.
pub(super) fn control_plane(
    name: &str,
    config: ControlPlaneConfig,
    cluster: Option<&str>,
) -> Result<ControlPlaneSettings, PolicyError> {
    let ControlPlaneConfig {
        login_server,
        api_url,
        api_key_secret,
        allow_insecure,
        ca_bundle,
        user_template,
        adopt_users,
        namespaces,
    } = config;
    let path = |key: &str| format!("controlPlanes.{name}.{key}");
    let Some(login_server) = login_server else {
        let want = "the URL that sidecars log in to, such as https://headscale.example.com";
        return Err(PolicyError::Missing {
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
        let want = "the API key would be sent unencrypted: want https://, or allowInsecure: true next to it";
        return Err(value(path(key), &api_url, want));
    }
    let (api_key_namespace, api_key_secret, api_key_data_key) =
        secret(api_key_secret, &path("apiKeySecret."))?;
    if let Some(pem) = &ca_bundle
        && !(pem.contains("-----BEGIN CERTIFICATE-----")
            && pem.contains("-----END CERTIFICATE-----"))
    {
        let want = "want certificates in PEM, starting with -----BEGIN CERTIFICATE-----";
        return Err(value(
            path("caBundle"),
            &pem.chars().take(40).collect::<String>(),
            want,
        ));
    }
    let user_template = checked_user_template(path("userTemplate"), user_template, cluster)?;
    Ok(ControlPlaneSettings {
        login_server,
        api_url,
        api_key_namespace,
        api_key_secret,
        api_key_data_key,
        allow_insecure,
        ca_bundle,
        user_template,
        adopt_users,
        namespaces: namespaces
            .map(|config| value::namespaces(path("namespaces"), config))
            .transpose()?,
    })
}

fn secret(config: SecretConfig, base: &str) -> Result<(String, String, String), PolicyError> {
    let SecretConfig {
        namespace,
        name,
        key,
    } = config;
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
    let key = key.unwrap_or_else(|| "api-key".to_owned());
    if !forms::is_data_key(&key) {
        let want = "want the data key of a Secret: letters, digits, dashes, dots and _";
        return Err(value(format!("{base}key"), &key, want));
    }
    Ok((namespace, name, key))
}

/// Refuses two data keys in one Secret: it records the lifetime of one key.
pub(super) fn one_key_a_secret(
    planes: &BTreeMap<String, ControlPlaneSettings>,
) -> Result<(), PolicyError> {
    let mut known: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for (name, plane) in planes {
        let key = plane.api_key_data_key.as_str();
        let secret = (
            plane.api_key_namespace.as_str(),
            plane.api_key_secret.as_str(),
        );
        let (other, there) = *known.entry(secret).or_insert((name, key));
        if there != key {
            let (namespace, secret) = secret;
            let want = format!(
                "control plane {other} has its key under \"{there}\" of the same Secret {namespace}/{secret}: want a \
                 separate Secret for each"
            );
            return Err(value(
                format!("controlPlanes.{name}.apiKeySecret.key"),
                key,
                &want,
            ));
        }
    }
    Ok(())
}

/// Returns the template with the cluster's name in it.
fn checked_user_template(
    path: String,
    template: Option<String>,
    cluster: Option<&str>,
) -> Result<String, PolicyError> {
    let template = template.unwrap_or_else(|| match cluster {
        Some(_) => format!("{CLUSTER}.{USER_TEMPLATE}"),
        None => USER_TEMPLATE.to_owned(),
    });
    let whole = match cluster {
        Some(cluster) => template.replace(CLUSTER, cluster),
        None if template.contains(CLUSTER) => {
            let want = "{cluster} refers to clusterName, which is not set";
            return Err(value(path, &template, want));
        }
        None => template.clone(),
    };
    if !is_user_template(&whole) {
        let want = "want {namespace} and {service} once each, with a dot, _ or @ between them, {cluster} if clusterName is set, and otherwise only letters, digits, dashes and dots";
        return Err(value(path, &template, want));
    }
    Ok(whole)
}

/// Returns whether the template keeps users of two namespaces apart, and yields names that Headscale accepts.
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

fn url(path: String, text: String) -> Result<String, PolicyError> {
    let text = match text.trim_end_matches('/') {
        domain if !domain.contains("://") => format!("https://{domain}"),
        url => url.to_owned(),
    };
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or_default();
    // The kubelet would expand `$`, a space would split TS_EXTRA_ARGS, and `@` would introduce a password.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&b);
    if host.is_empty() || host.starts_with(['/', ':']) || !host.bytes().all(fits) {
        return Err(value(path, &text, URL));
    }
    Ok(text)
}

//! Annotations for the pod of Headscale itself: the manager of its API key, and its own keys. Pure.

use std::time::Duration;

use super::asked::{Annotation, Asked};
use super::{DenyReason, Refusal, life, read};
use crate::forms;
use crate::profile::{Policy, Resources};
use crate::quote;

const SOCKET: &str = "/var/run/headscale/headscale.sock";
const SECRET: &str = "headscale-api-key";

// It sleeps and makes a few calls an hour. The limits are those of the other sidecar.
const RESOURCES: [(&str, &str); 2] = [("10m", "200m"), ("32Mi", "256Mi")];

// Headscale's own defaults.
const KEYS_FILES: &str = "noise_private.key,derp_server_private.key";
const KEYS_PATH: &str = "/var/lib/headscale";
const KEYS_SECRET: &str = "headscale-keys";
const MOST_FILES: usize = 16;

// sockaddr_un holds 108 bytes, the last of them 0.
const LONGEST_PATH: usize = 107;

/// Settings of the manager of Headscale's API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApikeyManager<'a> {
    /// Name of the Headscale container; if none is named, `headscale` or the only container.
    pub container: Option<&'a str>,
    /// Headscale's Unix socket.
    pub socket_path: &'a str,
    /// Secret in the pod's namespace that holds the API key.
    pub secret: &'a str,
    /// Lifetime of the key.
    pub expiration: Duration,
    /// How long before expiry the key is renewed.
    pub buffer: Duration,
    /// Sidescale's own image.
    pub image: &'a str,
    /// Requests and limits.
    pub resources: Resources<'a>,
}

/// Headscale's own keys, as files from a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeys<'a> {
    /// Name of the Headscale container; if none is named, `headscale` or the only container.
    pub container: Option<&'a str>,
    /// Secret in the pod's namespace that holds the files.
    pub secret: &'a str,
    /// Names of the files, which are also their data keys.
    pub files: Vec<&'a str>,
    /// Directory of the files.
    pub path: &'a str,
}

/// Returns the settings of the manager.
pub(super) fn apikey_manager<'a>(
    namespace: &str,
    asked: &Asked<'a>,
    policy: &'a Policy,
    remarks: &mut Vec<String>,
) -> Result<ApikeyManager<'a>, Refusal> {
    let socket_path = asked
        .get(Annotation::SocketPath)
        .map_or(SOCKET, |value| value.text);
    if !is_socket_path(socket_path) {
        let want = "want an absolute path inside a directory, of letters, digits, dots, dashes and underscores, at most 107 characters, such as /var/run/headscale/headscale.sock";
        return Err(asked.bad(Annotation::SocketPath, want));
    }
    let secret = asked
        .get(Annotation::ApiKeySecret)
        .map_or(SECRET, |value| value.text);
    if !forms::is_dns_subdomain(secret, 253) {
        return Err(asked.bad(
            Annotation::ApiKeySecret,
            "want the name of a Secret, such as headscale-api-key",
        ));
    }
    let keys = [Annotation::ApiKeyExpiration, Annotation::ApiKeyBuffer];
    let life = life::life(asked, keys, life::Bounds::of_api_keys())?;
    remarks.extend(life.remark());
    remarks.extend(read_by_nobody(namespace, secret, policy));
    Ok(ApikeyManager {
        container: container(asked)?,
        socket_path,
        secret,
        expiration: life.expiration,
        buffer: life.buffer,
        image: &policy.image,
        resources: read::resources(asked, RESOURCES)?,
    })
}

/// Returns a remark if no control plane reads its API key from the Secret that the manager would write.
fn read_by_nobody(namespace: &str, secret: &str, policy: &Policy) -> Option<String> {
    let mut planes = policy.control_planes.values();
    // Without a namespace the configuration itself is being checked.
    let read = namespace.is_empty()
        || planes
            .any(|plane| plane.api_key_namespace == namespace && plane.api_key_secret == secret);
    let shown = quote::line(secret);
    (!read).then(|| format!(
        "no control plane reads Secret '{namespace}/{shown}', which is to contain the API key, and the chart grants no right to write it: set controlPlane.apiKeySecret of the chart (apiKeySecret in its config) to namespace '{namespace}' and name '{shown}'"
    ))
}

/// Returns the keys that Headscale gets.
pub(super) fn server_keys<'a>(asked: &Asked<'a>) -> Result<ServerKeys<'a>, Refusal> {
    let secret = asked
        .get(Annotation::KeysSecret)
        .map_or(KEYS_SECRET, |value| value.text);
    if !forms::is_dns_subdomain(secret, 253) {
        return Err(asked.bad(
            Annotation::KeysSecret,
            "want the name of a Secret, such as headscale-keys",
        ));
    }
    let path = asked
        .get(Annotation::KeysPath)
        .map_or(KEYS_PATH, |value| value.text.trim_end_matches('/'));
    if !is_path(path) {
        return Err(asked.bad(
            Annotation::KeysPath,
            "want an absolute path of letters, digits, dots, dashes and underscores, such as /var/lib/headscale",
        ));
    }
    let text = asked
        .get(Annotation::KeysFiles)
        .map_or(KEYS_FILES, |value| value.text);
    let mut files: Vec<&str> = Vec::new();
    for file in text.split(',').map(str::trim) {
        if !forms::is_data_key(file) || files.contains(&file) || files.len() == MOST_FILES {
            let want = format!(
                "want at most {MOST_FILES} different file names, which are also data keys of the Secret, such as {KEYS_FILES}"
            );
            return Err(asked.bad(Annotation::KeysFiles, &want));
        }
        files.push(file);
    }
    Ok(ServerKeys {
        container: container(asked)?,
        secret,
        files,
        path,
    })
}

fn container<'a>(asked: &Asked<'a>) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = asked.get(Annotation::HeadscaleContainer) else {
        return Ok(None);
    };
    if forms::is_dns_label(value.text) {
        Ok(Some(value.text))
    } else {
        Err(asked.refuse(
            DenyReason::BadValue,
            Annotation::HeadscaleContainer,
            "want the name of one of the pod's containers, such as headscale",
        ))
    }
}

fn is_socket_path(path: &str) -> bool {
    path.len() <= LONGEST_PATH && is_path(path) && path.rfind('/') > Some(0)
}

fn is_path(path: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    path.strip_prefix('/')
        .is_some_and(|path| path.split('/').all(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_paths_of_sockets() {
        for good in [SOCKET, "/run/a.sock"] {
            assert!(is_socket_path(good), "{good:?}");
        }
        let long = format!("/run/{}", "a".repeat(103));
        for bad in [
            "",
            "/a.sock",
            "run/a.sock",
            "/run/",
            "/run//a",
            "/run/../a",
            "/run/$(X)",
            "/run/a b",
            &long,
        ] {
            assert!(!is_socket_path(bad), "{bad:?}");
        }
    }
}

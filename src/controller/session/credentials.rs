//! The API key of a control plane: reads it from its Secret, checks it, and asks for it if it is missing. I/O.

use sidescale_control_plane::At;
use sidescale_core::key_form::api_key_flaw;
use sidescale_core::key_state::KeyState;
use sidescale_core::key_value::KeyValue;
use sidescale_core::notice::{About, Notice};
use sidescale_core::problem::Problem;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::tokens::form;
use sidescale_webhook::profile;
use tracing::{debug, info};

use crate::cluster;
use crate::controller::context::Context;
use crate::store::StoreError;

/// An API key from its Secret.
pub(super) struct FoundApiKey {
    pub(super) api_key: KeyValue,
    /// Whether the Secret is still marked as a placeholder.
    pub(super) placeholder: bool,
}

/// Reads the API key from its Secret. If there is no Secret, creates one without a key that says what to do.
pub(super) async fn api_key(
    context: &Context,
    plane: &str,
    config: &profile::ControlPlaneSettings,
) -> Result<FoundApiKey, Problem> {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let data_key = &config.api_key_data_key;
    let read = context.store.read(namespace, name).await;
    let secret = read.map_err(|error| Problem {
        state: KeyState::Degraded,
        message: format!(
            "API key of control plane \"{plane}\": {}",
            cluster::chain(&error)
        ),
        of_plane: true,
    })?;
    let held = secret
        .as_ref()
        .and_then(|secret| secret.data.get(data_key))
        .filter(|value| !value.trim_ascii().is_empty());
    let Some(held) = held else {
        let exists = match secret {
            Some(_) => true,
            None => put_placeholder(context, config).await,
        };
        let problem = no_credentials(plane, config, exists);
        let notice = Notice {
            namespace: namespace.clone(),
            about: About::secret(name),
            warning: true,
            reason: problem.state.as_str(),
            note: problem.message.clone(),
        };
        if exists {
            context.events.publish(&notice);
        }
        return Err(problem);
    };
    let text = std::str::from_utf8(held).unwrap_or("\0").trim();
    if let Some(wrong) = api_key_flaw(text) {
        return Err(no_api_key(plane, config, wrong));
    }
    Ok(FoundApiKey {
        api_key: KeyValue::new(text.to_owned()),
        placeholder: secret.as_ref().is_some_and(form::is_placeholder),
    })
}

/// Removes the placeholder mark once there is a working key.
pub(super) async fn no_placeholder_any_more(
    context: &Context,
    config: &profile::ControlPlaneSettings,
) {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let Ok(Some(mut secret)) = context.store.read(namespace, name).await else {
        return;
    };
    if form::is_placeholder(&secret) && form::unmark_placeholder(&mut secret) {
        // On a conflict with another writer, the next check tries again: the key is used either way.
        match context.store.write(&secret).await {
            Ok(_) => info!(
                namespace,
                secret = name,
                "API key found: removed the placeholder mark of its Secret"
            ),
            Err(error) => debug!(
                namespace,
                secret = name,
                error = cluster::chain(&error),
                "Failed to remove the placeholder mark of the API key's Secret"
            ),
        }
    }
}

/// Returns the problem for a value that is not an API key: `wrong` says what it is.
pub(crate) fn no_api_key(
    plane: &str,
    config: &profile::ControlPlaneSettings,
    wrong: &str,
) -> Problem {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let data_key = &config.api_key_data_key;
    let message = format!(
        "control plane \"{plane}\" has no usable API key: data key \"{data_key}\" of Secret {namespace}/{name} {wrong}; \
         replace it with: {}",
        command(config)
    );
    Problem {
        state: KeyState::InvalidCredentials,
        message,
        of_plane: true,
    }
}

pub(crate) fn no_credentials(
    plane: &str,
    config: &profile::ControlPlaneSettings,
    exists: bool,
) -> Problem {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let found = if exists {
        format!("has no value under \"{}\"", config.api_key_data_key)
    } else {
        "does not exist".to_owned()
    };
    let message = format!(
        "control plane \"{plane}\" has no API key: Secret {namespace}/{name} {found}; an apikey-manager next to Headscale \
         creates it by itself; without one, run this once: {}",
        command(config)
    );
    Problem {
        state: KeyState::NoCredentials,
        message,
        of_plane: true,
    }
}

pub(super) fn invalid_credentials(
    plane: &str,
    config: &profile::ControlPlaneSettings,
    at: &At,
) -> Problem {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let (method, url) = (at.method, &at.url);
    let message = format!(
        "control plane \"{plane}\" rejects the API key of Secret {namespace}/{name}: {method} {url} answered 401, so it is \
         unknown, expired or deleted there; replace it with: {}",
        command(config)
    );
    Problem {
        state: KeyState::InvalidCredentials,
        message,
        of_plane: true,
    }
}

/// Creates a Secret without a key; returns whether there is a Secret now.
async fn put_placeholder(context: &Context, config: &profile::ControlPlaneSettings) -> bool {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let mut secret = StoredSecret::absent(namespace, name);
    let command = command(config);
    form::mark_placeholder(&mut secret, context.clock.now(), &command);
    match context.store.write(&secret).await {
        Ok(_) => {
            info!(
                namespace,
                secret = name,
                "Created placeholder Secret for the API key"
            );
            true
        }
        Err(StoreError::Conflict { .. }) => true,
        // Without the namespace or the permission, the problem is only reported.
        Err(error) => {
            debug!(
                namespace,
                secret = name,
                error = cluster::chain(&error),
                "Failed to create placeholder Secret for the API key"
            );
            false
        }
    }
}

/// Returns a shell command that puts a new API key into its Secret, existing or not; existing labels stay.
///
/// The key is in no argument, and if none is created, nothing is written.
fn command(config: &profile::ControlPlaneSettings) -> String {
    let (namespace, name) = (&config.api_key_namespace, &config.api_key_secret);
    let data_key = &config.api_key_data_key;
    format!(
        "(key=$(kubectl exec -n {namespace} deploy/headscale -c headscale -- headscale apikeys create -e 90d) && printf %s \
         \"$key\" | kubectl create secret generic {name} -n {namespace} --from-file={data_key}=/dev/stdin --dry-run=client \
         -o yaml | kubectl apply --server-side --force-conflicts -f -)"
    )
}

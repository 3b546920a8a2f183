//! Reads the content of a control plane, with the API key of its Secret. I/O.

use sidescale_control_plane::{Client, Endpoint, Error};
use sidescale_core::key_form::api_key_flaw;
use sidescale_core::key_state::KeyState;
use sidescale_core::key_value::KeyValue;
use sidescale_core::problem::Problem;
use sidescale_webhook::profile;

use super::held::{PlaneView, ServerSnapshot};
use super::release::Release;
use crate::controller::session::{no_api_key, no_credentials};

/// Returns the content of the control plane, or why it is unknown.
pub(crate) async fn view(
    release: &Release,
    name: &str,
    config: &profile::ControlPlaneSettings,
) -> PlaneView {
    match held(release, name, config).await {
        Ok(held) => PlaneView::Held(held),
        Err(problem) => PlaneView::Trouble(problem),
    }
}

async fn held(
    release: &Release,
    name: &str,
    config: &profile::ControlPlaneSettings,
) -> Result<ServerSnapshot, Problem> {
    let client = client(release, name, config).await?;
    let held = async {
        client.probe().await?;
        Ok::<_, Error>(ServerSnapshot {
            users: client.list_users().await?,
            keys: client.list_pre_auth_keys().await?,
            nodes: client.list_nodes().await?,
        })
    };
    Ok(held.await?)
}

/// Returns a client with the API key of the control plane's Secret.
pub(crate) async fn client(
    release: &Release,
    name: &str,
    config: &profile::ControlPlaneSettings,
) -> Result<Client, Problem> {
    let (namespace, secret) = (&config.api_key_namespace, &config.api_key_secret);
    let read = release.store.read(namespace, secret).await;
    let read = read.map_err(|error| Problem {
        state: KeyState::Degraded,
        message: format!(
            "API key of control plane \"{name}\": {:#}",
            anyhow::Error::new(error)
        ),
        of_plane: true,
    })?;
    let value = read
        .as_ref()
        .and_then(|secret| secret.data.get(&config.api_key_data_key));
    let value = value
        .and_then(|value| std::str::from_utf8(value).ok())
        .map(str::trim)
        .filter(|value| !value.is_empty());
    let Some(value) = value else {
        return Err(no_credentials(name, config, read.is_some()));
    };
    if let Some(wrong) = api_key_flaw(value) {
        return Err(no_api_key(name, config, wrong));
    }
    Ok(Client::new(Endpoint {
        name: name.to_owned(),
        api_url: config.api_url.clone(),
        api_key: KeyValue::new(value.to_owned()),
        ca_bundle: config.ca_bundle.clone(),
        allow_insecure: config.allow_insecure,
    })?)
}

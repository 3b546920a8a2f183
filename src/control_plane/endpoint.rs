//! Where a control plane is. Pure.

use crate::key_value::KeyValue;

/// Says where a control plane is and how to call it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name in the configuration, for messages.
    pub name: String,
    /// URL of its API, without `/api/v1`.
    pub api_url: String,
    /// The API key.
    pub api_key: KeyValue,
    /// PEM of a private authority; with it, no other is trusted.
    pub ca_bundle: Option<String>,
    /// Whether plain `http://` is accepted.
    pub allow_insecure: bool,
}

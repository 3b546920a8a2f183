//! The address of a control plane. Pure.

use sidescale_core::key_value::KeyValue;

/// The address of a control plane and how to call it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name in the configuration, for messages.
    pub name: String,
    /// URL of its API, without `/api/v1`.
    pub api_url: String,
    /// Key that each call carries.
    pub api_key: KeyValue,
    /// PEM of a private authority; with it, no other is trusted.
    pub ca_bundle: Option<String>,
    /// Whether plain `http://` is accepted.
    pub allow_insecure: bool,
}

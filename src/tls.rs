//! The webhook's certificates: the authority in a Secret, the leaf in memory, the caBundle in our webhook
//! configuration. I/O; `state` and the `certs` crate decide what to do.

mod ca_bundle;
mod error;
mod run;
mod serving_key;
mod state;
mod store;

pub use error::TlsError;
pub use run::Tls;
pub use serving_key::ServingKey;

/// Flags that name Sidescale's own objects.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsArgs {
    /// Service of the webhook
    #[arg(
        long,
        env = "SIDESCALE_SERVICE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub service_name: String,
    /// Mutating- and ValidatingWebhookConfiguration whose caBundle Sidescale maintains
    #[arg(
        long,
        env = "SIDESCALE_WEBHOOK_CONFIG_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub webhook_config_name: String,
    /// Secret with the webhook's certificate authority, in Sidescale's own namespace
    #[arg(
        long,
        env = "SIDESCALE_CA_SECRET_NAME",
        default_value = "sidescale-webhook-ca",
        value_name = "NAME"
    )]
    pub ca_secret_name: String,
}

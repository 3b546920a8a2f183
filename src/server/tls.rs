//! The server's TLS: which key it shows and what it speaks. Pure state, no I/O.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Holds the key that new connections see; swapped without touching those that are open.
#[derive(Debug, Default)]
pub struct ServingKey(ArcSwapOption<CertifiedKey>);

impl ServingKey {
    /// Shows `key` to every connection from now on.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        self.0.store(Some(key));
    }

    /// Whether there is a key to show.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

/// Answers without a server name too: a probe that dials an address sends none.
impl ResolvesServerCert for ServingKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Makes the TLS configuration around `key`.
///
/// # Errors
///
/// If the crypto provider lacks TLS 1.2 or 1.3.
pub fn server_config(key: Arc<ServingKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(key);
    // The API server forces http/1.1 on Services; a webhook by URL may speak h2.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // The API server never resumes a session.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

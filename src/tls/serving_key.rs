//! The serving certificate of new connections. State, no I/O.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The serving certificate of new connections; swapped without touching open ones.
#[derive(Debug, Default)]
pub struct ServingKey(ArcSwapOption<CertifiedKey>);

impl ServingKey {
    /// Serves `key` on every new connection.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        self.0.store(Some(key));
    }

    /// Whether there is a certificate to serve.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

/// Answers without a server name too: a probe to an address sends none.
impl ResolvesServerCert for ServingKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

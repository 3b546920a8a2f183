//! The key that new connections see. State, no I/O.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
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

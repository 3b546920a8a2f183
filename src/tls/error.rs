//! Why the certificates are not in order. Pure.

use sidescale_certs::{AuthorityError, LeafError};
use thiserror::Error;

use crate::store::StoreError;

/// Says why the certificates are not in order. All of it is tried again.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No authority could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No leaf could be made.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The Secret could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Secret is somebody else's.
    #[error(
        "Secret {namespace}/{name} is not labelled app.kubernetes.io/managed-by: sidescale, so it is left as it is: \
         delete it, or name another one with --ca-secret-name"
    )]
    NotOurs {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// There is no configuration.
    #[error(
        "{kind} {name:?} does not exist: install the chart, or name yours with --webhook-config-name"
    )]
    Missing {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The configuration is empty.
    #[error("{kind} {name:?} has no entries: install the chart's own")]
    NoEntries {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The configuration could not be read or written.
    #[error("{verb} {kind} {name:?}")]
    Configuration {
        /// What was tried.
        verb: &'static str,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("{verb} {kind} {name:?}: no answer within {seconds} s")]
    TimedOut {
        /// What was tried.
        verb: &'static str,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// For how long.
        seconds: u64,
    },
}

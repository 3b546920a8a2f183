//! Errors of the webhook's certificates. Pure.

use sidescale_certs::{AuthorityError, LeafError};
use thiserror::Error;

use crate::store::StoreError;

/// Why the certificates are not in order. Every operation is retried.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The authority could not be created.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The leaf could not be created.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The Secret could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Secret belongs to another owner.
    #[error(
        "Secret {namespace}/{name} is not labelled app.kubernetes.io/managed-by: sidescale, so it is not changed: delete it, \
         or name another one with --ca-secret-name"
    )]
    NotOurs {
        /// Its namespace.
        namespace: String,
        name: String,
    },
    /// The configuration does not exist.
    #[error(
        "{kind} {name:?} does not exist: install the chart, or name yours with --webhook-config-name"
    )]
    Missing {
        /// Its kind.
        kind: &'static str,
        name: String,
    },
    /// The configuration has no entries.
    #[error("{kind} {name:?} has no entries: install the chart's own configuration")]
    NoEntries {
        /// Its kind.
        kind: &'static str,
        name: String,
    },
    /// The configuration could not be read or written.
    #[error("{verb} {kind} {name:?}")]
    Configuration {
        /// The attempted verb.
        verb: &'static str,
        kind: &'static str,
        name: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("{verb} {kind} {name:?}: no answer within {seconds} s")]
    TimedOut {
        /// The attempted verb.
        verb: &'static str,
        kind: &'static str,
        name: String,
        seconds: u64,
    },
}

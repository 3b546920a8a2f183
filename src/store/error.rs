//! Why a Secret was not read or written. Pure.

use super::limits::{DEADLINE, MOST_DATA_KEYS, MOST_LABELS};

/// Says why a Secret was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote, made or removed it since it was read.
    #[error("Secret {namespace}/{name} was changed by another writer")]
    Conflict {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The server has not the right to let us.
    #[error("{verb} Secret {namespace}/{name}: forbidden (403): {message}")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The server's own words.
        message: String,
    },
    /// The server could not be asked, or refused.
    #[error("{verb} Secret {namespace}/{name}")]
    Kubernetes {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server did not answer in time.
    #[error("{verb} Secret {namespace}/{name}: no answer within {} s", DEADLINE.as_secs())]
    TimedOut {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It has more parts than are read, and a write would take off the rest.
    #[error(
        "Secret {namespace}/{name} has more than {} data keys, or more than {} labels and annotations: it is not written; remove what does not belong there",
        MOST_DATA_KEYS,
        MOST_LABELS
    )]
    TooLarge {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}")]
    File {
        /// Its path.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The record of the keys has no JSON form.
    #[error("write the record of the keys")]
    Document(#[source] serde_json::Error),
    /// A name that is no file name.
    #[error("\"{name}\" cannot be a file name: want letters, digits, \"-\", \"_\" and \".\"")]
    Name {
        /// The name.
        name: String,
    },
}

//! Errors of reading and writing a Secret. Pure.

use super::limits::{DEADLINE, MOST_DATA_KEYS, MOST_LABELS};

/// Why a Secret was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer changed, created or deleted it since it was read.
    #[error("Secret {namespace}/{name} was changed by another writer")]
    Conflict {
        /// Its namespace.
        namespace: String,
        name: String,
    },
    /// The API server denied the request (403).
    #[error("{verb} Secret {namespace}/{name}: forbidden (403): {message}")]
    Forbidden {
        /// The attempted verb.
        verb: &'static str,
        namespace: String,
        name: String,
        /// The server's message.
        message: String,
    },
    /// The server is unavailable or refused.
    #[error("{verb} Secret {namespace}/{name}")]
    Kubernetes {
        /// The attempted verb.
        verb: &'static str,
        namespace: String,
        name: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server did not answer in time.
    #[error("{verb} Secret {namespace}/{name}: no answer within {} s", DEADLINE.as_secs())]
    TimedOut {
        /// The attempted verb.
        verb: &'static str,
        namespace: String,
        name: String,
    },
    /// It has more parts than Sidescale reads, and a write would remove the rest.
    #[error(
        "Secret {namespace}/{name} has more than {} data keys, or more than {} labels and annotations: it is not written; remove what does not belong there",
        MOST_DATA_KEYS,
        MOST_LABELS
    )]
    TooLarge {
        /// Its namespace.
        namespace: String,
        name: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}")]
    File {
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The record of the keys cannot be written as JSON.
    #[error("write the record of the keys")]
    Document(#[source] serde_json::Error),
    /// A name that cannot be a file name.
    #[error("\"{name}\" cannot be a file name: want letters, digits, \"-\", \"_\" and \".\"")]
    Name {
        /// The name.
        name: String,
    },
}

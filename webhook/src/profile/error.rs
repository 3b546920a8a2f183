//! Errors in a configuration. Pure.

use thiserror::Error;

use crate::forms;

/// Error in a configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// A required value is missing.
    #[error("{path} is missing: want {want}")]
    Missing {
        /// Path of the key.
        path: String,
        /// What is accepted.
        want: &'static str,
    },
    /// A key of the design that is not supported yet.
    #[error("{path} is not supported yet: remove it")]
    NotSupported {
        /// Path of the key.
        path: String,
    },
    /// An unknown key.
    #[error("{path} is unknown: want one of {accepted}{}", meant.as_ref().map(|meant| format!("; did you mean {meant}?")).unwrap_or_default())]
    Unknown {
        /// Path of the key.
        path: String,
        /// The keys accepted there.
        accepted: String,
        /// The key probably meant.
        meant: Option<String>,
    },
    /// A profile's default of an annotation that no pod could set either.
    #[error("{message}")]
    Default {
        /// Names the key, its value and what is accepted.
        message: String,
    },
    /// A value that cannot be parsed or is not allowed.
    #[error("{path} is {value:?}: {want}")]
    Value {
        /// Path of the key.
        path: String,
        /// Its value.
        value: String,
        /// What is accepted.
        want: String,
    },
}

impl PolicyError {
    /// Returns the error of an unknown key at a path, with the keys accepted there.
    pub(super) fn unknown<'a>(
        path: String,
        key: &str,
        accepted: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        Self::Unknown {
            path,
            accepted: accepted.clone().collect::<Vec<_>>().join(", "),
            meant: forms::nearest(key, accepted).map(str::to_owned),
        }
    }
}

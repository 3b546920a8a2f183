//! What is wrong with a configuration. Pure.

use thiserror::Error;

/// Says what is wrong with a configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Something needed is not there.
    #[error("{path} is missing: want {want}")]
    Missing {
        /// Path of the key.
        path: String,
        /// What is accepted.
        want: &'static str,
    },
    /// A key of the design that is not built yet.
    #[error("{path} is not supported yet: remove it")]
    NotSupported {
        /// Path of the key.
        path: String,
    },
    /// A key that nothing knows.
    #[error("{path} is unknown: want one of {accepted}{}", meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default())]
    Unknown {
        /// Path of the key.
        path: String,
        /// The keys that stand beside it.
        accepted: String,
        /// The one that was probably meant.
        meant: Option<&'static str>,
    },
    /// A profile's default of an annotation that no pod could ask for either.
    #[error("{message}")]
    Default {
        /// Names the key, its value and what is accepted.
        message: String,
    },
    /// A value that cannot be read or is not allowed.
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

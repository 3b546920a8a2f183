//! The configuration file: read from disk (I/O), and parsed from YAML into the policy's own types, which check it.

use std::path::{Path, PathBuf};

use sidescale_webhook::profile::{Config, Policy, PolicyError as Invalid};
use thiserror::Error;

mod live;

pub use live::{Current, EditReports, Follower, POLL, fixed};

/// Why there is no policy.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file does not exist, or there is no right to read it.
    #[error("read configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        /// The system's error.
        source: std::io::Error,
    },
    /// Not YAML, or a value of the wrong kind; the cause names line and column.
    #[error("parse configuration")]
    Parse(#[source] Box<serde_saphyr::Error>),
    /// A key or value that is not accepted.
    #[error("check configuration")]
    Invalid(#[from] Invalid),
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// The file cannot be read, is not YAML, or contains something that is not accepted.
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text)
}

/// Checks the text of a configuration file.
///
/// # Errors
/// The text is not YAML, or contains something that is not accepted.
pub fn parse(text: &str) -> Result<Policy, ConfigError> {
    let config: Config =
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Parse(Box::new(error)))?;
    Ok(Policy::from_config(config)?)
}

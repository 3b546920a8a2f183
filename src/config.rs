//! The configuration file: read from disk (I/O), YAML to the policy's own types, which check it.

use std::path::{Path, PathBuf};

use sidescale_webhook::profile::{Config, Policy, PolicyError as Invalid};
use thiserror::Error;

mod live;

pub use live::{Current, EditReports, Follower, POLL, fixed};

/// Says why there is no policy.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No such file, or no right to read it.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// What the system says.
        source: std::io::Error,
    },
    /// No YAML, or a value of the wrong kind; the cause names line and column.
    #[error("parse configuration")]
    Parse(#[source] Box<serde_saphyr::Error>),
    /// A key or value that is not accepted.
    #[error("check configuration")]
    Invalid(#[from] Invalid),
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// If it cannot be read, is no YAML, or says something that is not accepted.
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
/// If it is no YAML, or says something that is not accepted.
pub fn parse(text: &str) -> Result<Policy, ConfigError> {
    let config: Config =
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Parse(Box::new(error)))?;
    Ok(Policy::from_config(config)?)
}

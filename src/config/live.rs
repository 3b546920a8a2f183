//! The configuration file while the process runs: applies an edit, reports an invalid one and keeps the old one. I/O.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidescale_core::notice::{About, Notice};
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{ConfigError, parse};
use crate::cluster::chain;
use crate::events::Events;
use crate::health::{Health, Part};
use crate::metrics::Metrics;

/// How often the file is read. A kubelet takes up to two minutes to update a mounted ConfigMap.
pub const POLL: Duration = Duration::from_secs(2);

/// The current policy: a single decision borrows it, a long task waits for changes.
pub type Current = watch::Receiver<Arc<Policy>>;

/// Returns a policy that never changes.
#[must_use]
pub fn fixed(policy: Arc<Policy>) -> Current {
    watch::channel(policy).1
}

/// Follows one file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The last content, or why it could not be read.
    seen: Result<String, String>,
    current: watch::Sender<Arc<Policy>>,
}

/// Where an edit is reported.
#[derive(Clone, Debug)]
pub struct EditReports {
    pub metrics: Arc<Metrics>,
    /// State for the admin port.
    pub health: Arc<Health>,
    /// Events for `kubectl describe`.
    pub events: Events,
    /// Namespace and name of the ConfigMap that the file comes from.
    pub config_map: (String, String),
}

impl Follower {
    /// Reads the file for the first time; there is no older policy to keep yet, so it has to be valid.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or contains something that is not accepted.
    pub fn open(path: PathBuf) -> Result<(Self, Current), ConfigError> {
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        let (sender, current) = watch::channel(Arc::new(parse(&text)?));
        let this = Self {
            path,
            seen: Ok(text),
            current: sender,
        };
        Ok((this, current))
    }

    /// Reads the file repeatedly.
    pub async fn run(mut self, every: Duration, told: EditReports) -> Infallible {
        told.in_force(true);
        loop {
            tokio::time::sleep(every).await;
            let read = tokio::fs::read_to_string(&self.path).await;
            let text = read.map_err(|source| {
                let path = self.path.clone();
                chain(&ConfigError::Read { path, source })
            });
            if text == self.seen {
                continue;
            }
            match text.as_deref().map(parse) {
                Ok(Ok(policy)) => {
                    self.current.send_replace(Arc::new(policy));
                    told.taken(&self.path);
                }
                Ok(Err(error)) => told.refused(&chain(&error)),
                Err(error) => told.refused(error),
            }
            self.seen = text;
        }
    }
}

impl EditReports {
    fn in_force(&self, all: bool) {
        self.metrics.config.in_force.set(i64::from(all));
        if all {
            self.health
                .ok(Part::Configuration, "the current file is in effect");
        }
    }

    fn taken(&self, path: &std::path::Path) {
        self.count("taken");
        self.in_force(true);
        info!(path = %path.display(), "Applied new configuration");
        self.tell(
            false,
            "ConfigurationTaken",
            "the new configuration is in effect".to_owned(),
        );
    }

    fn refused(&self, error: &str) {
        self.count("refused");
        self.in_force(false);
        warn!(
            error,
            "Configuration rejected: the previous one stays in effect"
        );
        let note = format!(
            "{error}; the previous configuration stays in effect until this is fixed, and a process that starts now fails"
        );
        self.health.problem(Part::Configuration, note.as_str());
        self.tell(true, "ConfigurationRefused", note);
    }

    fn count(&self, result: &str) {
        self.metrics
            .config
            .reloads
            .with_label_values(&[result])
            .inc();
    }

    fn tell(&self, warning: bool, reason: &'static str, note: String) {
        let (namespace, name) = self.config_map.clone();
        let notice = Notice {
            namespace,
            about: About::ConfigMap(name),
            warning,
            reason,
            note,
        };
        self.events.publish(&notice);
    }
}

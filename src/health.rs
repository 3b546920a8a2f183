//! What the admin port reports: the requirements of readiness, and the reports of all parts. State, no I/O.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// A part that reports its state. Only the first three decide whether the process is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The webhook takes requests: false from SIGTERM on.
    Serving,
    /// The serving certificate is loaded.
    Certificate,
    /// Its authority was seen in every entry of our webhook configuration.
    CaBundle,
    /// The index of namespaces.
    Namespaces,
    /// The rotation of keys.
    Rotation,
    /// Whether the current configuration file is in force.
    Configuration,
    /// Whether the policies that limit our own account are in force.
    Fences,
}

impl Part {
    /// Returns its name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Certificate => "certificate",
            Self::CaBundle => "ca-bundle",
            Self::Namespaces => "namespaces",
            Self::Rotation => "rotation",
            Self::Configuration => "configuration",
            Self::Fences => "fences",
        }
    }

    fn is_required(self) -> bool {
        match self {
            Self::Serving | Self::Certificate | Self::CaBundle => true,
            Self::Namespaces | Self::Rotation | Self::Configuration | Self::Fences => false,
        }
    }
}

/// State of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// Whether it works.
    pub ok: bool,
    /// Details, with what to do if it is not ok. Never a secret.
    pub detail: String,
}

/// The last report of every part.
#[derive(Debug)]
pub struct Health(RwLock<BTreeMap<Part, PartReport>>);

impl Default for Health {
    fn default() -> Self {
        let waiting = || PartReport {
            ok: false,
            detail: "starting".to_owned(),
        };
        let parts = [Part::Serving, Part::Certificate, Part::CaBundle];
        Self(RwLock::new(
            parts.into_iter().map(|part| (part, waiting())).collect(),
        ))
    }
}

impl Health {
    /// Records that `part` works.
    pub fn ok(&self, part: Part, detail: impl Into<String>) {
        self.set(part, true, detail.into());
    }

    /// Records that `part` has a problem, and what to do.
    pub fn problem(&self, part: Part, detail: impl Into<String>) {
        self.set(part, false, detail.into());
    }

    /// Whether all required parts work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.read()
            .iter()
            .all(|(part, report)| report.ok || !part.is_required())
    }

    /// Returns every report, required ones first.
    #[must_use]
    pub fn reports(&self) -> Vec<(Part, PartReport)> {
        self.read()
            .iter()
            .map(|(part, report)| (*part, report.clone()))
            .collect()
    }

    fn set(&self, part: Part, ok: bool, detail: String) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part, PartReport { ok, detail });
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Part, PartReport>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_rotation_does_not_make_the_webhook_unready() {
        let health = Health::default();
        assert!(!health.is_ready());
        for part in [Part::Serving, Part::Certificate, Part::CaBundle] {
            health.ok(part, "");
        }
        health.problem(Part::Rotation, "no API key");
        assert!(health.is_ready());
        health.problem(Part::CaBundle, "gone");
        assert!(!health.is_ready());
    }
}

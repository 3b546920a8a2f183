//! Answer to an unverified caller: reveals nothing that depends on the annotations of the named namespace. Pure.

use super::outcome::ReviewOutcome;
use crate::quote;

/// Texts of an answer to the same pod in a namespace without annotations.
#[derive(Debug)]
pub(crate) struct PublicReply {
    message: Option<String>,
    texts: Vec<String>,
}

impl PublicReply {
    /// Returns the texts of that answer.
    pub(super) fn of(plain: ReviewOutcome) -> Self {
        let ReviewOutcome {
            message, warnings, ..
        } = plain;
        Self {
            message,
            texts: warnings,
        }
    }

    /// Returns whether an answer says no more than that one.
    pub(super) fn covers(&self, outcome: &ReviewOutcome) -> bool {
        let message = outcome.message.is_none() || outcome.message == self.message;
        message
            && outcome
                .warnings
                .iter()
                .all(|text| self.texts.contains(text))
    }

    /// Returns the message of a denial if it may be shown, otherwise one that names no value.
    pub(super) fn message(&self, message: &str, namespace: &str) -> String {
        if self.message.as_deref() == Some(message) {
            message.to_owned()
        } else {
            withheld(namespace)
        }
    }

    /// Returns those of the texts that may be shown.
    pub(super) fn texts(&self, texts: &[String]) -> Vec<String> {
        let told = texts.iter().filter(|text| self.texts.contains(text));
        told.cloned().collect()
    }
}

/// Returns a message about where the author of a pod finds what is withheld.
pub(super) fn withheld(namespace: &str) -> String {
    let namespace = quote::shown(namespace);
    format!(
        "a namespace annotation is not accepted, or conflicts with the pod's own: check the annotations under sidescale.io/ of namespace {namespace}, and Sidescale's log for the reason"
    )
}

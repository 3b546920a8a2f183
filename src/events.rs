//! Core Events for people who look with `kubectl describe` or `get events`; without a cluster, log lines. I/O.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::{debug, info};

use crate::clock::Clock;

/// The same thing is said of one object at most this often.
const QUIET_FOR: Duration = Duration::from_secs(600);

/// Bounds how much is remembered, and so how many Events one spell of trouble can make.
const MOST: usize = 256;

/// An Event's note may have 1024 bytes.
const LONGEST_NOTE: usize = 1000;

const DEADLINE: Duration = Duration::from_secs(5);

/// Something to tell the owner of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Namespace of the Secret that it is about.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Whether somebody has to act.
    pub warning: bool,
    /// One word, from an enum's `as_str`.
    pub reason: &'static str,
    /// What happened and what to do, never a key's value.
    pub note: String,
}

/// Namespace, Secret and reason of a notice.
type About = (String, String, &'static str);

/// Publishes notices; clones share one limiter.
#[derive(Clone)]
pub struct Events {
    recorder: Option<Recorder>,
    clock: Clock,
    said: Arc<Mutex<HashMap<About, Timestamp>>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Publishes to the cluster, as `instance`.
    #[must_use]
    pub fn kubernetes(client: Client, instance: String, clock: Clock) -> Self {
        let reporter = Reporter {
            controller: "sidescale".to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Some(Recorder::new(client, reporter)),
            ..Self::log(clock)
        }
    }

    /// Writes to the log alone.
    #[must_use]
    pub fn log(clock: Clock) -> Self {
        Self {
            recorder: None,
            clock,
            said: Arc::default(),
        }
    }

    /// Publishes a notice, unless the same was said of the object a short while ago. Trouble is only logged.
    pub async fn publish(&self, notice: &Notice) {
        if !self.allow(notice) {
            return;
        }
        let Notice {
            namespace,
            secret,
            warning,
            reason,
            note,
        } = notice;
        let Some(recorder) = &self.recorder else {
            info!(namespace, secret, reason, note, "Event");
            return;
        };
        let type_ = if *warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: (*reason).to_owned(),
            note: Some(cut(note)),
            action: "Rotate".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(secret.clone()),
            ..ObjectReference::default()
        };
        match tokio::time::timeout(DEADLINE, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(namespace, secret, reason, %error, "Event was not published"),
            Err(_) => debug!(namespace, secret, reason, "Event was not published in time"),
        }
    }

    fn allow(&self, notice: &Notice) -> bool {
        let now = self.clock.now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.duration_since(*at).unsigned_abs() < QUIET_FOR);
        let about = (
            notice.namespace.clone(),
            notice.secret.clone(),
            notice.reason,
        );
        said.len() < MOST && said.insert(about, now).is_none()
    }
}

fn cut(note: &str) -> String {
    let end = (0..=LONGEST_NOTE.min(note.len()))
        .rev()
        .find(|end| note.is_char_boundary(*end));
    note[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_same_once_in_ten_minutes() {
        let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);
        let events = Events::log(clock.clone());
        let notice = Notice {
            namespace: "shop".into(),
            secret: "headscale-auth-keys".into(),
            warning: true,
            reason: "SecretNotOurs",
            note: String::new(),
        };
        assert!(events.allow(&notice));
        assert!(!events.allow(&notice));
        assert!(events.allow(&Notice {
            reason: "UserNotOurs",
            ..notice.clone()
        }));
        clock.advance(QUIET_FOR);
        assert!(events.allow(&notice));
    }

    #[test]
    fn cuts_a_long_note_between_characters() {
        assert_eq!(cut(&"ä".repeat(600)).len(), 1000);
        assert_eq!(cut("short"), "short");
    }
}

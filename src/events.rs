//! Core Events for people who look with `kubectl describe` or `get events`; without a cluster, log lines. I/O.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
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

/// Of what nobody has to act on: the rest is kept for trouble.
const MOST_NORMAL: usize = 128;

/// An Event's note may have 1024 bytes.
const LONGEST_NOTE: usize = 1000;

const DEADLINE: Duration = Duration::from_secs(5);

/// What a notice is about, in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// The ConfigMap of that name.
    ConfigMap(String),
    /// The Secret of that name.
    Secret(String),
    /// The pod of that name.
    Pod {
        /// Its name.
        name: String,
        /// Its uid, by which `kubectl describe` finds what was said of it.
        uid: u128,
    },
    /// Something that makes pods.
    Workload {
        /// Its API version.
        api_version: &'static str,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its uid; without it `kubectl events --for` finds what was said, and `kubectl describe` does not.
        uid: Option<u128>,
    },
}

/// Something to tell the owner of a Secret or pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Namespace of what it is about.
    pub namespace: String,
    /// What it is about.
    pub about: About,
    /// Whether somebody has to act.
    pub warning: bool,
    /// One word, from an enum's `as_str`.
    pub reason: &'static str,
    /// What happened and what to do, never a key's value.
    pub note: String,
}

/// Namespace, object and reason of a notice, and a hash of the note where another note is other news.
type Said = (String, About, &'static str, Option<u64>);

/// Publishes notices; clones share one limiter.
#[derive(Clone)]
pub struct Events {
    cluster: Option<(Client, Reporter)>,
    clock: Clock,
    said: Arc<Mutex<HashMap<Said, Timestamp>>>,
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
            cluster: Some((client, reporter)),
            ..Self::log(clock)
        }
    }

    /// Writes to the log alone.
    #[must_use]
    pub fn log(clock: Clock) -> Self {
        Self {
            cluster: None,
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
            about,
            warning,
            reason,
            note,
        } = notice;
        let object = about.name();
        let Some((client, reporter)) = &self.cluster else {
            info!(namespace, object, reason, note, "Event");
            return;
        };
        // One that is kept would count a second note as the first said once more. What is the same does not come here.
        let recorder = Recorder::new(client.clone(), reporter.clone());
        let type_ = if *warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: (*reason).to_owned(),
            note: Some(cut(note)),
            action: about.action().to_owned(),
            secondary: None,
        };
        let about = about.reference(namespace);
        match tokio::time::timeout(DEADLINE, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(namespace, object, reason, %error, "Event was not published"),
            Err(_) => debug!(namespace, object, reason, "Event was not published in time"),
        }
    }

    fn allow(&self, notice: &Notice) -> bool {
        let now = self.clock.now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.duration_since(*at).unsigned_abs() < QUIET_FOR);
        let about = (
            notice.namespace.clone(),
            notice.about.clone(),
            notice.reason,
            notice.about.told_apart_by(&notice.note),
        );
        let most = if notice.warning { MOST } else { MOST_NORMAL };
        if said.len() >= most {
            return false;
        }
        match said.entry(about) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
            // What is suppressed is not said: its time stays, or what comes every few minutes would never be said again.
            Entry::Occupied(_) => false,
        }
    }
}

impl About {
    /// A Secret.
    #[must_use]
    pub fn secret(name: &str) -> Self {
        Self::Secret(name.to_owned())
    }

    /// A pod.
    #[must_use]
    pub fn pod(name: &str, uid: u128) -> Self {
        Self::Pod {
            name: name.to_owned(),
            uid,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::ConfigMap(name)
            | Self::Secret(name)
            | Self::Pod { name, uid: _ }
            | Self::Workload { name, .. } => name,
        }
    }

    /// What tells two notes of one reason apart: of a ConfigMap each mistake is another, elsewhere numbers alone differ.
    fn told_apart_by(&self, note: &str) -> Option<u64> {
        match self {
            Self::ConfigMap(_) => {
                let mut hasher = DefaultHasher::new();
                note.hash(&mut hasher);
                Some(hasher.finish())
            }
            Self::Secret(_) | Self::Pod { .. } | Self::Workload { .. } => None,
        }
    }

    /// What was being done when it was noticed.
    fn action(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "Reload",
            Self::Secret(_) | Self::Workload { .. } => "Rotate",
            Self::Pod { .. } => "Join",
        }
    }

    fn reference(&self, namespace: &str) -> ObjectReference {
        let (api_version, kind, uid) = match self {
            Self::ConfigMap(_) => ("v1", "ConfigMap", None),
            Self::Secret(_) => ("v1", "Secret", None),
            Self::Pod { name: _, uid } => ("v1", "Pod", Some(*uid)),
            Self::Workload {
                api_version,
                kind,
                name: _,
                uid,
            } => (*api_version, *kind, *uid),
        };
        ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(self.name().to_owned()),
            uid: uid.map(|uid| uuid::Uuid::from_u128(uid).to_string()),
            ..ObjectReference::default()
        }
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
            about: About::secret("headscale-auth-keys"),
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
    fn what_is_said_every_few_minutes_is_said_again() {
        let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);
        let events = Events::log(clock.clone());
        let said: Vec<bool> = (0..7)
            .map(|_| {
                let said = events.allow(&refused("a"));
                clock.advance(QUIET_FOR / 3);
                said
            })
            .collect();
        assert_eq!(said, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_second_mistake_in_the_configuration_is_news_and_another_count_is_none() {
        let events = Events::log(Clock::scaled(Timestamp::UNIX_EPOCH, 0.0));
        assert!(events.allow(&refused("a")));
        assert!(events.allow(&refused("b")));
        assert!(!events.allow(&refused("a")));
        let of_secret = |note| Notice {
            about: About::secret("headscale-auth-keys"),
            ..refused(note)
        };
        assert!(events.allow(&of_secret("1 pod")));
        assert!(!events.allow(&of_secret("2 pods")));
    }

    fn refused(note: &str) -> Notice {
        Notice {
            namespace: "sidescale".into(),
            about: About::ConfigMap("sidescale-config".into()),
            warning: true,
            reason: "ConfigurationRefused",
            note: note.to_owned(),
        }
    }

    #[test]
    fn good_news_leaves_room_for_trouble() {
        let events = Events::log(Clock::scaled(Timestamp::UNIX_EPOCH, 0.0));
        let notice = |n: usize, warning| Notice {
            namespace: "shop".into(),
            about: About::Secret(n.to_string()),
            warning,
            reason: "KeyRotated",
            note: String::new(),
        };
        let said = (0..1_000).filter(|n| events.allow(&notice(*n, false)));
        assert_eq!(said.count(), MOST_NORMAL);
        assert!(events.allow(&notice(1_000, true)));
    }

    #[test]
    fn a_pod_is_named_with_its_uid_and_a_secret_without() {
        let uid = uuid::Uuid::parse_str("6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11").unwrap();
        let pod = About::pod("api-0", uid.as_u128()).reference("shop");
        assert_eq!(
            (pod.kind.as_deref(), pod.uid),
            (Some("Pod"), Some(uid.to_string()))
        );
        let secret = About::secret("keys").reference("shop");
        assert_eq!((secret.kind.as_deref(), secret.uid), (Some("Secret"), None));
    }

    #[test]
    fn cuts_a_long_note_between_characters() {
        assert_eq!(cut(&"ä".repeat(600)).len(), 1000);
        assert_eq!(cut("short"), "short");
    }
}

//! Core Events for people who look with `kubectl describe` or `get events`; without a cluster, log lines. I/O.
//!
//! Nobody waits for an Event: what is published is queued for a [`Publisher`], which is a task of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Reporter};
use sidescale_webhook::forms::is_dns_subdomain;
use tracing::{debug, info, warn};

use crate::alert_log::{Alert, AlertClass, AlertLog, AlertVerdict, BUDGET, WINDOW};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::quote::{printable, quoted};

mod notice;
mod queue;

pub use notice::{About, Notice, Topic};
use queue::EventQueue;
pub use queue::Publisher;

/// An Event's note may have 1024 bytes.
const LONGEST_NOTE: usize = 1000;

/// Reasons that no budget holds back and that are published first: keys that end, and control planes.
const URGENT: [&str; 7] = [
    "KeyOverdue",
    "KeyExpiring",
    "KeyExpired",
    "NoCredentials",
    "InvalidCredentials",
    "Unsupported",
    "Degraded",
];

/// Publishes notices, and decides what is said at all; clones share one queue and one [`AlertLog`].
#[derive(Clone)]
pub struct Events {
    queue: Option<EventQueue>,
    metrics: Option<Arc<Metrics>>,
    clock: Clock,
    log: Arc<Mutex<AlertLog>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Publishes to the cluster, as `instance`, for as long as the [`Publisher`] runs.
    #[must_use]
    pub fn kubernetes(
        client: Client,
        instance: String,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> (Self, Publisher) {
        let reporter = Reporter {
            controller: "sidescale".to_owned(),
            instance: Some(instance),
        };
        let (queue, publisher) = EventQueue::new(client, reporter, Arc::clone(&metrics));
        let events = Self {
            queue: Some(queue),
            metrics: Some(metrics),
            ..Self::log(clock)
        };
        (events, publisher)
    }

    /// Writes to the log alone.
    #[must_use]
    pub fn log(clock: Clock) -> Self {
        Self {
            queue: None,
            metrics: None,
            clock,
            log: Arc::default(),
        }
    }

    /// Publishes a notice, unless the same was said of the object within ten minutes, or its namespace has had as many as
    /// it may have. Says whether it is news. Waits for nothing; trouble is only logged.
    pub fn publish(&self, notice: &Notice) -> bool {
        self.publish_every(WINDOW, notice)
    }

    /// Publishes a notice, unless the same was said of the object within `every`. Says whether it is news.
    pub fn publish_every(&self, every: Duration, notice: &Notice) -> bool {
        let topic = Topic::of(notice);
        let class = if notice.warning {
            AlertClass::Problem
        } else {
            AlertClass::News
        };
        let news = self.admit(every, class, &topic);
        if news {
            self.send(&topic, notice);
        }
        news
    }

    /// Whether to say now that something is the matter: not within `every` of the last time, and only as long as its
    /// namespace has room. Who is told yes goes on to [`Events::send`].
    #[must_use]
    pub fn claim(&self, every: Duration, topic: &Topic) -> bool {
        self.admit(every, AlertClass::Problem, topic)
    }

    /// Publishes a notice whose topic was claimed.
    pub fn send(&self, topic: &Topic, notice: &Notice) {
        // What has no room is said at the next occasion.
        if !self.push(notice) {
            self.lock()
                .forget(&topic.namespace, &topic.object, topic.reason);
        }
    }

    /// Notes that something is the matter no more.
    pub fn over(&self, topic: &Topic) {
        self.lock()
            .over(&topic.namespace, &topic.object, topic.reason);
    }

    /// When the same may be said again; none if it may be said at any time.
    #[must_use]
    pub fn again(&self, topic: &Topic) -> Option<Timestamp> {
        self.lock()
            .again(&topic.namespace, &topic.object, topic.reason)
    }

    /// Whether to write a line to the log about it: not within `every` of the last one, and only as long as its namespace
    /// has room for one more.
    #[must_use]
    pub fn may_log(&self, every: Duration, topic: &Topic) -> bool {
        self.admit(every, AlertClass::Line, topic)
    }

    fn admit(&self, every: Duration, class: AlertClass, topic: &Topic) -> bool {
        let Topic {
            namespace,
            object,
            reason,
        } = topic;
        let urgent = class != AlertClass::Line && URGENT.contains(reason);
        let alert = Alert {
            namespace,
            object,
            reason,
            class: if urgent { AlertClass::Urgent } else { class },
            every,
        };
        let first = match self.lock().admit(self.clock.now(), &alert) {
            AlertVerdict::Report => return true,
            AlertVerdict::Repeat => return false,
            AlertVerdict::OverBudget { first } => first,
        };
        if let Some(metrics) = &self.metrics {
            metrics.events.over_budget(class != AlertClass::Line);
        }
        if first {
            let object = quoted(object);
            warn!(
                namespace,
                object,
                reason,
                budget = BUDGET,
                "Namespace exceeded its alert limit for ten minutes: dropping alerts, this one first"
            );
        }
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AlertLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether the notice is on its way.
    fn push(&self, notice: &Notice) -> bool {
        let Notice {
            namespace,
            about,
            warning,
            reason,
            note,
        } = notice;
        let (object, note) = (about.name(), cut(&printable(note)));
        // The name of an owner is whatever the author of a pod says.
        if !is_dns_subdomain(object, 253) {
            let object = quoted(object);
            debug!(
                namespace,
                object, reason, "Event skipped: invalid object name"
            );
            return true;
        }
        let Some(queue) = &self.queue else {
            info!(namespace, object, reason, note, "Event");
            return true;
        };
        let type_ = if *warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: (*reason).to_owned(),
            note: Some(note),
            action: about.action().to_owned(),
            secondary: None,
        };
        let about = about.reference(namespace);
        queue.push(Box::new((event, about)), URGENT.contains(reason))
    }
}

fn cut(note: &str) -> String {
    let end = (0..=LONGEST_NOTE.min(note.len()))
        .rev()
        .find(|end| note.is_char_boundary(*end));
    note[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests;

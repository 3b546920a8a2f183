//! Events for people who use `kubectl describe` or `get events`; without a cluster, log lines. I/O.
//!
//! Publishing does not block: an Event is queued for a [`Publisher`], which is a separate task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Reporter};
use sidescale_core::notice::{Notice, Topic};
use sidescale_core::quote::{printable, quoted};
use sidescale_webhook::forms::is_dns_subdomain;
use tracing::{debug, info, warn};

use crate::alert_log::{Alert, AlertClass, AlertLog, AlertVerdict, BUDGET, WINDOW};
use crate::clock::Clock;
use crate::metrics::Metrics;

mod queue;
mod reference;

use queue::EventQueue;
pub use queue::Publisher;
use reference::{action, reference};

/// An Event's note may have 1024 bytes.
const LONGEST_NOTE: usize = 1000;

/// Reasons that no budget limits and that are published first: expiring keys, and control planes.
const URGENT: [&str; 7] = [
    "KeyOverdue",
    "KeyExpiring",
    "KeyExpired",
    "NoCredentials",
    "InvalidCredentials",
    "Unsupported",
    "Degraded",
];

/// Publishes notices, and decides which are reported; clones share one queue and one [`AlertLog`].
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
    /// Publishes to the cluster, as `instance`, while the [`Publisher`] runs.
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

    /// Writes only to the log.
    #[must_use]
    pub fn log(clock: Clock) -> Self {
        Self {
            queue: None,
            metrics: None,
            clock,
            log: Arc::default(),
        }
    }

    /// Publishes a notice, unless it repeats one about the object within ten minutes, or its namespace's budget is used
    /// up. Returns whether it is new. Does not wait; problems are only logged.
    pub fn publish(&self, notice: &Notice) -> bool {
        self.publish_every(WINDOW, notice)
    }

    /// Publishes a notice, unless it repeats one about the object within `every`. Returns whether it is new.
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

    /// Returns whether to report a problem now: not within `every` of the last time, and only within its namespace's
    /// budget. On `true` the caller continues with [`Events::send`].
    #[must_use]
    pub fn claim(&self, every: Duration, topic: &Topic) -> bool {
        self.admit(every, AlertClass::Problem, topic)
    }

    /// Publishes a notice with a claimed topic.
    pub fn send(&self, topic: &Topic, notice: &Notice) {
        // A notice that found the queue full is reported at the next occasion.
        if !self.push(notice) {
            self.lock()
                .forget(&topic.namespace, &topic.object, topic.reason);
        }
    }

    /// Records that a problem is solved.
    pub fn over(&self, topic: &Topic) {
        self.lock()
            .over(&topic.namespace, &topic.object, topic.reason);
    }

    /// Returns when the same may be reported again; `None` if at any time.
    #[must_use]
    pub fn again(&self, topic: &Topic) -> Option<Timestamp> {
        self.lock()
            .again(&topic.namespace, &topic.object, topic.reason)
    }

    /// Whether to log a line about it: not within `every` of the last one, and only within its namespace's budget.
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

    /// Returns whether the notice was queued.
    fn push(&self, notice: &Notice) -> bool {
        let Notice {
            namespace,
            about,
            warning,
            reason,
            note,
        } = notice;
        let (object, note) = (about.name(), cut(&printable(note)));
        // The author of a pod chooses the name of an owner.
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
            action: action(about).to_owned(),
            secondary: None,
        };
        let about = reference(about, namespace);
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

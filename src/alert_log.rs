//! What was reported about each object, so that no report is repeated and no namespace uses another's budget. Pure.
//!
//! Each namespace has its own budget for Events, and one for log lines. Alerts about expiring keys and about control
//! planes do not count towards it: they are few, and everything else is less urgent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::time::after;

/// Number of Events, each about another object or with another reason, that a namespace gets within [`WINDOW`]. An
/// owner with that many looks at the state of the namespace and not at Events.
pub const BUDGET: usize = 32;

/// Part of the budget for news that needs no action: the rest is for problems.
const NEWS: usize = 16;

/// Time window of a namespace's budget.
pub const WINDOW: Duration = Duration::from_secs(600);

/// How far a clock may go back without anything being reported again.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// Maximum number of namespaces. With [`MOST_OF_ONE`] entries of some 60 bytes each that is at most 16 MB, and some
/// kilobytes in a quiet cluster.
const MOST_NAMESPACES: usize = 1_024;

/// Maximum alerts per namespace: more than its budget has within the longest period, an hour.
const MOST_OF_ONE: usize = 256;

/// The budget of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertClass {
    /// An Event that needs no action.
    News,
    /// An Event that needs action.
    Problem,
    /// A line of the log.
    Line,
    /// No budget: an expiring key, or a control plane.
    Urgent,
}

/// Something that may be reported.
#[derive(Clone, Copy, Debug)]
pub struct Alert<'a> {
    /// Namespace of the object.
    pub namespace: &'a str,
    /// Kind and name of the object, and what distinguishes two alerts about it.
    pub object: &'a str,
    /// One word, from an enum's `as_str`.
    pub reason: &'a str,
    /// Its budget.
    pub class: AlertClass,
    /// Minimum time before it is reported again.
    pub every: Duration,
}

/// Whether to report an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertVerdict {
    /// It is new, or was reported long ago.
    Report,
    /// It was reported a short while ago.
    Repeat,
    /// The budget of its namespace is used up.
    OverBudget {
        /// Whether this is the first alert of the namespace that is dropped within [`WINDOW`].
        first: bool,
    },
}

/// Record of the reported alerts.
#[derive(Debug, Default)]
pub struct AlertLog {
    namespaces: HashMap<String, Reported>,
    swept: Timestamp,
    /// Keys are hashed with a secret of this process, so that collisions cannot be provoked.
    hasher: RandomState,
}

/// The reported alerts of one namespace.
#[derive(Debug, Default)]
struct Reported {
    alerts: HashMap<u64, LastReport>,
    latest: Timestamp,
    /// When the first alert of a series was dropped.
    over_budget: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct LastReport {
    at: Timestamp,
    every: Duration,
    class: AlertClass,
}

impl AlertLog {
    /// Decides whether to report an alert, and records it if so.
    pub fn admit(&mut self, now: Timestamp, alert: &Alert<'_>) -> AlertVerdict {
        self.sweep(now);
        let key = self.key(alert.class == AlertClass::Line, alert.object, alert.reason);
        if !self.namespaces.contains_key(alert.namespace) {
            self.make_room();
        }
        let reported = self
            .namespaces
            .entry(alert.namespace.to_owned())
            .or_default();
        reported.alerts.retain(|_, last| last.counts(now));
        if let Some(last) = reported.alerts.get(&key)
            && is_within(now, last.at, last.every)
        {
            return AlertVerdict::Repeat;
        }
        if reported.is_over_budget(now, alert.class) {
            let known = reported
                .over_budget
                .filter(|at| is_within(now, *at, WINDOW));
            reported.over_budget = known.or(Some(now));
            return AlertVerdict::OverBudget {
                first: known.is_none(),
            };
        }
        reported.make_room();
        reported.latest = now;
        let last = LastReport {
            at: now,
            every: alert.every,
            class: alert.class,
        };
        reported.alerts.insert(key, last);
        AlertVerdict::Report
    }

    /// Returns when a reported alert may be reported again; `None` if at any time.
    #[must_use]
    pub fn again(&self, namespace: &str, object: &str, reason: &str) -> Option<Timestamp> {
        let reported = self.namespaces.get(namespace)?;
        let last = reported.alerts.get(&self.key(false, object, reason))?;
        Some(after(last.at, last.every))
    }

    /// Records that the problem of an alert is solved: if it returns, it is reported again after [`WINDOW`] at the
    /// latest.
    pub fn over(&mut self, namespace: &str, object: &str, reason: &str) {
        let key = self.key(false, object, reason);
        let reported = self.namespaces.get_mut(namespace);
        if let Some(last) = reported.and_then(|reported| reported.alerts.get_mut(&key)) {
            last.every = last.every.min(WINDOW);
        }
    }

    /// Removes the record of an alert that could not be sent.
    pub fn forget(&mut self, namespace: &str, object: &str, reason: &str) {
        let key = self.key(false, object, reason);
        if let Entry::Occupied(mut reported) = self.namespaces.entry(namespace.to_owned()) {
            reported.get_mut().alerts.remove(&key);
            if reported.get().is_idle() {
                reported.remove();
            }
        }
    }

    /// An Event and a log line about the same alert count separately.
    fn key(&self, is_line: bool, object: &str, reason: &str) -> u64 {
        self.hasher.hash_one((is_line, object, reason))
    }

    /// Removes the outdated alerts of all namespaces.
    fn sweep(&mut self, now: Timestamp) {
        if is_within(now, self.swept, WINDOW) {
            return;
        }
        self.swept = now;
        for reported in self.namespaces.values_mut() {
            reported.alerts.retain(|_, last| last.counts(now));
            let over_budget = reported.over_budget.take();
            reported.over_budget = over_budget.filter(|at| is_within(now, *at, WINDOW));
        }
        self.namespaces.retain(|_, reported| !reported.is_idle());
    }

    /// Removes the namespace that was quiet for longest, if the maximum is reached.
    fn make_room(&mut self) {
        if self.namespaces.len() < MOST_NAMESPACES {
            return;
        }
        let oldest = self.namespaces.iter();
        let oldest = oldest.min_by_key(|(_, reported)| reported.latest);
        if let Some(oldest) = oldest.map(|(namespace, _)| namespace.clone()) {
            self.namespaces.remove(&oldest);
        }
    }
}

impl Reported {
    fn is_over_budget(&self, now: Timestamp, class: AlertClass) -> bool {
        let recent = self.alerts.values();
        let recent = recent.filter(|last| is_within(now, last.at, WINDOW));
        let count =
            |of: &dyn Fn(AlertClass) -> bool| recent.clone().filter(|last| of(last.class)).count();
        let is_event = |class| matches!(class, AlertClass::News | AlertClass::Problem);
        match class {
            AlertClass::News => count(&is_event) >= NEWS,
            AlertClass::Problem => count(&is_event) >= BUDGET,
            AlertClass::Line => count(&|class| class == AlertClass::Line) >= BUDGET,
            AlertClass::Urgent => false,
        }
    }

    /// Removes the oldest alert, if the maximum is reached.
    fn make_room(&mut self) {
        if self.alerts.len() < MOST_OF_ONE {
            return;
        }
        let oldest = self.alerts.iter().min_by_key(|(_, last)| last.at);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            self.alerts.remove(&oldest);
        }
    }

    fn is_idle(&self) -> bool {
        self.alerts.is_empty() && self.over_budget.is_none()
    }
}

impl LastReport {
    /// Whether it still counts, as a repetition or towards the budget.
    fn counts(&self, now: Timestamp) -> bool {
        is_within(now, self.at, self.every.max(WINDOW))
    }
}

/// Whether `at` is within the last `span`. A future time is from before the clock was set back.
fn is_within(now: Timestamp, at: Timestamp, span: Duration) -> bool {
    now < after(at, span) && at.duration_since(now) <= SKEW
}

#[cfg(test)]
mod tests;

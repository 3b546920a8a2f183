//! Which Secret comes next: new pods before repairs, before renewals, before cleanup; who fails waits. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::demand::SecretRef;
use crate::clock::after;

/// Renewals that are due together begin this far apart: five a second.
const RENEWAL_GAP: Duration = Duration::from_millis(200);

const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Nothing waits longer than this after a failure.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Kinds of work, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Pods changed: some may wait for a first key.
    New,
    /// Keys that are due or may be tried again.
    Renewal,
    /// Keys to end, records to tidy.
    Cleanup,
}

/// Work on one Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which.
    pub secret: SecretRef,
    /// What for.
    pub class: Class,
}

/// Holds when each Secret is to be looked at, and for what.
#[derive(Debug, Default)]
pub struct Queue {
    wanted: BTreeMap<SecretRef, BTreeMap<Class, Timestamp>>,
    running: BTreeSet<SecretRef>,
    renewals_from: Option<Timestamp>,
}

impl Queue {
    /// Asks for work at a time; an earlier time that is known stays.
    pub fn want(&mut self, secret: &SecretRef, class: Class, at: Timestamp) {
        let times = self.wanted.entry(secret.clone()).or_default();
        let time = times.entry(class).or_insert(at);
        *time = at.min(*time);
    }

    /// Takes the most urgent job whose time has come; its Secret is left alone until [`Queue::done`].
    pub fn next(&mut self, now: Timestamp) -> Option<Job> {
        let ready = |at: Timestamp, class: Class| at.max(self.opens(class)) <= now;
        let (class, at, secret) = self
            .free()
            .filter(|(_, class, at)| ready(*at, *class))
            .map(|(secret, class, at)| (class, at, secret.clone()))
            .min()?;
        if class == Class::Renewal {
            self.renewals_from = Some(after(at.max(self.opens(class)).max(now), RENEWAL_GAP));
        }
        if let Some(times) = self.wanted.get_mut(&secret) {
            times.remove(&class);
        }
        self.running.insert(secret.clone());
        Some(Job { secret, class })
    }

    /// Forgets its pace: the clock was set back, and what was put off to a time would be put off for longer.
    pub fn set_back(&mut self) {
        self.renewals_from = None;
    }

    /// Gives the Secret back after its job.
    pub fn done(&mut self, secret: &SecretRef) {
        self.running.remove(secret);
        self.wanted.retain(|_, times| !times.is_empty());
    }

    /// When the next job will be ready.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        self.free()
            .map(|(_, class, at)| at.max(self.opens(class)))
            .min()
    }

    fn free(&self) -> impl Iterator<Item = (&SecretRef, Class, Timestamp)> {
        let free = self
            .wanted
            .iter()
            .filter(|(secret, _)| !self.running.contains(*secret));
        free.flat_map(|(secret, times)| times.iter().map(move |(class, at)| (secret, *class, *at)))
    }

    fn opens(&self, class: Class) -> Timestamp {
        match class {
            Class::Renewal => self.renewals_from.unwrap_or(Timestamp::MIN),
            Class::New | Class::Cleanup => Timestamp::MIN,
        }
    }
}

/// Waits longer after each failure, up to five minutes, never quite as long as its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// When it may be tried again.
    pub until: Option<Timestamp>,
}

impl Backoff {
    /// Counts a failure; `jitter` is from 0 to 1.
    pub fn failed(&mut self, now: Timestamp, jitter: f64) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(after(now, wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)));
    }

    /// Until when it waits, if it still does.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> Option<Timestamp> {
        // One that lies further off was set by a clock that has gone back since.
        self.until
            .filter(|until| now < *until && *until <= after(now, LONGEST_RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn secret(namespace: &str) -> SecretRef {
        SecretRef {
            namespace: namespace.into(),
            name: "headscale-auth-keys".into(),
        }
    }

    #[test]
    fn new_pods_overtake_renewals_and_renewals_overtake_cleanup() {
        let mut queue = Queue::default();
        queue.want(&secret("a"), Class::Cleanup, at(1));
        queue.want(&secret("b"), Class::Renewal, at(2));
        queue.want(&secret("c"), Class::New, at(3));
        let order: Vec<_> = std::iter::from_fn(|| queue.next(at(10)))
            .map(|job| job.class)
            .collect();
        assert_eq!(order, [Class::New, Class::Renewal, Class::Cleanup]);
    }

    #[test]
    fn a_secret_is_worked_on_once_at_a_time_and_again_if_it_changed_meanwhile() {
        let mut queue = Queue::default();
        queue.want(&secret("a"), Class::New, at(1));
        assert!(queue.next(at(1)).is_some());
        queue.want(&secret("a"), Class::New, at(2));
        assert_eq!(queue.next(at(5)), None);
        assert_eq!(queue.wake(), None);
        queue.done(&secret("a"));
        assert_eq!(queue.wake(), Some(at(2)));
        assert!(queue.next(at(5)).is_some());
        queue.done(&secret("a"));
        assert_eq!(queue.wake(), None);
    }

    #[test]
    fn renewals_that_are_due_together_run_five_a_second() {
        let mut queue = Queue::default();
        for namespace in ["a", "b", "c"] {
            queue.want(&secret(namespace), Class::Renewal, at(0));
        }
        assert!(queue.next(at(0)).is_some());
        assert_eq!(queue.next(at(199)), None);
        assert_eq!(queue.wake(), Some(at(200)));
        assert!(queue.next(at(200)).is_some());
        assert_eq!(queue.next(at(399)), None);
        queue.want(&secret("d"), Class::New, at(200));
        assert_eq!(queue.next(at(201)).unwrap().class, Class::New);
    }

    #[test]
    fn who_fails_waits_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        for (jitter, millis) in [(1.0, 1_000), (0.0, 1_000), (1.0, 4_000)] {
            backoff.failed(at(0), jitter);
            assert_eq!(
                backoff.waits(at(0)),
                Some(at(millis)),
                "after {} failures",
                backoff.failures
            );
        }
        for _ in 0..100 {
            backoff.failed(at(0), 1.0);
        }
        assert_eq!(backoff.waits(at(0)), Some(at(300_000)));
        assert_eq!(backoff.waits(at(300_000)), None);
    }
}

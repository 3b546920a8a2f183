//! The order of jobs: new pods before repairs, before renewals, before cleanup; after a failure, a Secret waits. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;

/// Time between the starts of renewals that are due together: five a second.
const RENEWAL_GAP: Duration = Duration::from_millis(200);

/// Maximum number of jobs at a time.
const AT_ONCE: usize = 8;

/// Maximum number of jobs for new pods: one place remains, so that renewals are not delayed forever.
const MOST_NEW: usize = 7;

/// Maximum number of other jobs: half of the places remain, as a slow server must not delay new pods.
const MOST_OTHERS: usize = 4;

/// How long new pods wait for a running job on their Secret: that job may hang at another service.
const PATIENCE: Duration = Duration::from_secs(1);

/// Maximum number of jobs on one Secret; the second is reserved for new pods.
const MOST_OF_ONE: usize = 2;

/// Kinds of work, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobClass {
    /// Pods changed: some may wait for a first key.
    New,
    /// Keys that are due or may be tried again.
    Renewal,
    /// Keys to expire, records to clean up.
    Cleanup,
}

/// A job on one Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The Secret to work on.
    pub secret: SecretRef,
    /// What the job is for.
    pub class: JobClass,
    /// Unique number; later jobs have greater numbers.
    pub number: u64,
}

/// When each Secret is due, and for what.
#[derive(Debug, Default)]
pub struct JobQueue {
    wanted: BTreeMap<SecretRef, BTreeMap<JobClass, Timestamp>>,
    running: BTreeMap<SecretRef, Vec<Running>>,
    renewals_from: Option<Timestamp>,
    given_out: u64,
}

/// A running job.
#[derive(Clone, Copy, Debug)]
struct Running {
    number: u64,
    class: JobClass,
    began: Timestamp,
}

impl JobQueue {
    /// Requests a job at a time; an earlier time that was requested stays.
    pub fn want(&mut self, secret: &SecretRef, class: JobClass, at: Timestamp) {
        let times = self.wanted.entry(secret.clone()).or_default();
        let time = times.entry(class).or_insert(at);
        *time = at.min(*time);
    }

    /// Takes the most urgent job that is due. Its Secret is blocked until [`JobQueue::done`], except for new pods, which overtake a
    /// job that takes long.
    pub fn next(&mut self, now: Timestamp) -> Option<Job> {
        let opens = self.opens();
        let (class, secret) = self
            .free()
            .filter(|(_, class, at)| *at <= now && opens(*class).is_some_and(|opens| opens <= now))
            .map(|(secret, class, at)| (class, at, secret))
            .min()
            .map(|(class, _, secret)| (class, secret.clone()))?;
        if class == JobClass::Renewal {
            self.renewals_from = Some(after(now, RENEWAL_GAP));
        }
        if let Some(times) = self.wanted.get_mut(&secret) {
            times.remove(&class);
        }
        self.given_out += 1;
        let number = self.given_out;
        let running = self.running.entry(secret.clone()).or_default();
        running.push(Running {
            number,
            class,
            began: now,
        });
        Some(Job {
            secret,
            class,
            number,
        })
    }

    /// Resets the times that depend on the clock: it was set back, which would delay them.
    pub fn set_back(&mut self) {
        self.renewals_from = None;
        for running in self.running.values_mut().flatten() {
            running.began = Timestamp::MIN;
        }
    }

    /// Releases the Secret after the job with that number.
    pub fn done(&mut self, secret: &SecretRef, number: u64) {
        if let Some(running) = self.running.get_mut(secret) {
            running.retain(|running| running.number != number);
        }
        if self.running.get(secret).is_some_and(Vec::is_empty) {
            self.running.remove(secret);
        }
        if self.wanted.get(secret).is_some_and(BTreeMap::is_empty) {
            self.wanted.remove(secret);
        }
    }

    /// Returns when the next job can start; none while all places are taken.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        let opens = self.opens();
        self.free()
            .filter_map(|(_, class, at)| Some(at.max(opens(class)?)))
            .min()
    }

    /// Returns the requested jobs whose Secret is free, and when each may start.
    fn free(&self) -> impl Iterator<Item = (&SecretRef, JobClass, Timestamp)> {
        self.wanted.iter().flat_map(|(secret, times)| {
            let running = self.running.get(secret).map_or(&[][..], Vec::as_slice);
            let overtakes = running.iter().map(|running| after(running.began, PATIENCE));
            let overtakes = overtakes.max().unwrap_or(Timestamp::MIN);
            let free = move |class: &JobClass| match class {
                JobClass::New => running.len() < MOST_OF_ONE,
                JobClass::Renewal | JobClass::Cleanup => running.is_empty(),
            };
            let free = times.iter().filter(move |(class, _)| free(class));
            free.map(move |(class, at)| (secret, *class, overtakes.max(*at)))
        })
    }

    /// Returns from when on there is a place for each class; none while all are taken.
    fn opens(&self) -> impl Fn(JobClass) -> Option<Timestamp> + use<> {
        let (mut new, mut others) = (0, 0);
        for running in self.running.values().flatten() {
            match running.class {
                JobClass::New => new += 1,
                JobClass::Renewal | JobClass::Cleanup => others += 1,
            }
        }
        let any = new + others < AT_ONCE;
        let renewals_from = self.renewals_from.unwrap_or(Timestamp::MIN);
        move |class| {
            let (place, from) = match class {
                JobClass::New => (new < MOST_NEW, Timestamp::MIN),
                JobClass::Renewal => (others < MOST_OTHERS, renewals_from),
                JobClass::Cleanup => (others < MOST_OTHERS, Timestamp::MIN),
            };
            (any && place).then_some(from)
        }
    }
}

#[cfg(test)]
mod tests;

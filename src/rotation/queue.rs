//! Which Secret comes next: new pods before repairs, before renewals, before cleanup; who fails waits. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::demand::SecretRef;
use crate::clock::after;

/// Renewals that are due together begin this far apart: five a second.
const RENEWAL_GAP: Duration = Duration::from_millis(200);

/// So many Secrets are worked on at a time.
const AT_ONCE: usize = 8;

/// New pods leave one place, so that renewals are not held up for ever.
const MOST_NEW: usize = 7;

/// Whatever else is to be done leaves half of the places: a slow server must not hold up new pods.
const MOST_OTHERS: usize = 4;

/// New pods do not wait for longer on work on their Secret that is under way: it may hang at another service.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many jobs may work on one Secret, the later ones for new pods.
const MOST_OF_ONE: usize = 2;

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
    /// Tells it from every other; later ones have greater numbers.
    pub number: u64,
}

/// Holds when each Secret is to be looked at, and for what.
#[derive(Debug, Default)]
pub struct Queue {
    wanted: BTreeMap<SecretRef, BTreeMap<Class, Timestamp>>,
    running: BTreeMap<SecretRef, Vec<Running>>,
    renewals_from: Option<Timestamp>,
    given_out: u64,
}

/// A job that was given out.
#[derive(Clone, Copy, Debug)]
struct Running {
    number: u64,
    class: Class,
    began: Timestamp,
}

impl Queue {
    /// Asks for work at a time; an earlier time that is known stays.
    pub fn want(&mut self, secret: &SecretRef, class: Class, at: Timestamp) {
        let times = self.wanted.entry(secret.clone()).or_default();
        let time = times.entry(class).or_insert(at);
        *time = at.min(*time);
    }

    /// Takes the most urgent job whose time has come. Its Secret is left alone until [`Queue::done`], but for new pods:
    /// they overtake a job that takes long.
    pub fn next(&mut self, now: Timestamp) -> Option<Job> {
        let opens = self.opens();
        let (class, secret) = self
            .free()
            .filter(|(_, class, at)| *at <= now && opens(*class).is_some_and(|opens| opens <= now))
            .map(|(secret, class, at)| (class, at, secret))
            .min()
            .map(|(class, _, secret)| (class, secret.clone()))?;
        if class == Class::Renewal {
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

    /// Forgets its pace: the clock was set back, and what was put off to a time would be put off for longer.
    pub fn set_back(&mut self) {
        self.renewals_from = None;
        for running in self.running.values_mut().flatten() {
            running.began = Timestamp::MIN;
        }
    }

    /// Gives the Secret back after the job of that number.
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

    /// When the next job will be ready; none while there is no place for it.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        let opens = self.opens();
        self.free()
            .filter_map(|(_, class, at)| Some(at.max(opens(class)?)))
            .min()
    }

    /// What is wanted of Secrets that are not in other hands, and when it may begin for their sake.
    fn free(&self) -> impl Iterator<Item = (&SecretRef, Class, Timestamp)> {
        self.wanted.iter().flat_map(|(secret, times)| {
            let running = self.running.get(secret).map_or(&[][..], Vec::as_slice);
            let overtakes = running.iter().map(|running| after(running.began, PATIENCE));
            let overtakes = overtakes.max().unwrap_or(Timestamp::MIN);
            let free = move |class: &Class| match class {
                Class::New => running.len() < MOST_OF_ONE,
                Class::Renewal | Class::Cleanup => running.is_empty(),
            };
            let free = times.iter().filter(move |(class, _)| free(class));
            free.map(move |(class, at)| (secret, *class, overtakes.max(*at)))
        })
    }

    /// From when on there is a place for each class; none while all are taken.
    fn opens(&self) -> impl Fn(Class) -> Option<Timestamp> + use<> {
        let (mut new, mut others) = (0, 0);
        for running in self.running.values().flatten() {
            match running.class {
                Class::New => new += 1,
                Class::Renewal | Class::Cleanup => others += 1,
            }
        }
        let any = new + others < AT_ONCE;
        let renewals_from = self.renewals_from.unwrap_or(Timestamp::MIN);
        move |class| {
            let (place, from) = match class {
                Class::New => (new < MOST_NEW, Timestamp::MIN),
                Class::Renewal => (others < MOST_OTHERS, renewals_from),
                Class::Cleanup => (others < MOST_OTHERS, Timestamp::MIN),
            };
            (any && place).then_some(from)
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
        let first = queue.next(at(1)).unwrap();
        queue.want(&secret("a"), Class::Renewal, at(2));
        assert_eq!(queue.next(at(50_000)), None);
        assert_eq!(queue.wake(), None);
        queue.done(&secret("a"), first.number);
        assert_eq!(queue.wake(), Some(at(2)));
        let second = queue.next(at(5)).unwrap();
        queue.done(&secret("a"), second.number);
        assert_eq!(queue.wake(), None);
    }

    #[test]
    fn new_pods_overtake_one_job_on_their_secret_that_takes_long() {
        let mut queue = Queue::default();
        let mut begin = |want: bool, millis: i64| {
            if want {
                queue.want(&secret("a"), Class::New, at(millis));
            }
            queue.next(at(millis)).map(|job| job.number)
        };
        assert_eq!(begin(true, 0), Some(1));
        assert_eq!(begin(true, 999), None, "it may be done any moment");
        assert_eq!(begin(false, 1_000), Some(2));
        assert_eq!(begin(true, 3_000), None, "two are enough");
        queue.done(&secret("a"), 2);
        assert_eq!(queue.wake(), Some(at(3_000)), "and not when it was asked");
        assert_eq!(queue.next(at(3_000)).unwrap().number, 3);
        queue.done(&secret("a"), 1);
        queue.want(&secret("a"), Class::New, at(3_000));
        assert_eq!(queue.wake(), Some(at(4_000)));
        queue.set_back();
        assert!(queue.next(at(0)).is_none(), "it was not asked for so early");
        assert!(queue.next(at(3_000)).is_some());
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

    /// A queue whose jobs take a while.
    struct Sim {
        queue: Queue,
        millis: i64,
        running: Vec<(i64, SecretRef, u64)>,
        begun: Vec<(i64, Job)>,
    }

    impl Sim {
        fn new() -> Self {
            Self {
                queue: Queue::default(),
                millis: 0,
                running: Vec::new(),
                begun: Vec::new(),
            }
        }

        /// Goes on to a time by steps of 50 ms; `ended` is told of each job, and asks for more work.
        fn run(
            &mut self,
            until: i64,
            takes: impl Fn(&SecretRef) -> i64,
            mut ended: impl FnMut(&mut Queue, &SecretRef, i64),
        ) {
            let mut idle_until = self.millis;
            while self.millis < until {
                let millis = self.millis;
                let over = |(end, ..): &mut (i64, SecretRef, u64)| *end <= millis;
                for (_, secret, number) in self.running.extract_if(.., over) {
                    self.queue.done(&secret, number);
                    ended(&mut self.queue, &secret, millis);
                    idle_until = millis;
                }
                if millis >= idle_until {
                    while let Some(job) = self.queue.next(at(millis)) {
                        let end = millis + takes(&job.secret);
                        self.running.push((end, job.secret.clone(), job.number));
                        self.begun.push((millis, job));
                        assert!(self.running.len() <= AT_ONCE);
                    }
                    let wake = self.queue.wake();
                    idle_until = wake.map_or(i64::MAX, Timestamp::as_millisecond);
                    assert!(idle_until > millis, "who waits for that would spin");
                }
                self.millis += 50;
            }
        }

        fn begun_at(&self, name: &str) -> Vec<i64> {
            let of = self
                .begun
                .iter()
                .filter(|(_, job)| job.secret == secret(name));
            of.map(|(millis, _)| *millis).collect()
        }
    }

    #[test]
    fn a_new_pod_comes_before_a_thousand_due_renewals() {
        // Also where each of them takes as long as a call may.
        for takes in [50, 10_000] {
            let mut sim = Sim::new();
            for n in 0..1_000 {
                sim.queue
                    .want(&secret(&format!("r{n}")), Class::Renewal, at(0));
            }
            for second in 1..=60 {
                sim.run(second * 1_000, |_| takes, |_, _, _| {});
                let new = format!("n{second}");
                sim.queue.want(&secret(&new), Class::New, at(sim.millis));
                sim.run(sim.millis + 50, |_| 50, |_, _, _| {});
                assert_eq!(sim.begun_at(&new), [second * 1_000], "{takes} ms each");
            }
            let renewals = sim.begun.len() - 60;
            assert!((20..=301).contains(&renewals), "{renewals} renewals");
        }
    }

    #[test]
    fn one_that_always_fails_delays_nobody() {
        let mut sim = Sim::new();
        let (poisoned, mut backoff) = (secret("poisoned"), Backoff::default());
        sim.queue.want(&poisoned, Class::New, at(0));
        for n in 0..100 {
            let due = secret(&format!("r{n}"));
            sim.queue.want(&due, Class::Renewal, at(n * 6_000 + 1_000));
        }
        for second in 1..=600 {
            let takes = |secret: &SecretRef| if *secret == poisoned { 10_000 } else { 50 };
            sim.run(second * 1_000, takes, |queue, secret, now| {
                if *secret == poisoned {
                    backoff.failed(at(now), 1.0);
                    queue.want(secret, Class::Renewal, backoff.until.unwrap());
                }
            });
            let new = secret(&format!("n{second}"));
            sim.queue.want(&new, Class::New, at(sim.millis));
        }
        let tries = sim.begun_at("poisoned");
        assert!((5..=9).contains(&tries.len()), "{tries:?}");
        for second in 1..600 {
            assert_eq!(sim.begun_at(&format!("n{second}")), [second * 1_000]);
        }
        for n in 0..100 {
            let begun = sim.begun_at(&format!("r{n}"))[0];
            let due = n * 6_000 + 1_000;
            assert!((due..=due + 200).contains(&begun), "r{n} at {begun}");
        }
    }

    #[test]
    fn a_server_slower_than_our_deadline_gives_a_thousand_their_turn() {
        let mut sim = Sim::new();
        let mut failures: BTreeMap<SecretRef, Backoff> = BTreeMap::new();
        for n in 0..1_000 {
            sim.queue.want(&secret(&format!("s{n}")), Class::New, at(0));
        }
        sim.queue.want(&secret("due"), Class::Renewal, at(60_000));
        let all_tried = (1_000 / MOST_NEW as i64 + 1) * 10_000;
        sim.run(
            all_tried,
            |_| 10_000,
            |queue, secret, now| {
                let backoff = failures.entry(secret.clone()).or_default();
                backoff.failed(at(now), 0.5);
                queue.want(secret, Class::Renewal, backoff.until.unwrap());
            },
        );
        for n in 0..1_000 {
            let tries = sim.begun_at(&format!("s{n}"));
            let first = *tries.first().expect("it had its turn");
            let again = tries.get(1).map(|second| second - first);
            assert!(again.is_none_or(|wait| wait >= 10_000), "s{n}: {tries:?}");
        }
        let due = sim.begun_at("due")[0];
        // Seven places go to new pods, and whoever failed before it was due is before it.
        assert!(due <= 60_000 + 500_000, "the renewal began at {due}");
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

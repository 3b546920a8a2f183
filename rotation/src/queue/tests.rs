//! Which job comes first, which waits, and that none waits forever.

use sidescale_core::backoff::Backoff;

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn secret(namespace: &str) -> SecretRef {
    SecretRef::new(namespace, "headscale-auth-keys")
}

#[test]
fn new_pods_overtake_renewals_and_renewals_overtake_cleanup() {
    let mut queue = JobQueue::default();
    queue.want(&secret("a"), JobClass::Cleanup, at(1));
    queue.want(&secret("b"), JobClass::Renewal, at(2));
    queue.want(&secret("c"), JobClass::New, at(3));
    let order: Vec<_> = std::iter::from_fn(|| queue.next(at(10)))
        .map(|job| job.class)
        .collect();
    assert_eq!(order, [JobClass::New, JobClass::Renewal, JobClass::Cleanup]);
}

#[test]
fn a_secret_is_worked_on_once_at_a_time_and_again_if_it_changed_meanwhile() {
    let mut queue = JobQueue::default();
    queue.want(&secret("a"), JobClass::New, at(1));
    let first = queue.next(at(1)).unwrap();
    queue.want(&secret("a"), JobClass::Renewal, at(2));
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
    let mut queue = JobQueue::default();
    let mut begin = |want: bool, millis: i64| {
        if want {
            queue.want(&secret("a"), JobClass::New, at(millis));
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
    queue.want(&secret("a"), JobClass::New, at(3_000));
    assert_eq!(queue.wake(), Some(at(4_000)));
    queue.set_back();
    assert!(queue.next(at(0)).is_none(), "it was not asked for so early");
    assert!(queue.next(at(3_000)).is_some());
}

#[test]
fn renewals_that_are_due_together_run_five_a_second() {
    let mut queue = JobQueue::default();
    for namespace in ["a", "b", "c"] {
        queue.want(&secret(namespace), JobClass::Renewal, at(0));
    }
    assert!(queue.next(at(0)).is_some());
    assert_eq!(queue.next(at(199)), None);
    assert_eq!(queue.wake(), Some(at(200)));
    assert!(queue.next(at(200)).is_some());
    assert_eq!(queue.next(at(399)), None);
    queue.want(&secret("d"), JobClass::New, at(200));
    assert_eq!(queue.next(at(201)).unwrap().class, JobClass::New);
}

/// A queue whose jobs take a while.
struct Sim {
    queue: JobQueue,
    millis: i64,
    running: Vec<(i64, SecretRef, u64)>,
    begun: Vec<(i64, Job)>,
}

impl Sim {
    fn new() -> Self {
        Self {
            queue: JobQueue::default(),
            millis: 0,
            running: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// Runs until a time in steps of 50 ms; `ended` is called with each finished job, and may request more.
    fn run(
        &mut self,
        until: i64,
        takes: impl Fn(&SecretRef) -> i64,
        mut ended: impl FnMut(&mut JobQueue, &SecretRef, i64),
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
    // Also if each of them takes as long as a call may.
    for takes in [50, 10_000] {
        let mut sim = Sim::new();
        for n in 0..1_000 {
            sim.queue
                .want(&secret(&format!("r{n}")), JobClass::Renewal, at(0));
        }
        for second in 1..=60 {
            sim.run(second * 1_000, |_| takes, |_, _, _| {});
            let new = format!("n{second}");
            sim.queue.want(&secret(&new), JobClass::New, at(sim.millis));
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
    sim.queue.want(&poisoned, JobClass::New, at(0));
    for n in 0..100 {
        let due = secret(&format!("r{n}"));
        sim.queue
            .want(&due, JobClass::Renewal, at(n * 6_000 + 1_000));
    }
    for second in 1..=600 {
        let takes = |secret: &SecretRef| if *secret == poisoned { 10_000 } else { 50 };
        sim.run(second * 1_000, takes, |queue, secret, now| {
            if *secret == poisoned {
                backoff.failed(at(now), 1.0);
                queue.want(secret, JobClass::Renewal, backoff.until.unwrap());
            }
        });
        let new = secret(&format!("n{second}"));
        sim.queue.want(&new, JobClass::New, at(sim.millis));
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
        sim.queue
            .want(&secret(&format!("s{n}")), JobClass::New, at(0));
    }
    sim.queue
        .want(&secret("due"), JobClass::Renewal, at(60_000));
    let all_tried = (1_000 / MOST_NEW as i64 + 1) * 10_000;
    sim.run(
        all_tried,
        |_| 10_000,
        |queue, secret, now| {
            let backoff = failures.entry(secret.clone()).or_default();
            backoff.failed(at(now), 0.5);
            queue.want(secret, JobClass::Renewal, backoff.until.unwrap());
        },
    );
    for n in 0..1_000 {
        let tries = sim.begun_at(&format!("s{n}"));
        let first = *tries.first().expect("it had its turn");
        let again = tries.get(1).map(|second| second - first);
        assert!(again.is_none_or(|wait| wait >= 10_000), "s{n}: {tries:?}");
    }
    let due = sim.begun_at("due")[0];
    // Seven places go to new pods, and Secrets that failed before it was due come before it.
    assert!(due <= 60_000 + 500_000, "the renewal began at {due}");
}

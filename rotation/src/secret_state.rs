//! What the process remembers of one Secret between jobs: failures, contention, what was reported. State, the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::backoff::Backoff;
use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::notice::{About, Topic};
use sidescale_core::problem::Problem;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_webhook::identity::POD_SECRET;
use tracing::{debug, info, warn};

use super::in_flight::InFlight;
use super::key_status::{KeyAt, KeyStatus};
use super::outcome::{CreatedKey, JobOutcome, Unended};
use super::plan::{Blocked, KeyReason};
use super::record::DatedKey;
use super::value::Flaw;

mod contention;
mod ends;
mod notices;

use contention::Contention;
pub use ends::{Ends, KeyEnd};

/// How often a Secret that is not ours is checked: a person is about to hand it over.
const NOT_OURS_EVERY: Duration = Duration::from_secs(30);

/// Minimum time between jobs for a Secret that only others changed.
const CHANGE_GAP: Duration = Duration::from_secs(1);

/// State of one Secret in this process.
#[derive(Debug, Default)]
pub struct SecretState {
    /// State of each key, by data key.
    pub states: BTreeMap<String, KeyState>,
    /// When the keys in force expire.
    pub ends: Ends,
    /// The keys that pods join with, including those of single pods, whose expiry is not tracked.
    made: BTreeMap<String, KeyId>,
    /// The services with a key in force.
    services: BTreeSet<String>,
    /// When the last change by another writer is handled.
    changed_at: Option<Timestamp>,
    /// State that the Secret's jobs share.
    pub beside: InFlight,
    failing: BTreeMap<String, Failing>,
    /// Old keys that could not be expired, as of the last job.
    unended: BTreeMap<String, (KeyId, Failing)>,
    problem: Option<Failing>,
    /// Whether the Secret is too full for some of the keys that pods need.
    full: bool,
    fights: BTreeMap<String, Contention>,
    /// Values from other writers that the last job replaced, and why.
    refused: BTreeMap<String, Flaw>,
    /// The Secret that this one is a copy of, as the last job found.
    copied_from: Option<SecretRef>,
}

/// What to do after a job.
#[derive(Debug, Default)]
pub struct JobEffects {
    /// When to try again.
    pub retry: Option<Timestamp>,
    /// Whether the control planes' lists are needed soon: the Secret has a key that may have expired.
    pub confirm: bool,
}

/// A failure, and whether it was reported.
#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    problem: Problem,
    /// Whether the API server is unavailable, which is reported once for all Secrets.
    away: bool,
    said: bool,
}

impl Failing {
    fn new(problem: Problem, away: bool) -> Self {
        Self {
            backoff: Backoff::default(),
            problem,
            away,
            said: false,
        }
    }

    /// Returns whether to report that a key fails: once per kind of failure, and within the log limit of the namespace.
    fn is_news(
        &self,
        surroundings: &Surroundings<'_>,
        secret: &SecretRef,
        data_key: &str,
        met: &Problem,
    ) -> bool {
        if self.said && self.problem.state == met.state {
            return false;
        }
        let about = About::secret(&secret.name);
        let topic = Topic::new(&secret.namespace, &about, data_key, met.state.as_str());
        (surroundings.may_log)(&topic)
    }
}

/// What applying an outcome takes from outside.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Returns a random number from 0 to 1.
    pub jitter: &'a dyn Fn() -> f64,
    /// Whether a line about this topic may be logged again, within the limit of its namespace.
    pub may_log: &'a dyn Fn(&Topic) -> bool,
}

impl SecretState {
    /// Prepares it for other jobs than those that it was made by. With `retry`, what waits after a failure is due at once: the
    /// cause may be fixed. What was reported is not reported again.
    pub fn resume(&mut self, retry: bool) {
        self.beside = InFlight::default();
        let unended = self.unended.values_mut().map(|(_, failing)| failing);
        let failing = self.failing.values_mut().chain(unended);
        for failing in failing.chain(&mut self.problem).filter(|_| retry) {
            failing.backoff.until = None;
        }
    }

    /// Returns the keys that must not be tried now.
    pub fn held(&self, now: Timestamp) -> BTreeMap<String, Blocked> {
        let mut held = BTreeMap::new();
        for (data_key, failing) in &self.failing {
            if let Some(until) = failing.backoff.waits(now) {
                held.insert(
                    data_key.clone(),
                    Blocked {
                        state: failing.problem.state,
                        until: Some(until),
                    },
                );
            }
        }
        for (data_key, fight) in &self.fights {
            if let Some(until) = fight.held(now) {
                let (state, until) = (KeyState::Contended, Some(until));
                held.insert(data_key.clone(), Blocked { state, until });
            }
        }
        held
    }

    /// Returns the keys whose previous keys must not be expired now, because that failed a moment ago.
    pub fn resting(&self, now: Timestamp) -> BTreeSet<String> {
        let rest = self.unended.iter();
        let rest = rest.filter(|(_, (_, failing))| failing.backoff.waits(now).is_some());
        rest.map(|(data_key, _)| data_key.clone()).collect()
    }

    /// Returns the latest keys of contended data keys: no record may name them, and they are not expired.
    pub fn contended_keys(&self, now: Timestamp) -> Vec<KeyAt> {
        let fights = self.fights.values();
        fights.filter_map(|fight| fight.kept(now)).collect()
    }

    /// Returns when to handle a change by another writer: now, or one second after the previous one.
    pub fn look_at(&mut self, now: Timestamp) -> Timestamp {
        let next = self.changed_at.map_or(now, |last| after(last, CHANGE_GAP));
        let at = next.clamp(now, after(now, CHANGE_GAP));
        self.changed_at = Some(at);
        at
    }

    /// Returns the services with a key in force.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    /// Returns the status of each key that pods need.
    pub fn statuses(&self) -> BTreeMap<String, KeyStatus> {
        let states = self.states.iter();
        let status = |(data_key, state): (&String, &KeyState)| {
            let status = KeyStatus {
                state: *state,
                key: self.made.get(data_key).copied(),
            };
            (data_key.clone(), status)
        };
        states.map(status).collect()
    }

    /// Applies the outcome of a job; returns what to do next.
    pub fn apply_outcome(
        &mut self,
        secret: &SecretRef,
        outcome: JobOutcome,
        now: Timestamp,
        surroundings: &Surroundings<'_>,
    ) -> JobEffects {
        let JobOutcome {
            plan,
            failed,
            unended,
            resting,
            minted,
            undone,
            problem,
            ends,
            in_force,
            services,
            joining,
            writer,
            away,
            copied_from,
            suspects: _,
            again: _,
            overtaken,
        } = outcome;
        // Nothing was read while the API server was unavailable: the earlier state remains.
        if !away && !overtaken {
            (self.states, self.full) = (plan.states, plan.full);
            let states = &self.states;
            self.ends
                .absorb(&ends, |data_key| states.contains_key(data_key));
            self.made = joining;
            self.services = services;
        }
        self.refused.clear();
        self.copied_from = copied_from;
        if secret.name == POD_SECRET {
            // Pods come and go, and a deleted pod never returns.
            let states = &self.states;
            self.failing
                .retain(|data_key, _| states.contains_key(data_key));
            self.fights
                .retain(|data_key, _| states.contains_key(data_key));
        }
        self.apply_created(secret, minted, overtaken, now);
        for data_key in undone {
            self.fights.entry(data_key).or_default().overwritten(now);
        }
        let confirm = self.apply_process(writer.as_ref(), &in_force, overtaken);
        let mut retry = None;
        for (data_key, problem) in failed {
            let failing = self.failing.entry(data_key.clone());
            let failing = failing.or_insert_with(|| Failing::new(problem.clone(), false));
            failing.backoff.failed(now, (surroundings.jitter)());
            retry = retry.into_iter().chain(failing.backoff.until).min();
            let (state, message) = (problem.state.as_str(), problem.message.as_str());
            // A failure of the control plane is reported there first, unless it was rechecked since and is available.
            let other = problem.of_plane && failing.backoff.failures == 1;
            if !other && failing.is_news(surroundings, secret, &data_key, &problem) {
                warn!(%secret, data_key, state, error = message, "Failed to create key");
                failing.said = true;
            } else {
                debug!(%secret, data_key, state, error = message, "Failed to create key");
            }
            failing.problem = problem;
        }
        // A job that was prevented from doing all of its work has no news of old keys.
        if problem.is_none() && !overtaken {
            let again = self.apply_unexpired(secret, (unended, &resting), now, surroundings);
            retry = retry.into_iter().chain(again).min();
        }
        let again = self.apply_problem(secret, (problem, away), now, surroundings);
        let retry = retry.into_iter().chain(again).min();
        JobEffects { retry, confirm }
    }

    /// Applies the keys that a job has created.
    fn apply_created(
        &mut self,
        secret: &SecretRef,
        created: Vec<CreatedKey>,
        overtaken: bool,
        now: Timestamp,
    ) {
        for created in created {
            if let KeyReason::Refused(flaw) = created.why {
                self.refused.insert(created.data_key.clone(), flaw);
            }
            let failing = self.failing.remove(&created.data_key);
            if let Some(failing) = failing.filter(|failing| failing.said) {
                let (data_key, failures) = (&created.data_key, failing.backoff.failures);
                info!(%secret, data_key, failures, "Key creation succeeded again");
            }
            let fight = self.fights.entry(created.data_key.clone());
            // A later job may have reported a later key already.
            if !overtaken {
                fight.or_default().created(created, now);
            }
        }
    }

    /// Applies who wrote the Secret before a job; returns whether an older key of ours, which may have expired, was put back.
    fn apply_process(
        &mut self,
        writer: Option<&String>,
        in_force: &BTreeMap<String, DatedKey>,
        overtaken: bool,
    ) -> bool {
        let mut confirm = false;
        for (data_key, fight) in &mut self.fights {
            fight.written(writer);
            let current = in_force.get(data_key);
            confirm |= current.is_some_and(|current| !overtaken && fight.is_put_back(*current));
        }
        confirm
    }

    /// Applies which old keys could not be expired; returns when to try again.
    fn apply_unexpired(
        &mut self,
        secret: &SecretRef,
        (unended, resting): (BTreeMap<String, Unended>, &BTreeSet<String>),
        now: Timestamp,
        surroundings: &Surroundings<'_>,
    ) -> Option<Timestamp> {
        self.unended.retain(|data_key, (id, failing)| {
            let stays = unended.contains_key(data_key) || resting.contains(data_key);
            if !stays && failing.said {
                let (key_id, failures) = (id.0, failing.backoff.failures);
                info!(%secret, data_key, %key_id, failures, "Old key no longer needs expiring");
            }
            stays
        });
        for (data_key, unended) in unended {
            let Unended { id, problem, owned } = unended;
            let known = self.unended.entry(data_key.clone());
            let (known, failing) =
                known.or_insert_with(|| (id, Failing::new(problem.clone(), false)));
            *known = id;
            failing.backoff.failed(now, (surroundings.jitter)());
            let (key_id, state, message) = (id.0, problem.state.as_str(), problem.message.as_str());
            // As for keys that were not created: a failure of the control plane is reported there first.
            let other = problem.of_plane && failing.backoff.failures == 1;
            // Only the record says that this key is the service's, so no message may ask a person to expire it.
            let other = other || !owned;
            if !other && failing.is_news(surroundings, secret, &data_key, &problem) {
                warn!(%secret, data_key, %key_id, state, error = message, "Failed to expire old key");
                failing.said = true;
            } else {
                debug!(%secret, data_key, %key_id, state, error = message, "Failed to expire old key");
            }
            failing.problem = problem;
        }
        let tries = self.unended.values();
        tries.filter_map(|(_, failing)| failing.backoff.until).min()
    }

    fn apply_problem(
        &mut self,
        secret: &SecretRef,
        (problem, away): (Option<Problem>, bool),
        now: Timestamp,
        surroundings: &Surroundings<'_>,
    ) -> Option<Timestamp> {
        let Some(problem) = problem else {
            if let Some(was) = self.problem.take().filter(|failing| failing.said) {
                info!(%secret, was = was.problem.state.as_str(), "Secret reconciled again");
            }
            return None;
        };
        let failing = self
            .problem
            .get_or_insert_with(|| Failing::new(problem.clone(), away));
        failing.backoff.failed(now, (surroundings.jitter)());
        failing.away = away;
        let (state, message) = (problem.state.as_str(), problem.message.as_str());
        if !away && (!failing.said || failing.problem.state != problem.state) {
            warn!(%secret, state, error = message, "Failed to reconcile Secret");
            failing.said = true;
        } else {
            debug!(%secret, state, error = message, "Failed to reconcile Secret");
        }
        let not_ours = problem.state == KeyState::SecretNotOurs;
        failing.problem = problem;
        if not_ours {
            Some(after(now, NOT_OURS_EVERY))
        } else {
            failing.backoff.until
        }
    }
}

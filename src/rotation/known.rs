//! What the process remembers of one Secret between its jobs: who waits, who fights, what was said. State, the log.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::demand::SecretRef;
use super::plan::Held;
use super::plane::Trouble;
use super::planes::jitter;
use super::queue::Backoff;
use super::settle::{Minted, Outcome, Snapshot};
use super::state::State;
use crate::clock::after;
use crate::events::{About, Notice};

/// So often within an hour may another writer undo a key before it is left alone.
const FIGHTS: usize = 5;
const FIGHT_SPAN: Duration = Duration::from_secs(3_600);

/// A Secret that is not ours is looked at this often: a person is about to hand it over.
const NOT_OURS_EVERY: Duration = Duration::from_secs(30);

/// One Secret, as far as this process has to do with it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) states: BTreeMap<String, State>,
    pub(super) expiries: BTreeMap<String, Timestamp>,
    pub(super) snapshot: Option<Snapshot>,
    failing: BTreeMap<String, Failing>,
    trouble: Option<Failing>,
    made: BTreeMap<String, Made>,
}

/// What goes wrong, and whether people were told.
#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    trouble: Trouble,
    /// Whether it is the API server's being away, which is said once for all Secrets.
    away: bool,
    said: bool,
}

impl Failing {
    fn new(trouble: Trouble, away: bool) -> Self {
        Self {
            backoff: Backoff::default(),
            trouble,
            away,
            said: false,
        }
    }
}

/// The key that this process made last, and when it had to make it again though it should have been there.
#[derive(Debug, Default)]
struct Made {
    at: Timestamp,
    undone: Vec<Timestamp>,
}

impl Known {
    /// The keys that are not to be tried now.
    pub(super) fn held(&self, now: Timestamp) -> BTreeMap<String, Held> {
        let mut held = BTreeMap::new();
        for (data_key, failing) in &self.failing {
            if let Some(until) = failing.backoff.waits(now) {
                held.insert(
                    data_key.clone(),
                    Held {
                        state: failing.trouble.state,
                        until: Some(until),
                    },
                );
            }
        }
        for (data_key, made) in &self.made {
            let last = made.undone.last().filter(|last| **last <= now);
            let until = last.map(|last| after(*last, FIGHT_SPAN));
            if let Some(until) = until.filter(|until| made.undone.len() >= FIGHTS && now < *until) {
                held.insert(
                    data_key.clone(),
                    Held {
                        state: State::Contended,
                        until: Some(until),
                    },
                );
            }
        }
        held
    }

    /// Takes in what came of a job; says when to try again.
    pub(super) fn absorb(
        &mut self,
        secret: &SecretRef,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let Outcome {
            plan,
            failed,
            minted,
            trouble,
            expiries,
            away,
            suspects: _,
            again: _,
        } = outcome;
        // Nothing was read while the API server was away: what was seen before is shown on.
        if !away {
            (self.states, self.expiries) = (plan.states, expiries);
        }
        for minted in minted {
            let failing = self.failing.remove(&minted.data_key);
            if let Some(failing) = failing.filter(|failing| failing.said) {
                let (data_key, failures) = (&minted.data_key, failing.backoff.failures);
                info!(%secret, data_key, failures, "Key can be made again");
            }
            self.note(minted, now);
        }
        let mut retry = None;
        for (data_key, trouble) in failed {
            let failing = self.failing.entry(data_key.clone());
            let failing = failing.or_insert_with(|| Failing::new(trouble.clone(), false));
            failing.backoff.failed(now, jitter());
            retry = retry.into_iter().chain(failing.backoff.until).min();
            let (state, message) = (trouble.state.as_str(), trouble.message.as_str());
            // What may be the whole control plane's is said of that, unless it was asked since and did well.
            let other = trouble.of_plane && failing.backoff.failures == 1;
            if !other && (!failing.said || failing.trouble.state != trouble.state) {
                warn!(%secret, data_key, state, trouble = message, "Key was not made");
                failing.said = true;
            } else {
                debug!(%secret, data_key, state, trouble = message, "Key was not made");
            }
            failing.trouble = trouble;
        }
        retry
            .into_iter()
            .chain(self.absorb_trouble(secret, trouble, away, now))
            .min()
    }

    /// What to tell people of this Secret.
    pub(super) fn notices<'a>(
        &'a self,
        secret: &SecretRef,
        of_plane: impl Fn(&str) -> Option<&'a Trouble>,
    ) -> Vec<Notice> {
        let notice = |state: State, note: String| Notice {
            namespace: secret.namespace.clone(),
            about: About::secret(&secret.name),
            warning: true,
            reason: state.as_str(),
            note,
        };
        if let Some(Failing { trouble, away, .. }) = &self.trouble {
            // Who would take the Event is away.
            let notice = (!away).then(|| notice(trouble.state, trouble.message.clone()));
            return notice.into_iter().collect();
        }
        let mut notices: BTreeMap<State, Notice> = BTreeMap::new();
        for (data_key, state) in &self.states {
            let failing = self.failing.get(data_key).map(|failing| &failing.trouble);
            let note = match state {
                State::Ready | State::Paused => continue,
                State::QuotaExceeded => format!(
                    "key {data_key} of Secret {secret} is one too many: the namespace has as many services as \
                     rotation.maxServicesPerNamespace allows; remove some, or raise that number"
                ),
                State::Contended => format!(
                    "key {data_key} of Secret {secret} was made {FIGHTS} times within an hour because another \
                     writer keeps putting an older state back: it is made once an hour from now on; find that \
                     writer with kubectl get secret {} -n {} -o yaml --show-managed-fields",
                    secret.name, secret.namespace
                ),
                State::Degraded
                | State::NoCredentials
                | State::InvalidCredentials
                | State::SecretNotOurs
                | State::UserNotOurs
                | State::Unsupported => {
                    // What is known of the control plane by now may be newer than the state.
                    if let Some(trouble) = of_plane(data_key).or(failing) {
                        let note = || notice(trouble.state, trouble.message.clone());
                        notices.entry(trouble.state).or_insert_with(note);
                    }
                    continue;
                }
            };
            notices
                .entry(*state)
                .or_insert_with(|| notice(*state, note));
        }
        notices.into_values().collect()
    }

    fn absorb_trouble(
        &mut self,
        secret: &SecretRef,
        trouble: Option<Trouble>,
        away: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let Some(trouble) = trouble else {
            if let Some(was) = self.trouble.take().filter(|failing| failing.said) {
                info!(%secret, was = was.trouble.state.as_str(), "Secret can be used again");
            }
            return None;
        };
        let failing = self
            .trouble
            .get_or_insert_with(|| Failing::new(trouble.clone(), away));
        failing.backoff.failed(now, jitter());
        failing.away = away;
        let (state, message) = (trouble.state.as_str(), trouble.message.as_str());
        if !away && (!failing.said || failing.trouble.state != trouble.state) {
            warn!(%secret, state, trouble = message, "Secret cannot be used");
            failing.said = true;
        } else {
            debug!(%secret, state, trouble = message, "Secret cannot be used");
        }
        let not_ours = trouble.state == State::SecretNotOurs;
        failing.trouble = trouble;
        if not_ours {
            Some(after(now, NOT_OURS_EVERY))
        } else {
            failing.backoff.until
        }
    }

    /// Notes a key that was made; one that should have been there was undone by somebody.
    fn note(&mut self, minted: Minted, now: Timestamp) {
        let made = self.made.entry(minted.data_key.clone());
        let fresh = matches!(made, std::collections::btree_map::Entry::Vacant(_));
        let made = made.or_default();
        // An older key than ours, or none, stood there: ours was taken out.
        if !fresh && minted.replaced.is_none_or(|replaced| replaced < made.at) {
            // Who was seen fighting stays held to one an hour until two have gone by in peace.
            if made
                .undone
                .last()
                .is_some_and(|last| now >= after(*last, FIGHT_SPAN * 2))
            {
                made.undone.clear();
            }
            made.undone.push(now);
        }
        made.at = minted.created;
    }
}

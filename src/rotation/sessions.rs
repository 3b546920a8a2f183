//! How each control plane does, and when it is asked again. State, no I/O but the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::problem::Problem;
use super::queue::{Backoff, LONGEST_RETRY, jitter};
use super::session::{ForeignKeys, Session};
use super::state::KeyState;
use crate::clock::after;

/// A missing or refused API key is looked for this often: a person is about to make one.
const CREDENTIALS_EVERY: Duration = Duration::from_secs(5);

/// New pods may have a control plane asked again this soon.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The control planes by name.
#[derive(Debug)]
pub(super) struct Sessions(BTreeMap<String, SessionSlot>);

#[derive(Debug)]
struct SessionSlot {
    up: Option<Arc<Session>>,
    /// Kept while it is away.
    lent: Arc<ForeignKeys>,
    connecting: bool,
    /// What was met last; kept until the next answer.
    problem: Option<Problem>,
    backoff: Backoff,
    tried: Option<Timestamp>,
    next: Timestamp,
}

impl Sessions {
    /// None of them has answered yet; all are to be asked at once.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a String>, now: Timestamp) -> Self {
        Self(
            names
                .map(|name| (name.clone(), SessionSlot::new(now)))
                .collect(),
        )
    }

    /// Those to be asked now; they are taken for being asked.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        for (name, slot) in &mut self.0 {
            // A time that lies further off was set by a clock that has gone back since.
            let come = slot.next <= now || slot.next > after(now, LONGEST_RETRY);
            if slot.up.is_none() && !slot.connecting && come {
                slot.connecting = true;
                slot.tried = Some(now);
                due.push(name.clone());
            }
        }
        due
    }

    /// When the next is to be asked.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        let waiting = self
            .0
            .values()
            .filter(|slot| slot.up.is_none() && !slot.connecting);
        waiting.map(|slot| slot.next).min()
    }

    /// Those that answer.
    pub(super) fn answering(&self) -> BTreeMap<String, Arc<Session>> {
        let up = |(name, slot): (&String, &SessionSlot)| {
            Some((name.clone(), Arc::clone(slot.up.as_ref()?)))
        };
        self.0.iter().filter_map(up).collect()
    }

    /// Whether it answers.
    pub(super) fn answers(&self, name: &str) -> bool {
        self.problem(name).is_none()
    }

    /// None if it answers; else what stands in the way, as far as that is known.
    pub(super) fn problem(&self, name: &str) -> Option<Option<&Problem>> {
        match self.0.get(name) {
            Some(slot) if slot.up.is_some() => None,
            Some(slot) => Some(slot.problem.as_ref()),
            None => Some(None),
        }
    }

    /// What stands in the way of each that does not answer.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.0
            .values()
            .filter(|slot| slot.up.is_none())
            .filter_map(|slot| slot.problem.as_ref())
    }

    /// The state of each.
    pub(super) fn states(&self) -> impl Iterator<Item = (&str, KeyState)> {
        self.0.iter().map(|(name, slot)| {
            let state = match (&slot.up, &slot.problem) {
                (Some(up), _) if up.is_truncated() => KeyState::TooManyRows,
                (Some(_), _) => KeyState::Ready,
                (None, Some(problem)) => problem.state,
                (None, None) => KeyState::Degraded,
            };
            (name.as_str(), state)
        })
    }

    /// Has it asked soon, because pods wait.
    pub(super) fn retry_soon(&mut self, name: &str, now: Timestamp) {
        let slot = self
            .0
            .entry(name.to_owned())
            .or_insert_with(|| SessionSlot::new(now));
        let soonest = slot
            .tried
            .map_or(now, |tried| after(tried, RETRY_SOON).max(now));
        slot.next = slot.next.min(soonest);
    }

    /// Has it asked at once, because a call met trouble that may be all of it.
    pub(super) fn recheck(&mut self, name: &str, now: Timestamp) {
        if let Some(slot) = self.0.get_mut(name) {
            slot.up = None;
            slot.next = now;
        }
    }

    /// Takes in what came of asking; tells whether it answers now.
    pub(super) fn connected(
        &mut self,
        name: &str,
        connected: Result<Session, Problem>,
        now: Timestamp,
    ) -> bool {
        let Some(slot) = self.0.get_mut(name) else {
            return false;
        };
        slot.connecting = false;
        match connected {
            Ok(mut plane) => {
                plane.share(&slot.lent);
                match slot.problem.take() {
                    Some(was) => info!(
                        control_plane = name,
                        was = was.state.as_str(),
                        failures = slot.backoff.failures,
                        "Control plane works again"
                    ),
                    None => debug!(control_plane = name, "Control plane works"),
                }
                slot.backoff = Backoff::default();
                slot.up = Some(Arc::new(plane));
                true
            }
            Err(problem) => {
                slot.backoff.failed(now, jitter());
                let wait = slot.backoff.until.unwrap_or(now);
                slot.next = match problem.state {
                    KeyState::NoCredentials | KeyState::InvalidCredentials => {
                        wait.min(after(now, CREDENTIALS_EVERY))
                    }
                    KeyState::Ready
                    | KeyState::Degraded
                    | KeyState::SecretNotOurs
                    | KeyState::UserNotOurs
                    | KeyState::UserMissing
                    | KeyState::Unsupported
                    | KeyState::Contended
                    | KeyState::QuotaExceeded
                    | KeyState::Throttled
                    | KeyState::TooManyRows
                    | KeyState::Paused => wait,
                };
                let (state, message) = (problem.state.as_str(), problem.message.as_str());
                if slot
                    .problem
                    .as_ref()
                    .is_none_or(|known| known.state != problem.state)
                {
                    warn!(
                        control_plane = name,
                        state,
                        error = message,
                        "No keys can be made"
                    );
                } else {
                    debug!(
                        control_plane = name,
                        state,
                        error = message,
                        "Still no keys can be made"
                    );
                }
                slot.problem = Some(problem);
                false
            }
        }
    }
}

impl SessionSlot {
    fn new(now: Timestamp) -> Self {
        Self {
            up: None,
            lent: Arc::default(),
            connecting: false,
            problem: None,
            backoff: Backoff::default(),
            tried: None,
            next: now,
        }
    }
}

//! State of each control plane's session, and when to connect again. State, no I/O but the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::backoff::{Backoff, LONGEST_RETRY};
use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::time::after;
use tracing::{debug, info, warn};

use super::context::Context;
use super::session::{ForeignKeys, Session, SessionBasis};
use crate::controller::jitter::jitter;

/// How often a missing or refused API key is looked for: a person is about to create one.
const CREDENTIALS_EVERY: Duration = Duration::from_secs(5);

/// How soon new pods may cause another attempt to connect.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The sessions by name of the control plane.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<String, SessionSlot>);

#[derive(Debug)]
struct SessionSlot {
    /// None if the configuration has no such control plane.
    basis: Option<SessionBasis>,
    up: Option<Arc<Session>>,
    /// Kept while the control plane is unavailable.
    lent: Arc<ForeignKeys>,
    connecting: bool,
    /// The last problem; kept until the next successful connection.
    problem: Option<Problem>,
    backoff: Backoff,
    tried: Option<Timestamp>,
    next: Timestamp,
}

impl Sessions {
    /// Keeps the sessions, problems and back-offs of control planes whose settings are as before; all others are due to connect
    /// at once. Returns whether all settings are as before.
    pub(super) fn resume(&mut self, context: &Context, now: Timestamp) -> bool {
        let mut before = std::mem::take(&mut self.0);
        let mut same = true;
        for name in context.policy.control_planes.keys() {
            let basis = Some(SessionBasis::of(context, name));
            let known = before.remove(name).filter(|slot| slot.basis == basis);
            same &= known.is_some();
            let mut slot = known.unwrap_or_else(|| SessionSlot::new(basis, now));
            slot.connecting = false;
            self.0.insert(name.clone(), slot);
        }
        same
    }

    /// Returns the control planes to connect to now, and marks them as connecting.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        for (name, slot) in &mut self.0 {
            // A time further off was set before the clock was set back.
            let come = slot.next <= now || slot.next > after(now, LONGEST_RETRY);
            if slot.up.is_none() && !slot.connecting && come {
                slot.connecting = true;
                slot.tried = Some(now);
                due.push(name.clone());
            }
        }
        due
    }

    /// Returns when the next connection is due.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        let waiting = self
            .0
            .values()
            .filter(|slot| slot.up.is_none() && !slot.connecting);
        waiting.map(|slot| slot.next).min()
    }

    /// Returns the sessions that are connected.
    pub(super) fn answering(&self) -> BTreeMap<String, Arc<Session>> {
        let up = |(name, slot): (&String, &SessionSlot)| {
            Some((name.clone(), Arc::clone(slot.up.as_ref()?)))
        };
        self.0.iter().filter_map(up).collect()
    }

    /// Returns whether the control plane is connected.
    pub(super) fn answers(&self, name: &str) -> bool {
        self.problem(name).is_none()
    }

    /// Returns none if connected; otherwise the problem, if known.
    pub(super) fn problem(&self, name: &str) -> Option<Option<&Problem>> {
        match self.0.get(name) {
            Some(slot) if slot.up.is_some() => None,
            Some(slot) => Some(slot.problem.as_ref()),
            None => Some(None),
        }
    }

    /// Returns the problem of each control plane that is not connected.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.0
            .values()
            .filter(|slot| slot.up.is_none())
            .filter_map(|slot| slot.problem.as_ref())
    }

    /// Returns the state of each control plane.
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

    /// Makes the control plane due soon, because pods wait.
    pub(super) fn retry_soon(&mut self, name: &str, now: Timestamp) {
        let slot = self
            .0
            .entry(name.to_owned())
            .or_insert_with(|| SessionSlot::new(None, now));
        let soonest = slot
            .tried
            .map_or(now, |tried| after(tried, RETRY_SOON).max(now));
        slot.next = slot.next.min(soonest);
    }

    /// Drops the session and reconnects now, because a call met a problem that may concern the whole control plane.
    pub(super) fn recheck(&mut self, name: &str, now: Timestamp) {
        if let Some(slot) = self.0.get_mut(name) {
            slot.up = None;
            slot.next = now;
        }
    }

    /// Applies the result of an attempt to connect; returns whether the control plane is connected.
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
                        "Control plane available again"
                    ),
                    None => debug!(control_plane = name, "Control plane connected"),
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
                        "Control plane unavailable"
                    );
                } else {
                    debug!(
                        control_plane = name,
                        state,
                        error = message,
                        "Control plane still unavailable"
                    );
                }
                slot.problem = Some(problem);
                false
            }
        }
    }
}

impl SessionSlot {
    fn new(basis: Option<SessionBasis>, now: Timestamp) -> Self {
        Self {
            basis,
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

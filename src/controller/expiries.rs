//! Reports keys that should have been renewed but were not, whatever the cause.

use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::key_state::KeyState;
use sidescale_core::notice::Topic;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_rotation::demand::KeyDemand;
use sidescale_rotation::expiry_alerts::{Lifetime, TELL_EVERY, most_urgent, notice};
use sidescale_rotation::secret_state::SecretState;

use super::Loop;

/// How long a key found overdue is given: after our own downtime or a jump of the clock, it may be renewed at once.
const PATIENCE: Duration = Duration::from_secs(300);

impl Loop {
    /// Schedules the next alert about a Secret's keys.
    pub(super) fn watch_expiries(&mut self, secret: &SecretRef, now: Timestamp) {
        let Some(known) = self.secrets.get(secret) else {
            return;
        };
        let next = self
            .lives(secret, known)
            .filter_map(|(_, demand, expires, _)| {
                let life = Lifetime::new(expires, demand);
                let late = life.ending(now).map(|_| after(now, PATIENCE));
                late.or_else(|| life.next(now))
            });
        let next = next.min();
        self.endings_at = self.endings_at.into_iter().chain(next).min();
    }

    /// Reports them, if an alert is due.
    pub(super) fn report_expiries(&mut self, now: Timestamp) {
        if self.endings_at.is_none_or(|at| now < at) {
            return;
        }
        let (events, flags) = (&self.context.events, &self.context.flags);
        let mut next = None;
        for (secret, known) in &self.secrets {
            let worst = most_urgent(now, self.lives(secret, known));
            let again = worst.map(|worst| {
                let notice = notice(secret, &worst, flags);
                events.publish_every(TELL_EVERY, &notice);
                let again = events.again(&Topic::of(&notice));
                // An alert for which there was no room is tried again.
                again.unwrap_or_else(|| after(now, PATIENCE))
            });
            let lives = self.lives(secret, known);
            let times =
                lives.filter_map(|(_, demand, end, _)| Lifetime::new(end, demand).next(now));
            next = next.into_iter().chain(again).chain(times).min();
        }
        self.endings_at = next;
    }

    /// Returns the keys of a Secret that pods need, with their expiry and state.
    fn lives<'a>(
        &'a self,
        secret: &SecretRef,
        known: &'a SecretState,
    ) -> impl Iterator<Item = (&'a str, &'a KeyDemand, Timestamp, KeyState)> {
        let namespace = self.demands.namespaces.get(secret.namespace.as_str());
        let keys = namespace.and_then(|namespace| namespace.secrets.get(&secret.name));
        let keys = keys.into_iter().flatten();
        keys.filter_map(|(data_key, demand)| {
            let expires = known.ends.of(data_key)?;
            let state = known.states.get(data_key).copied();
            Some((
                data_key.as_str(),
                demand,
                expires,
                state.unwrap_or(KeyState::Degraded),
            ))
        })
    }
}

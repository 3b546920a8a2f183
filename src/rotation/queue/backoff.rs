//! How long who fails waits until the next try. Pure, but for the random number of `jitter`.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;

const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Nothing waits longer than this after a failure.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

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

/// A number from 0 to 1.
pub(in crate::rotation) fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
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

//! Back-off after failures. Pure: the random number is an argument.

use std::time::Duration;

use jiff::Timestamp;

use crate::time::after;

/// Wait after the first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Longest wait after a failure.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Wait that grows after each failure, up to five minutes. Starts without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// When it may be tried again; `None` without a failure.
    pub until: Option<Timestamp>,
}

impl Backoff {
    /// Counts a failure and starts a wait: a second, doubled with each further failure, at most [`LONGEST_RETRY`].
    /// `jitter`, from 0 to 1, picks its length between half and all of that.
    pub fn failed(&mut self, now: Timestamp, jitter: f64) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(after(now, wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)));
    }

    /// Returns until when to wait; `None` if the wait is over.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> Option<Timestamp> {
        // A time further off was set before the clock was set back.
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

//! The expiration of a key identifies it: its sub-second part is random. Pure; the random number is an argument.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::time::after;

/// Returns the expiration to request: `life` after `now`, with the last six digits of `random` as microseconds.
#[must_use]
pub fn fingerprint(now: Timestamp, life: Duration, random: u64) -> Timestamp {
    // Microseconds: the databases of Headscale store no more.
    let micros = i32::try_from(random % 1_000_000).unwrap_or_default();
    Timestamp::new(after(now, life).as_second(), micros * 1_000).unwrap_or(Timestamp::MAX)
}

/// Returns whether two expirations have one fingerprint: equal to the microsecond.
#[must_use]
pub fn same_fingerprint(one: Timestamp, other: Timestamp) -> bool {
    one.duration_since(other).abs() < SignedDuration::from_micros(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_exact_to_the_microsecond() {
        let one = fingerprint(
            Timestamp::from_second(1_000).unwrap(),
            Duration::from_secs(60),
            7_000_123,
        );
        assert_eq!(one.to_string(), "1970-01-01T00:17:40.000123Z");
        assert!(same_fingerprint(one, one));
        assert!(!same_fingerprint(
            one,
            fingerprint(
                Timestamp::from_second(1_000).unwrap(),
                Duration::from_secs(60),
                124
            )
        ));
    }
}

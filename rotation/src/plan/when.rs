//! Points in time of a plan. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Sets `place` to the earlier of the two times.
pub(super) fn earliest(place: &mut Option<Timestamp>, at: Timestamp) {
    *place = Some(place.map_or(at, |known| known.min(at)));
}

pub(super) fn before(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

//! Points in time that a plan comes to. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Makes it the earlier of the two.
pub(super) fn earliest(place: &mut Option<Timestamp>, at: Timestamp) {
    *place = Some(place.map_or(at, |known| known.min(at)));
}

pub(super) fn before(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

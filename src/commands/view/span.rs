//! Durations, as commands print them. Pure.

use jiff::SignedDuration;

/// Formats a duration for people: in the largest unit of which there are two.
pub(crate) fn span(time: SignedDuration) -> String {
    let seconds = time.as_secs().abs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (2.., _, _) => format!("{days}d"),
        (_, 2.., _) => format!("{hours}h"),
        (_, _, 2..) => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

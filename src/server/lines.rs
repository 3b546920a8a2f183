//! Rate limits for log lines that anyone who reaches the port can cause. Pure.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time after which each kind may be written once more.
const EVERY: Duration = Duration::from_secs(1);
/// Maximum burst of lines about pods, so that a rollout is logged completely.
const ROLLOUT: u32 = 50;
/// Longest name in Kubernetes; a caller that is not an API server may send more.
pub(super) const LONGEST_NAME: usize = 253;
/// Maximum length of a logged error: it may quote the request.
pub(super) const LONGEST_ERROR: usize = 512;

/// A kind of log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A request is not a review.
    Undecodable,
    /// A pod was injected.
    Injected,
    /// A pod was denied.
    Denied,
    /// An annotation is unknown.
    Remark,
}

impl LineKind {
    /// Returns the maximum burst.
    fn burst(self) -> u32 {
        match self {
            Self::Undecodable => 1,
            Self::Injected | Self::Denied | Self::Remark => ROLLOUT,
        }
    }
}

/// Counters for the lines of each kind.
#[derive(Debug, Default)]
pub(super) struct LineCounts(Mutex<[Count; 4]>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// When all lines so far would have been written at one per second.
    even: Option<Instant>,
    omitted: u64,
}

impl LineCounts {
    /// Returns `Some` if a line of `kind` may be written now, with the number omitted since the last.
    pub(super) fn admit(&self, kind: LineKind, now: Instant) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = &mut counts[kind as usize];
        let even = count.even.map_or(now, |even| even.max(now));
        if even - now > EVERY * (kind.burst() - 1) {
            count.omitted += 1;
            return None;
        }
        count.even = Some(even + EVERY);
        Some(std::mem::take(&mut count.omitted))
    }
}

/// Returns at most `most` bytes of `text`, from its start.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_one_a_second_and_counts_the_rest() {
        let start = Instant::now();
        let lines = LineCounts::default();
        for (millis, kind, want) in [
            (0, LineKind::Undecodable, Some(0)),
            (1, LineKind::Undecodable, None),
            (999, LineKind::Undecodable, None),
            // Another kind has its own count.
            (999, LineKind::Denied, Some(0)),
            (1_000, LineKind::Undecodable, Some(2)),
            (1_001, LineKind::Undecodable, None),
            (60_000, LineKind::Undecodable, Some(1)),
            // A quiet period adds no allowance.
            (60_001, LineKind::Undecodable, None),
        ] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(lines.admit(kind, now), want, "{kind:?} at {millis} ms");
        }
    }

    #[test]
    fn shows_a_rollout_whole() {
        let start = Instant::now();
        let lines = LineCounts::default();
        for kind in [LineKind::Injected, LineKind::Denied, LineKind::Remark] {
            let at_once = (0..1_000).filter(|_| lines.admit(kind, start).is_some());
            assert_eq!(at_once.count(), 50, "{kind:?}");
            let next = start + EVERY;
            assert_eq!(lines.admit(kind, next), Some(950), "{kind:?}");
            assert_eq!(lines.admit(kind, next), None, "{kind:?}");
        }
    }

    #[test]
    fn cuts_what_no_name_is_as_long_as() {
        let name = |text: &str| beginning(text, LONGEST_NAME).to_owned();
        assert_eq!(name("web"), "web");
        assert_eq!(name(&"a".repeat(1 << 20)).len(), 253);
        assert_eq!(name(&"ä".repeat(200)).len(), 252);
    }
}

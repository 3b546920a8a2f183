//! How much of a Secret is read, and for how long a call may take. Pure.

use std::time::Duration;

/// Twice the keys that a namespace may have: a megabyte of empty ones would take seven of memory.
pub(super) const MOST_DATA_KEYS: usize = 4000;

/// Labels and annotations together.
pub(super) const MOST_LABELS: usize = 1000;

/// Bounds one call: the client retries 429 and 503 by itself for much longer than a pass may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

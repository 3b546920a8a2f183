//! Limits on the size of a Secret and the duration of a call. Pure.

use std::time::Duration;

/// Twice the maximum number of keys in a namespace: a megabyte of empty ones would take seven of memory.
pub(super) const MOST_DATA_KEYS: usize = 4000;

/// Maximum number of labels and annotations together.
pub(super) const MOST_LABELS: usize = 1000;

/// Time limit of one call: on 429 and 503 the client retries for much longer than a pass may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

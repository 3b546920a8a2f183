//! Keys of others that stand or stood in Secrets of ours, as far as they were read. State, no I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control_plane::KeyId;
use crate::rotation::tailnet::ForeignRows;

/// Keys of others that pods of ours join with; it outlives a connection.
#[derive(Debug, Default)]
pub(in crate::rotation) struct ForeignKeys(Mutex<NotedKeys>);

#[derive(Debug, Default)]
struct NotedKeys {
    /// As all Secrets said when they were listed last.
    listed: ForeignRows,
    /// Noted since: a list that was under way does not have them.
    since: ForeignRows,
    complete: bool,
}

impl ForeignKeys {
    /// Adds some.
    pub(super) fn note(&self, keys: impl IntoIterator<Item = (KeyId, String)>) {
        self.noted().since.extend(keys);
    }

    /// Notes that all Secrets were read, and these keys found in them.
    pub(super) fn note_all(&self, keys: impl IntoIterator<Item = (KeyId, String)>) {
        let mut noted = self.noted();
        noted.listed = keys.into_iter().collect();
        let since = std::mem::take(&mut noted.since);
        noted.listed.extend(since);
        noted.complete = true;
    }

    /// Whether all Secrets were read once.
    pub(super) fn is_complete(&self) -> bool {
        self.noted().complete
    }

    /// The keys.
    pub(super) fn keys(&self) -> ForeignRows {
        let noted = self.noted();
        noted.listed.union(&noted.since).cloned().collect()
    }

    fn noted(&self) -> MutexGuard<'_, NotedKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

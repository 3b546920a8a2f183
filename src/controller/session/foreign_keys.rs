//! Foreign keys that are or were in Secrets of keys, as far as they were read. State, no I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sidescale_core::id::KeyId;
use sidescale_rotation::nodes::tailnet::ForeignRows;

/// Foreign keys that pods join with; outlives a session.
#[derive(Debug, Default)]
pub(in crate::controller) struct ForeignKeys(Mutex<NotedKeys>);

#[derive(Debug, Default)]
struct NotedKeys {
    /// From all Secrets, as last listed.
    listed: ForeignRows,
    /// Noted since: a listing that was running does not have them.
    since: ForeignRows,
    complete: bool,
}

impl ForeignKeys {
    /// Adds keys.
    pub(super) fn note(&self, keys: impl IntoIterator<Item = (KeyId, String)>) {
        self.noted().since.extend(keys);
    }

    /// Records that all Secrets were read, and which foreign keys they contain.
    pub(super) fn note_all(&self, keys: impl IntoIterator<Item = (KeyId, String)>) {
        let mut noted = self.noted();
        noted.listed = keys.into_iter().collect();
        let since = std::mem::take(&mut noted.since);
        noted.listed.extend(since);
        noted.complete = true;
    }

    /// Returns whether all Secrets were read once.
    pub(super) fn is_complete(&self) -> bool {
        self.noted().complete
    }

    pub(super) fn keys(&self) -> ForeignRows {
        let noted = self.noted();
        noted.listed.union(&noted.since).cloned().collect()
    }

    fn noted(&self) -> MutexGuard<'_, NotedKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Keys of others that stand or stood in Secrets of ours, as far as they were read. State, no I/O.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control_plane::KeyId;

/// Keys of others that pods of ours join with; it outlives a connection.
#[derive(Debug, Default)]
pub(in crate::rotation) struct Lent(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    keys: BTreeSet<KeyId>,
    complete: bool,
}

impl Lent {
    /// Adds some.
    pub(super) fn note(&self, keys: impl IntoIterator<Item = KeyId>) {
        self.noted().keys.extend(keys);
    }

    /// Notes that all Secrets were read, and these keys found in them.
    pub(super) fn note_all(&self, keys: impl IntoIterator<Item = KeyId>) {
        let mut noted = self.noted();
        noted.keys.extend(keys);
        noted.complete = true;
    }

    /// Whether all Secrets were read once.
    pub(super) fn is_complete(&self) -> bool {
        self.noted().complete
    }

    /// The keys.
    pub(super) fn keys(&self) -> BTreeSet<KeyId> {
        self.noted().keys.clone()
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

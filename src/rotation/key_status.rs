//! How the demanded keys do, told by the loop that makes them to whoever looks after their pods. State, no I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::demand::SecretRef;
use super::state::KeyState;
use crate::control_plane::KeyId;

/// How a demanded key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyStatus {
    pub(super) state: KeyState,
    /// The key that its pods join with; none as long as none was made.
    pub(super) key: Option<KeyId>,
}

/// How the keys of all Secrets do, by data key; clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyStatuses(Arc<Mutex<BTreeMap<SecretRef, BTreeMap<String, KeyStatus>>>>);

impl KeyStatuses {
    pub(super) fn set(&self, secret: &SecretRef, keys: BTreeMap<String, KeyStatus>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            all.remove(secret);
        } else {
            all.insert(secret.clone(), keys);
        }
    }

    /// How a key does; none if no pod needs it, or nobody has looked at its Secret yet.
    pub(super) fn of(&self, namespace: &str, secret: &str, data_key: &str) -> Option<KeyStatus> {
        let secret = SecretRef::new(namespace, secret);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&secret)?.get(data_key).copied()
    }
}

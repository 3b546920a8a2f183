//! Status of the demanded keys, shared by the rotation loop with the node monitor. State, no I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::SecretRef;

/// Status of a demanded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// State of the key.
    pub state: KeyState,
    /// The key that its pods join with; none before one was created.
    pub key: Option<KeyId>,
}

/// Status of all keys, by Secret and data key; clones share it.
#[derive(Clone, Debug, Default)]
pub struct KeyStatuses(Arc<Mutex<BTreeMap<SecretRef, BTreeMap<String, KeyStatus>>>>);

impl KeyStatuses {
    /// Replaces the statuses of one Secret's keys.
    pub fn set(&self, secret: &SecretRef, keys: BTreeMap<String, KeyStatus>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            all.remove(secret);
        } else {
            all.insert(secret.clone(), keys);
        }
    }

    /// Returns the status of a key; none if no pod needs it, or its Secret was not checked yet.
    pub fn of(&self, namespace: &str, secret: &str, data_key: &str) -> Option<KeyStatus> {
        let secret = SecretRef::new(namespace, secret);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&secret)?.get(data_key).copied()
    }
}

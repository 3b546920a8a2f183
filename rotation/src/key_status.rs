//! Status of the demanded keys, as the loop publishes it for the node monitor and the sweep. Pure.

use std::collections::BTreeMap;

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

/// Name of a control plane, and a key there.
pub type KeyAt = (String, KeyId);

/// Status of all keys, by Secret and data key.
#[derive(Clone, Debug, Default)]
pub struct KeyStatuses {
    statuses: BTreeMap<SecretRef, BTreeMap<String, KeyStatus>>,
    /// The latest keys of contended data keys, which no record may name.
    contended: BTreeMap<SecretRef, Vec<KeyAt>>,
}

impl KeyStatuses {
    /// Replaces what is known of one Secret: the status of its keys, and the latest keys of contended ones.
    pub fn set(
        &mut self,
        secret: &SecretRef,
        statuses: BTreeMap<String, KeyStatus>,
        contended: Vec<KeyAt>,
    ) {
        if statuses.is_empty() {
            self.statuses.remove(secret);
        } else {
            self.statuses.insert(secret.clone(), statuses);
        }
        if contended.is_empty() {
            self.contended.remove(secret);
        } else {
            self.contended.insert(secret.clone(), contended);
        }
    }

    /// Returns the status of a key; none if no pod needs it, or its Secret was not checked yet.
    #[must_use]
    pub fn of(&self, namespace: &str, secret: &str, data_key: &str) -> Option<KeyStatus> {
        let secret = SecretRef::new(namespace, secret);
        self.statuses.get(&secret)?.get(data_key).copied()
    }

    /// Returns whether the key may be the last one that a pod got, although no record names it.
    #[must_use]
    pub fn is_contended(&self, control_plane: &str, id: KeyId) -> bool {
        let mut all = self.contended.values().flatten();
        all.any(|(plane, key)| plane == control_plane && *key == id)
    }
}

//! Where keys are kept: Kubernetes Secrets, or a directory. I/O behind one enum.

use std::collections::BTreeMap;

/// A Secret as read: data is bytes of keys, so it prints nothing of itself.
#[derive(Clone)]
pub struct StoredSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its data, decoded.
    pub data: BTreeMap<String, zeroize::Zeroizing<Vec<u8>>>,
    /// What a write has to name: the resourceVersion, or none where the Secret is not there yet.
    pub revision: Option<String>,
}

//! A Secret: how it is named, its content as read and written, and the marks of ownership. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use zeroize::Zeroizing;

/// Name and value of the label of the Secrets that Sidescale may write.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sidescale");

/// Sidescale's name in the managedFields of what it writes.
pub const FIELD_MANAGER: &str = "sidescale";

/// Namespace and name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret within its namespace.
    pub name: String,
}

impl SecretRef {
    /// Returns a reference to the Secret of that name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Secret as read. Its data are the bytes of keys, so its `Debug` prints nothing.
#[derive(Clone)]
pub struct StoredSecret {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret within its namespace.
    pub name: String,
    /// Its labels, all of them.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, all of them.
    pub annotations: BTreeMap<String, String>,
    /// Its data by data key, decoded from base64; zeroed on drop.
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// The resourceVersion that a write has to name; `None` where the Secret does not exist yet.
    pub revision: Option<String>,
    /// The field manager of the last write, if it is known and not Sidescale.
    pub writer: Option<String>,
    /// Fields that a write leaves as they were read.
    pub kept: PreservedFields,
    /// Whether it has more parts than Sidescale reads: then its data is empty here, and it cannot be written.
    pub oversized: bool,
}

/// Fields of a Secret other than its labels, annotations and data.
#[derive(Clone, Debug, PartialEq)]
pub struct PreservedFields {
    /// Its type; `Opaque` for the Secrets that Sidescale creates.
    pub kind: String,
    /// Whether its data is immutable.
    pub immutable: bool,
    /// Its owner references.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
}

impl Default for PreservedFields {
    fn default() -> Self {
        Self {
            kind: "Opaque".to_owned(),
            immutable: false,
            owners: Vec::new(),
            finalizers: Vec::new(),
        }
    }
}

impl StoredSecret {
    /// Returns a Secret that does not exist yet, labelled as managed by Sidescale.
    #[must_use]
    pub fn absent(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())]),
            annotations: BTreeMap::new(),
            data: BTreeMap::new(),
            revision: None,
            writer: None,
            kept: PreservedFields::default(),
            oversized: false,
        }
    }

    /// Returns the number of bytes of its data and of the names of its data keys.
    #[must_use]
    pub fn size(&self) -> usize {
        let data = self.data.iter();
        data.map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            labels: _,
            annotations: _,
            data,
            revision,
            writer: _,
            kept: _,
            oversized: _,
        } = self;
        write!(
            f,
            "Secret {namespace}/{name} revision {revision:?} with {} data keys <redacted>",
            data.len()
        )
    }
}

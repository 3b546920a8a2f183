//! A Secret as it is read and written, and the marks of what is ours. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use zeroize::Zeroizing;

/// Marks the Secrets that are ours to write.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sidescale");

/// Names us in the managedFields of what we write.
pub const FIELD_MANAGER: &str = "sidescale";

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
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// What a write has to name: the resourceVersion, or none where the Secret is not there yet.
    pub revision: Option<String>,
    /// The field manager that wrote it last, if that was another's and is known.
    pub writer: Option<String>,
    /// What a write leaves as it was read.
    pub kept: PreservedFields,
    /// Whether it has more parts than are read: then its data is empty here, and it cannot be written.
    pub oversized: bool,
}

/// What a Secret has beside its labels, annotations and data.
#[derive(Clone, Debug, PartialEq)]
pub struct PreservedFields {
    /// Its type, `Opaque` for ours.
    pub kind: String,
    /// Whether its data can no longer be changed.
    pub immutable: bool,
    /// Objects that it goes with.
    pub owners: Vec<OwnerReference>,
    /// Who holds up its deletion.
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
    /// A Secret that is not there yet, labelled as ours.
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

    /// How many bytes of data it has, with the names of its data keys.
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

//! Lookup of annotations and labels, wherever they are stored. Pure.

use std::collections::BTreeMap;

/// Lookup of a value by its key in a borrowed map.
pub trait Lookup: std::fmt::Debug {
    /// Returns the value of `key`.
    fn value(&self, key: &str) -> Option<&str>;
    /// Returns all entries whose key begins with [`crate::keys::PREFIX`].
    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_>;
}

/// Metadata of a namespace that the index stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceMetadata {
    /// Value of the label `sidescale.io/inject`.
    pub inject: Option<String>,
    /// All labels of the namespace, which may open a profile or a control plane to it.
    pub labels: BTreeMap<String, String>,
    /// Annotations under [`crate::keys::PREFIX`].
    pub annotations: BTreeMap<String, String>,
}

impl Lookup for NamespaceMetadata {
    fn value(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let entries = self.annotations.iter();
        Box::new(entries.map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

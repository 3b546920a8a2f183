//! Where keys are kept: Kubernetes Secrets, or a directory. I/O behind one enum.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use zeroize::Zeroizing;

mod dir;
mod form;
mod secret;

pub use dir::DirectoryStore;
pub use secret::SecretStore;

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
    pub kept: Kept,
    /// Whether it has more parts than are read: then its data is empty here, and it cannot be written.
    pub oversized: bool,
}

/// What a Secret has beside its labels, annotations and data.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its type, `Opaque` for ours.
    pub kind: String,
    /// Whether its data can no longer be changed.
    pub immutable: bool,
    /// Objects that it goes with.
    pub owners: Vec<OwnerReference>,
    /// Who holds up its deletion.
    pub finalizers: Vec<String>,
}

impl Default for Kept {
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
            kept: Kept::default(),
            oversized: false,
        }
    }

    /// How many bytes of data it has, with the names of its data keys.
    #[must_use]
    pub fn size(&self) -> usize {
        let data = self.data.iter();
        data.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Reads one as the API server gives it, and of its managedFields who wrote last.
    ///
    /// # Errors
    /// The bytes are no Secret. The error quotes nothing of them.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        form::parse(bytes)
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

/// Says why a Secret was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote, made or removed it since it was read.
    #[error("Secret {namespace}/{name} was changed by another writer")]
    Conflict {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The server has not the right to let us.
    #[error("{verb} Secret {namespace}/{name}: forbidden (403): {message}")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The server's own words.
        message: String,
    },
    /// The server could not be asked, or refused.
    #[error("{verb} Secret {namespace}/{name}")]
    Kubernetes {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server did not answer in time.
    #[error("{verb} Secret {namespace}/{name}: no answer within {} s", secret::DEADLINE.as_secs())]
    TimedOut {
        /// What was tried.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It has more parts than are read, and a write would take off the rest.
    #[error(
        "Secret {namespace}/{name} has more than {} data keys, or more than {} labels and annotations: it is not written; remove what does not belong there",
        form::MOST_DATA_KEYS,
        form::MOST_LABELS
    )]
    TooLarge {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}")]
    File {
        /// Its path.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The record of the keys has no JSON form.
    #[error("write the record of the keys")]
    Document(#[source] serde_json::Error),
    /// A name that is no file name.
    #[error("\"{name}\" cannot be a file name: want letters, digits, \"-\", \"_\" and \".\"")]
    Name {
        /// The name.
        name: String,
    },
}

/// Keeps keys.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a directory of this machine.
    Directory(DirectoryStore),
    /// In Secrets of a cluster.
    Kubernetes(SecretStore),
    /// In memory, for the model of rotation.
    #[cfg(test)]
    Model(crate::rotation::model::doors::Door),
}

impl Store {
    /// Reads one Secret; none where there is none.
    ///
    /// # Errors
    /// The store could not be asked or refused.
    pub async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<StoredSecret>, StoreError> {
        match self {
            Self::Directory(store) => store.read(namespace, name).await,
            Self::Kubernetes(store) => store.read(namespace, name).await,
            #[cfg(test)]
            Self::Model(door) => door.read(namespace, name).await,
        }
    }

    /// Reads the Secrets of that name in all namespaces, all held at once: [`Self::fold`] holds one.
    ///
    /// # Errors
    /// The store could not be asked or refused.
    pub async fn list(&self, name: &str) -> Result<Vec<StoredSecret>, StoreError> {
        match self {
            Self::Directory(store) => store.list(name).await,
            Self::Kubernetes(store) => store.list(name).await,
            #[cfg(test)]
            Self::Model(door) => door.list(name).await,
        }
    }

    /// Gives the Secrets of that name in all namespaces one by one, never more of them at once than one.
    ///
    /// # Errors
    /// The store could not be asked or refused: what was given until then is not all, so that absence says nothing.
    pub async fn fold(&self, name: &str, each: impl FnMut(StoredSecret)) -> Result<(), StoreError> {
        match self {
            Self::Kubernetes(store) => store.fold(name, each).await,
            Self::Directory(store) => {
                store.list(name).await?.into_iter().for_each(each);
                Ok(())
            }
            #[cfg(test)]
            Self::Model(door) => {
                door.list(name).await?.into_iter().for_each(each);
                Ok(())
            }
        }
    }

    /// Writes by compare-and-swap: makes the Secret if it has no revision, else replaces just that revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another writer came first; else the store could not be asked or refused.
    pub async fn write(&self, secret: &StoredSecret) -> Result<StoredSecret, StoreError> {
        if secret.oversized {
            return Err(StoreError::TooLarge {
                namespace: secret.namespace.clone(),
                name: secret.name.clone(),
            });
        }
        match self {
            Self::Directory(store) => store.write(secret).await,
            Self::Kubernetes(store) => store.write(secret).await,
            #[cfg(test)]
            Self::Model(door) => door.write(secret).await,
        }
    }
}

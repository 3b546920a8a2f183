//! The stores of keys: Kubernetes Secrets, or a directory. I/O behind one enum.

use sidescale_core::secret::StoredSecret;

mod dir;
mod error;
mod form;
mod limits;
mod secret;

pub use dir::DirectoryStore;
pub use error::StoreError;
pub use secret::SecretStore;

/// A store of keys.
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
    /// Reads one Secret; `None` if it does not exist.
    ///
    /// # Errors
    /// The store is unavailable or refused.
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

    /// Reads the Secrets of that name in all namespaces into memory; [`Self::fold`] holds one at a time.
    ///
    /// # Errors
    /// The store is unavailable or refused.
    pub async fn list(&self, name: &str) -> Result<Vec<StoredSecret>, StoreError> {
        match self {
            Self::Directory(store) => store.list(name).await,
            Self::Kubernetes(store) => store.list(name).await,
            #[cfg(test)]
            Self::Model(door) => door.list(name).await,
        }
    }

    /// Passes the Secrets of that name in all namespaces one by one, with only one in memory at a time.
    ///
    /// # Errors
    /// The store is unavailable or refused: the Secrets until then are not all, so absence means nothing.
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

    /// Writes by compare-and-swap: creates the Secret if it has no revision, else replaces exactly that revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another writer came first; else the store is unavailable or refused.
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

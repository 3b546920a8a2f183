//! The stores of keys: Kubernetes Secrets, or a directory. I/O behind one trait.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use sidescale_core::secret::StoredSecret;

mod dir;
mod error;
mod form;
mod limits;
mod secret;

pub use dir::DirectoryStore;
pub use error::StoreError;
pub use secret::SecretStore;

/// What every kind of store can do. Object-safe.
pub trait Secrets: fmt::Debug + Send + Sync {
    /// Reads one Secret; `None` if it does not exist.
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredSecret>, StoreError>>;

    /// Passes the Secrets of that name in all namespaces one by one, with only one in memory at a time. After an error, the
    /// Secrets passed until then are not all, so absence means nothing.
    fn fold<'a>(
        &'a self,
        name: &'a str,
        each: &'a mut (dyn FnMut(StoredSecret) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Writes by compare-and-swap: creates the Secret if it has no revision, else replaces exactly that revision.
    /// [`StoreError::Conflict`] if another writer came first.
    fn write<'a>(
        &'a self,
        secret: &'a StoredSecret,
    ) -> BoxFuture<'a, Result<StoredSecret, StoreError>>;
}

/// A store of keys. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<dyn Secrets>);

impl Store {
    /// Keeps keys there.
    #[must_use]
    pub fn of(secrets: impl Secrets + 'static) -> Self {
        Self(Arc::new(secrets))
    }

    /// Reads one Secret; `None` if it does not exist.
    ///
    /// # Errors
    /// The store is unavailable or refused.
    pub async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<StoredSecret>, StoreError> {
        self.0.read(namespace, name).await
    }

    /// Reads the Secrets of that name in all namespaces into memory; [`Self::fold`] holds one at a time.
    ///
    /// # Errors
    /// The store is unavailable or refused.
    pub async fn list(&self, name: &str) -> Result<Vec<StoredSecret>, StoreError> {
        let mut found = Vec::new();
        self.fold(name, |secret| found.push(secret)).await?;
        Ok(found)
    }

    /// Passes the Secrets of that name in all namespaces one by one, with only one in memory at a time.
    ///
    /// # Errors
    /// The store is unavailable or refused: the Secrets until then are not all, so absence means nothing.
    pub async fn fold(
        &self,
        name: &str,
        mut each: impl FnMut(StoredSecret) + Send,
    ) -> Result<(), StoreError> {
        self.0.fold(name, &mut each).await
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
        self.0.write(secret).await
    }
}

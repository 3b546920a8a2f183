//! Keys in a directory: a folder per Secret, a file per data key, 0700 and 0600, replaced as a whole by a rename. I/O.
//!
//! ```text
//! ROOT/NAMESPACE/.NAME.REVISION/  one file per data key, and `.labels.json`
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sidescale_core::secret::StoredSecret;
use zeroize::Zeroizing;

use super::{Secrets, StoreError};

const LABELS: &str = ".labels.json";

/// A store in a local directory, for one process at a time.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: PathBuf,
    // Compare and swap are one step within the process.
    writing: Arc<Mutex<()>>,
}

#[derive(Default, Deserialize, Serialize)]
struct FileLabels {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl DirectoryStore {
    /// Stores keys under `root`, which the first write creates.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            writing: Arc::default(),
        }
    }

    /// Returns the path of a Secret's files.
    #[must_use]
    pub fn path(&self, namespace: &str, name: &str) -> PathBuf {
        self.root.join(namespace).join(name)
    }

    fn read_now(&self, namespace: &str, name: &str) -> Result<Option<StoredSecret>, StoreError> {
        checked(namespace)?;
        checked(name)?;
        let link = self.path(namespace, name);
        loop {
            // Resolves the link once, so that all files are of one revision.
            let folder = match link.canonicalize() {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(at(&link, source)),
            };
            let read = Self::read_folder(namespace, name, &folder);
            // If a writer removed that revision meanwhile, some or all files were missing.
            if link.canonicalize().is_ok_and(|now| now == folder) {
                return read.map(Some);
            }
        }
    }

    fn read_folder(namespace: &str, name: &str, folder: &Path) -> Result<StoredSecret, StoreError> {
        let mut secret = StoredSecret::absent(namespace, name);
        for key in entries(folder)? {
            let path = folder.join(&key);
            let value = Zeroizing::new(std::fs::read(&path).map_err(|source| at(&path, source))?);
            if key == LABELS {
                let FileLabels {
                    labels,
                    annotations,
                } = serde_json::from_slice(&value).unwrap_or_default();
                (secret.labels, secret.annotations) = (labels, annotations);
            } else {
                secret.data.insert(key, value);
            }
        }
        secret.revision = Some(revision(&secret));
        Ok(secret)
    }

    fn write_now(&self, mut secret: StoredSecret) -> Result<StoredSecret, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self
            .read_now(&secret.namespace, &secret.name)?
            .and_then(|secret| secret.revision);
        if there != secret.revision {
            return Err(StoreError::Conflict {
                namespace: secret.namespace,
                name: secret.name,
            });
        }
        secret.revision = Some(revision(&secret));
        if there == secret.revision {
            return Ok(secret);
        }
        let parent = self.root.join(&secret.namespace);
        make_folder(&parent)?;
        let link = parent.join(&secret.name);
        let old = link.canonicalize().ok();
        let folder_name = format!(".{}.{}", secret.name, uuid::Uuid::new_v4().simple());
        let folder = parent.join(&folder_name);
        make_folder(&folder)?;
        for (key, value) in &secret.data {
            checked(key)?;
            write_file(&folder.join(key), value)?;
        }
        let labels = FileLabels {
            labels: secret.labels.clone(),
            annotations: secret.annotations.clone(),
        };
        let labels = serde_json::to_vec(&labels).map_err(|error| at(&folder, error.into()))?;
        write_file(&folder.join(LABELS), &labels)?;
        let fresh = parent.join(format!("{folder_name}.link"));
        symlink(&folder_name, &fresh).map_err(|source| at(&fresh, source))?;
        std::fs::rename(&fresh, &link).map_err(|source| at(&link, source))?;
        if let Some(old) = old {
            std::fs::remove_dir_all(&old).map_err(|source| at(&old, source))?;
        }
        Ok(secret)
    }
}

impl Secrets for DirectoryStore {
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredSecret>, StoreError>> {
        let (store, namespace, name) = (self.clone(), namespace.to_owned(), name.to_owned());
        let read = blocking(move || {
            let _writing = store.writing.lock().unwrap_or_else(PoisonError::into_inner);
            store.read_now(&namespace, &name)
        });
        read.boxed()
    }

    fn fold<'a>(
        &'a self,
        name: &'a str,
        each: &'a mut (dyn FnMut(StoredSecret) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, name) = (self.clone(), name.to_owned());
        let listed = blocking(move || {
            let _writing = store.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = Vec::new();
            for namespace in entries(&store.root)? {
                found.extend(store.read_now(&namespace, &name)?);
            }
            Ok(found)
        });
        async move {
            listed.await?.into_iter().for_each(each);
            Ok(())
        }
        .boxed()
    }

    fn write<'a>(
        &'a self,
        secret: &'a StoredSecret,
    ) -> BoxFuture<'a, Result<StoredSecret, StoreError>> {
        let (store, secret) = (self.clone(), secret.clone());
        blocking(move || store.write_now(secret)).boxed()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StoreError::File {
            path: "directory store".to_owned(),
            source: io::Error::other(error),
        }),
    }
}

/// Hashes the content, so that a manual change is a new revision too.
fn revision(secret: &StoredSecret) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    for map in [&secret.labels, &secret.annotations] {
        add(&(map.len() as u64).to_be_bytes());
        for (key, value) in map {
            add(key.as_bytes());
            add(value.as_bytes());
        }
    }
    for (key, value) in &secret.data {
        add(key.as_bytes());
        add(value);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Returns the names in a folder; empty if it does not exist. Leaves out our own folders and links, which begin with a
/// dot.
fn entries(folder: &Path) -> Result<Vec<String>, StoreError> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(at(folder, source)),
    };
    let mut names = Vec::new();
    for entry in read {
        let name = entry.map_err(|source| at(folder, source))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name == LABELS || !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

fn checked(name: &str) -> Result<(), StoreError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err(StoreError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| at(path, source))
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| at(path, source))
}

fn at(path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(value: &str) -> StoredSecret {
        let mut secret = StoredSecret::absent("shop", "headscale-auth-keys");
        secret.data.insert(
            "api-authkey".to_owned(),
            Zeroizing::new(value.as_bytes().to_vec()),
        );
        secret
    }

    #[tokio::test]
    async fn the_second_of_two_writers_loses() {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(root.path());
        assert!(
            store
                .read("shop", "headscale-auth-keys")
                .await
                .unwrap()
                .is_none()
        );
        let first = store.write(&secret("one")).await.unwrap();
        assert!(matches!(
            store.write(&secret("two")).await,
            Err(StoreError::Conflict { .. })
        ));

        let mut next = first.clone();
        next.data = secret("three").data;
        let written = store.write(&next).await.unwrap();
        assert_ne!(written.revision, first.revision);
        assert!(matches!(
            store.write(&next).await,
            Err(StoreError::Conflict { .. })
        ));
        let read = store
            .read("shop", "headscale-auth-keys")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(read.data, written.data);
        assert_eq!(read.labels, written.labels);
        assert_eq!(read.revision, written.revision);
        let all = crate::store::Store::of(store);
        assert_eq!(all.list("headscale-auth-keys").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn nobody_else_may_read_and_no_old_revision_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(root.path());
        let first = store.write(&secret("one")).await.unwrap();
        let second = StoredSecret {
            data: secret("two").data,
            ..first
        };
        store.write(&second).await.unwrap();
        let folder = store.path("shop", "headscale-auth-keys");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("api-authkey")), 0o600);
        assert_eq!(std::fs::read(folder.join("api-authkey")).unwrap(), b"two");
        let left = std::fs::read_dir(root.path().join("shop")).unwrap().count();
        assert_eq!(left, 2, "the link and one revision");
    }

    #[tokio::test]
    async fn who_reads_while_another_writes_sees_a_whole_revision() {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(root.path());
        let mut last = store.write(&secret("0")).await.unwrap();
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for n in 1..200 {
                    last.data = secret(&n.to_string()).data;
                    last = store.write(&last).await.unwrap();
                }
            }
        });
        while !writer.is_finished() {
            let read = store.read("shop", "headscale-auth-keys").await.unwrap();
            assert_eq!(read.unwrap().data.len(), 1);
        }
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn a_name_that_leaves_the_folder_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(root.path());
        for name in ["../x", "", ".", "a/b"] {
            assert!(
                matches!(store.read("shop", name).await, Err(StoreError::Name { .. })),
                "{name}"
            );
        }
    }
}

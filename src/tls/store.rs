//! The authority's Secret: read, create, replace, always by compare-and-swap. I/O.

use jiff::Timestamp;
use sidescale_core::secret::{MANAGED_BY, StoredSecret};
use tracing::info;

use super::error::TlsError;
use super::state::{Authorities, Next, next};
use crate::store::{Store, StoreError};

/// Maximum attempts in a race with other replicas; each loser finds the winner's authority at its next read.
const ATTEMPTS: usize = 5;

/// Name of the Secret, and the subject of its authority.
#[derive(Clone, Debug)]
pub(super) struct CaSecret {
    pub(super) store: Store,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) dns_name: String,
}

impl CaSecret {
    /// Reads the authority; creates or replaces it if necessary.
    pub(super) async fn load(
        &self,
        now: Timestamp,
        starting: bool,
    ) -> Result<Authorities, TlsError> {
        let Self {
            store,
            namespace,
            name,
            dns_name,
        } = self;
        let mut attempt = 1;
        loop {
            let secret = store.read(namespace, name).await?;
            let data = secret.as_ref().map(|secret| &secret.data);
            let (authorities, reason) = match next(data, dns_name, now, starting)? {
                Next::Use(authorities) => return Ok(authorities),
                Next::Write(authorities, reason) => (authorities, reason),
            };
            let mut secret = secret.unwrap_or_else(|| StoredSecret::absent(namespace, name));
            if secret.labels.get(MANAGED_BY.0).map(String::as_str) != Some(MANAGED_BY.1) {
                return Err(TlsError::NotOurs {
                    namespace: namespace.clone(),
                    name: name.clone(),
                });
            }
            secret.data = authorities.to_data();
            match store.write(&secret).await {
                Ok(_) => {
                    let (generation, not_after) =
                        (authorities.generation, authorities.active.not_after());
                    match reason {
                        None => {
                            info!(secret = name, generation, %not_after, "Created the certificate authority")
                        }
                        Some(reason) => {
                            info!(secret = name, generation, %not_after, reason, "Replaced the certificate authority");
                        }
                    }
                    return Ok(authorities);
                }
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirectoryStore;

    fn secret(folder: &tempfile::TempDir) -> CaSecret {
        CaSecret {
            store: Store::of(DirectoryStore::new(folder.path().join("secrets"))),
            namespace: "sidescale".to_owned(),
            name: "ca".to_owned(),
            dns_name: "sidescale.sidescale.svc".to_owned(),
        }
    }

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[tokio::test]
    async fn all_replicas_end_with_one_authority() {
        let folder = tempfile::tempdir().unwrap();
        let secret = secret(&folder);
        let loads = futures::future::join_all((0..4).map(|_| secret.load(now(), true))).await;
        let first = loads[0].as_ref().unwrap().active.certificate();
        for loaded in &loads {
            assert_eq!(loaded.as_ref().unwrap().active.certificate(), first);
        }
    }

    #[tokio::test]
    async fn leaves_a_foreign_secret_alone() {
        let folder = tempfile::tempdir().unwrap();
        let secret = secret(&folder);
        let mut foreign = StoredSecret::absent("sidescale", "ca");
        foreign.labels.clear();
        secret.store.write(&foreign).await.unwrap();
        let error = secret.load(now(), true).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Secret sidescale/ca is not labelled app.kubernetes.io/managed-by: sidescale, so it is not changed: delete it, \
             or name another one with --ca-secret-name"
        );
    }
}

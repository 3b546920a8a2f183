//! Keys in Secrets of a cluster: get, list by name, create, and PUT with the resourceVersion. I/O.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::{Client, Error};
use zeroize::Zeroizing;

use super::{FIELD_MANAGER, Kept, StoreError, StoredSecret};

/// Bounds one call: the client retries 429 and 503 by itself for much longer than a pass may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps keys in Secrets.
#[derive(Clone)]
pub struct SecretStore {
    client: Client,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretStore")
    }
}

/// Names what is being done, for errors.
#[derive(Clone, Copy)]
struct Call<'a> {
    verb: &'static str,
    namespace: &'a str,
    name: &'a str,
}

impl SecretStore {
    /// Uses the client's cluster and account.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let call = Call {
            verb: "get",
            namespace,
            name,
        };
        let found = call.bounded(self.api(namespace).get_opt(name)).await?;
        Ok(found.map(stored))
    }

    pub(super) async fn list(&self, name: &str) -> Result<Vec<StoredSecret>, StoreError> {
        let call = Call {
            verb: "list",
            namespace: "*",
            name,
        };
        // The right to list is bound to the name, so the selector has to name it.
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let all: Api<Secret> = Api::all(self.client.clone());
        let found = call.bounded(async { all.list(&params).await }).await?;
        Ok(found.items.into_iter().map(stored).collect())
    }

    pub(super) async fn write(&self, secret: &StoredSecret) -> Result<StoredSecret, StoreError> {
        let api = self.api(&secret.namespace);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let body = kubernetes(secret);
        let (namespace, name) = (secret.namespace.as_str(), secret.name.as_str());
        let written = if secret.revision.is_none() {
            Call {
                verb: "create",
                namespace,
                name,
            }
            .bounded(api.create(&params, &body))
            .await?
        } else {
            Call {
                verb: "update",
                namespace,
                name,
            }
            .bounded(api.replace(name, &params, &body))
            .await?
        };
        Ok(stored(written))
    }

    fn api(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Call<'_> {
    async fn bounded<T>(
        self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        let Self {
            verb,
            namespace,
            name,
        } = self;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        match tokio::time::timeout(DEADLINE, call).await {
            Err(_) => Err(StoreError::TimedOut {
                verb,
                namespace,
                name,
            }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::Api(status))) if verb == "create" && status.code == 409 => {
                Err(StoreError::Conflict { namespace, name })
            }
            // A PUT meets 404 when the Secret was removed since it was read.
            Ok(Err(Error::Api(status))) if verb == "update" && matches!(status.code, 404 | 409) => {
                Err(StoreError::Conflict { namespace, name })
            }
            Ok(Err(Error::Api(status))) if status.code == 403 => Err(StoreError::Forbidden {
                verb,
                namespace,
                name,
                message: status.message.clone(),
            }),
            Ok(Err(source)) => Err(StoreError::Kubernetes {
                verb,
                namespace,
                name,
                source: Box::new(source),
            }),
        }
    }
}

fn stored(secret: Secret) -> StoredSecret {
    let Secret {
        metadata,
        data,
        immutable,
        type_,
        ..
    } = secret;
    let writer = other_writer(&metadata);
    StoredSecret {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        data: data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, Zeroizing::new(value.0)))
            .collect(),
        revision: metadata.resource_version,
        writer,
        kept: Kept {
            kind: type_.unwrap_or_else(|| Kept::default().kind),
            immutable: immutable.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
        },
    }
}

/// Who wrote last, if not we: the server notes seconds, so that of two in one second it is the other.
fn other_writer(metadata: &ObjectMeta) -> Option<String> {
    let managers = metadata.managed_fields.as_deref()?;
    let last = managers
        .iter()
        .filter_map(|entry| entry.time.as_ref())
        .max();
    let mut latest = managers.iter().filter(|entry| entry.time.as_ref() == last);
    latest.find_map(|entry| {
        entry
            .manager
            .clone()
            .filter(|manager| manager != FIELD_MANAGER)
    })
}

fn kubernetes(secret: &StoredSecret) -> Secret {
    let StoredSecret {
        namespace,
        name,
        labels,
        annotations,
        data,
        revision,
        writer: _,
        kept:
            Kept {
                kind,
                immutable,
                owners,
                finalizers,
            },
    } = secret;
    Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            labels: Some(labels.clone()),
            annotations: (!annotations.is_empty()).then(|| annotations.clone()),
            resource_version: revision.clone(),
            // A PUT without them would take them off.
            owner_references: (!owners.is_empty()).then(|| owners.clone()),
            finalizers: (!finalizers.is_empty()).then(|| finalizers.clone()),
            ..ObjectMeta::default()
        },
        data: Some(
            data.iter()
                .map(|(key, value)| (key.clone(), ByteString(value.to_vec())))
                .collect(),
        ),
        type_: Some(kind.clone()),
        immutable: immutable.then_some(true),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_who_wrote_last_if_that_was_another() {
        for (managers, want) in [
            (vec![], None),
            (vec![("sidescale", 1)], None),
            (vec![("argocd", 1), ("sidescale", 2)], None),
            (vec![("argocd", 2), ("sidescale", 1)], Some("argocd")),
            (vec![("sidescale", 1), ("argocd", 1)], Some("argocd")),
        ] {
            let managers: Vec<_> = managers
                .iter()
                .map(|(manager, second)| {
                    let time = format!("2026-01-01T00:00:{second:02}Z");
                    json!({"manager": manager, "operation": "Update", "time": time})
                })
                .collect();
            let secret = json!({"metadata": {"name": "keys", "managedFields": managers}});
            let read = stored(serde_json::from_value(secret).unwrap());
            assert_eq!(read.writer.as_deref(), want, "{managers:?}");
        }
    }
}

//! Keys in Secrets of a cluster: get, list by name, create, and PUT with the resourceVersion. I/O.

use std::future::Future;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{GetParams, ListParams, PostParams};
use kube::core::Request;
use kube::{Client, Error, Resource};
use sidescale_core::items::{Items, ListItem};
use sidescale_core::secret::{FIELD_MANAGER, StoredSecret};

use super::limits::DEADLINE;
use super::{Secrets, StoreError, form};
use crate::cluster::Body;
use crate::metadata::{Frame, Paging};

/// Maximum size of a Secret: the API server takes 1 MiB of data, and a quarter of that in annotations.
const LONGEST: usize = 4 << 20;

/// Secrets per page. The server holds a page in memory; here it is a stream.
const PAGE: u32 = 50;

/// A store in Kubernetes Secrets.
#[derive(Clone)]
pub struct SecretStore {
    client: Client,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretStore")
    }
}

/// The operation, for errors.
#[derive(Clone, Copy)]
struct StoreCall<'a> {
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

    /// Reads a page as a stream. One unreadable Secret fails the whole page: a missing one would be taken for absent,
    /// and its keys for unowned.
    async fn page(
        &self,
        params: &ListParams,
        each: &mut (dyn FnMut(StoredSecret) + Send),
    ) -> Result<Paging, Error> {
        let request = at(None).list(params).map_err(Error::BuildRequest)?;
        let mut body = Body::of(&self.client, request).await?;
        let mut items = Items::new("items", LONGEST);
        while let Some(chunk) = body.chunk(DEADLINE).await.map_err(Error::ReadEvents)? {
            items
                .push(chunk, |item| {
                    let bytes = match item {
                        ListItem::Whole(bytes) => bytes,
                        ListItem::TooLong(_) => return Err(form::unreadable()),
                    };
                    each(form::parse(bytes)?);
                    Ok(())
                })
                .map_err(Error::SerdeError)?;
            body.done();
        }
        let frame: Frame = serde_json::from_slice(&items.frame())
            .map_err(|_| Error::SerdeError(form::unreadable()))?;
        Ok(frame.metadata)
    }

    /// Makes a call that answers with one Secret.
    async fn one(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<StoredSecret, Error> {
        let request = request.map_err(Error::BuildRequest)?;
        let mut body = Body::of(&self.client, request).await?;
        let bytes = body.whole(LONGEST, DEADLINE).await;
        form::parse(&bytes.map_err(Error::ReadEvents)?).map_err(Error::SerdeError)
    }
}

impl Secrets for SecretStore {
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredSecret>, StoreError>> {
        let call = StoreCall {
            verb: "get",
            namespace,
            name,
        };
        let request = at(Some(namespace)).get(name, &GetParams::default());
        let found = call.bounded(async {
            match self.one(request).await {
                Err(Error::Api(status)) if status.code == 404 => Ok(None),
                other => other.map(Some),
            }
        });
        found.boxed()
    }

    fn fold<'a>(
        &'a self,
        name: &'a str,
        each: &'a mut (dyn FnMut(StoredSecret) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        // The right to list is limited to this name, so the selector has to contain it.
        let mut params = ListParams::default()
            .fields(&format!("metadata.name={name}"))
            .limit(PAGE);
        let pages = async move {
            loop {
                let call = StoreCall {
                    verb: "list",
                    namespace: "*",
                    name,
                };
                let page = call.bounded(self.page(&params, each)).await?;
                match page.next.filter(|next| !next.is_empty()) {
                    Some(next) => params.continue_token = Some(next),
                    None => return Ok(()),
                }
            }
        };
        pages.boxed()
    }

    fn write<'a>(
        &'a self,
        secret: &'a StoredSecret,
    ) -> BoxFuture<'a, Result<StoredSecret, StoreError>> {
        let call = async move {
            let params = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            let body = form::body(secret).map_err(StoreError::Document)?;
            let (namespace, name) = (secret.namespace.as_str(), secret.name.as_str());
            let (verb, request) = if secret.revision.is_none() {
                ("create", at(Some(namespace)).create(&params, body))
            } else {
                ("update", at(Some(namespace)).replace(name, &params, body))
            };
            let call = StoreCall {
                verb,
                namespace,
                name,
            };
            call.bounded(self.one(request)).await
        };
        call.boxed()
    }
}

/// Returns requests for the Secrets of one namespace, or of all.
fn at(namespace: Option<&str>) -> Request {
    Request::new(Secret::url_path(&(), namespace))
}

impl StoreCall<'_> {
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
            // A PUT answers 404 when the Secret was deleted since it was read.
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

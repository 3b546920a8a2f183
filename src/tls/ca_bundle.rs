//! The caBundle of our webhook configurations: reads it, writes that one field by server-side apply, watches it. I/O.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;
use sidescale_certs::Bundle;

use super::error::TlsError;

/// Time limit of one call: on 429 and 503 the client retries for much longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Duration of one watch, in seconds; the next begins with a fresh read.
const WATCH_SECONDS: u32 = 290;
/// Pause after a broken watch, which prevents a busy loop.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Identifies a configuration.
#[derive(Clone)]
pub(super) struct Configuration<K> {
    pub(super) api: Api<K>,
    pub(super) name: String,
}

/// A kind of webhook configuration.
pub(super) trait WebhookKind:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned
{
    const KIND: &str;

    /// Returns each entry's name and caBundle.
    fn parts(self) -> (ObjectMeta, Vec<(String, Option<ByteString>)>);
}

impl WebhookKind for MutatingWebhookConfiguration {
    const KIND: &str = "MutatingWebhookConfiguration";

    fn parts(self) -> (ObjectMeta, Vec<(String, Option<ByteString>)>) {
        let entries = self.webhooks.unwrap_or_default().into_iter();
        let entries = entries.map(|entry| (entry.name, entry.client_config.ca_bundle));
        (self.metadata, entries.collect())
    }
}

impl WebhookKind for ValidatingWebhookConfiguration {
    const KIND: &str = "ValidatingWebhookConfiguration";

    fn parts(self) -> (ObjectMeta, Vec<(String, Option<ByteString>)>) {
        let entries = self.webhooks.unwrap_or_default().into_iter();
        let entries = entries.map(|entry| (entry.name, entry.client_config.ca_bundle));
        (self.metadata, entries.collect())
    }
}

/// A configuration as read from the cluster.
#[derive(Clone, Debug)]
pub(super) struct Live {
    uid: String,
    revision: String,
    /// Each entry's name and bundle.
    entries: Vec<(String, Bundle)>,
}

impl Live {
    /// Whether every entry has exactly this bundle.
    pub(super) fn holds(&self, trust: &Bundle) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|(_, bundle)| bundle == trust)
    }

    /// Whether every entry trusts the authority.
    pub(super) fn trusts(&self, authority: &rustls::pki_types::CertificateDer<'_>) -> bool {
        !self.entries.is_empty()
            && self
                .entries
                .iter()
                .all(|(_, bundle)| bundle.contains(authority))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<K: WebhookKind> Configuration<K> {
    /// Reads the configuration.
    pub(super) async fn read(&self) -> Result<Live, TlsError> {
        let missing = || TlsError::Missing {
            kind: K::KIND,
            name: self.name.clone(),
        };
        let found = self
            .bounded("get", self.api.get_opt(&self.name))
            .await?
            .ok_or_else(missing)?;
        self.live(found)
    }

    /// Writes the bundle into every entry. With the uid an apply cannot create a configuration that was deleted.
    pub(super) async fn write(&self, live: &Live, trust: &Bundle) -> Result<Live, TlsError> {
        let bundle = ByteString(trust.to_pem().into_bytes());
        let entries: Vec<_> = live
            .entries
            .iter()
            .map(|(name, _)| json!({ "name": name, "clientConfig": { "caBundle": bundle } }))
            .collect();
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": K::KIND,
            "metadata": { "name": self.name, "uid": live.uid },
            "webhooks": entries,
        });
        // Sidescale owns this field: other writers are overwritten.
        let params = PatchParams::apply("sidescale").force();
        self.bounded(
            "apply",
            self.api.patch(&self.name, &params, &Patch::Apply(&body)),
        )
        .await?;
        self.read().await
    }

    /// Resolves when the configuration may have changed since `live` was read.
    pub(super) async fn changed(&self, live: &Live) {
        let params = WatchParams::default()
            .fields(&format!("metadata.name={}", self.name))
            .timeout(WATCH_SECONDS);
        let Ok(events) = self.api.watch(&params, &live.revision).await else {
            return tokio::time::sleep(WATCH_PAUSE).await;
        };
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_)) => {
                    return;
                }
                Ok(WatchEvent::Bookmark(_)) => {}
                Ok(WatchEvent::Error(_)) | Err(_) => break,
            }
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }

    fn live(&self, found: K) -> Result<Live, TlsError> {
        let (metadata, entries) = found.parts();
        if entries.is_empty() {
            return Err(TlsError::NoEntries {
                kind: K::KIND,
                name: self.name.clone(),
            });
        }
        let entries = entries.into_iter().map(|(name, bundle)| {
            let bundle = bundle.map(|bytes| bytes.0).unwrap_or_default();
            (name, Bundle::from_pem(&bundle))
        });
        Ok(Live {
            uid: metadata.uid.unwrap_or_default(),
            revision: metadata.resource_version.unwrap_or_default(),
            entries: entries.collect(),
        })
    }

    async fn bounded<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, TlsError> {
        let name = self.name.clone();
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(TlsError::Configuration {
                verb,
                kind: K::KIND,
                name,
                source: Box::new(source),
            }),
            Err(_) => Err(TlsError::TimedOut {
                verb,
                kind: K::KIND,
                name,
                seconds: DEADLINE.as_secs(),
            }),
        }
    }
}

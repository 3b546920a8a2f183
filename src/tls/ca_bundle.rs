//! The trust list in our webhook configurations: read, written by server-side apply of that one field, watched. I/O.

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

/// Bounds one call: the client retries 429 and 503 by itself for much longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Is how long one watch lasts, in seconds; the next begins with a fresh reading.
const WATCH_SECONDS: u32 = 290;
/// Keeps a broken watch from becoming a loop without pause.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Finds a configuration.
#[derive(Clone)]
pub(super) struct Configuration<K> {
    pub(super) api: Api<K>,
    pub(super) name: String,
}

/// A kind of webhook configuration.
pub(super) trait WebhookKind:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned
{
    /// Its name.
    const KIND: &str;

    /// Each entry's name and caBundle.
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

/// Holds what is live.
#[derive(Clone, Debug)]
pub(super) struct Live {
    uid: String,
    revision: String,
    /// Each entry's name and list.
    entries: Vec<(String, Bundle)>,
}

impl Live {
    /// Whether every entry holds just this list.
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

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<K: WebhookKind> Configuration<K> {
    /// Reads it.
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

    /// Writes the list into every entry. The uid keeps an apply from making a configuration that somebody deleted.
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
        // The field is ours alone: whoever else wrote it, wrote over us.
        let params = PatchParams::apply("sidescale").force();
        self.bounded(
            "apply",
            self.api.patch(&self.name, &params, &Patch::Apply(&body)),
        )
        .await?;
        self.read().await
    }

    /// Is ready when the configuration may have changed since `live` was read.
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

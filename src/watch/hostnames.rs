//! The owners of hostnames, by a watch of the ConfigMap that the leading replica writes. I/O.

use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use sidescale_webhook::hostnames::ClaimedHostnames;
use tracing::{debug, info};

use super::feed::{Feed, WatchTarget};
use super::namespaces::report;
use crate::cluster;
use crate::metadata::ObjectMetadata;
use crate::outage::Outage;

/// How soon a failed read is retried.
const RETRY: Duration = Duration::from_secs(10);

const DEADLINE: Duration = Duration::from_secs(5);

/// The last written owners; shared with the webhook, which reads them when a workload is applied.
#[derive(Debug, Default)]
pub struct Hostnames(RwLock<Arc<ClaimedHostnames>>);

impl Hostnames {
    /// Returns what is known; empty before the first read.
    #[must_use]
    pub fn get(&self) -> Arc<ClaimedHostnames> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is known.
    pub fn replace(&self, claimed: ClaimedHostnames) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(claimed);
    }

    /// Watches until it is dropped. The watch delivers metadata only, which shows when to read the object.
    pub async fn run(&self, client: Client, namespace: &str, name: &str) {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let subject = WatchTarget {
            what: "hostnames",
            path: format!("/api/v1/namespaces/{namespace}/configmaps").into(),
            labels: None,
            fields: Some(format!("metadata.name={name}")),
        };
        let read = |bytes: &[u8]| ObjectMetadata::of_secret(bytes);
        let mut events = pin!(Feed::new(client, subject, read).events().default_backoff());
        let (mut outage, mut stale) = (Outage::default(), false);
        loop {
            let batch = tokio::select! {
                batch = events.next() => batch,
                () = tokio::time::sleep(RETRY), if stale => Some(Ok(Vec::new())),
            };
            match batch {
                None => return,
                Some(Err(error)) => report(&error, "hostnames", &mut outage),
                Some(Ok(batch)) => {
                    let changes = |event: &Event<ObjectMetadata>| match event {
                        Event::Init | Event::InitApply(_) => false,
                        Event::InitDone | Event::Apply(_) | Event::Delete(_) => true,
                    };
                    stale |= batch.iter().any(changes);
                    if stale && outage.recovered().is_some() {
                        info!("Watch of hostnames recovered");
                    }
                }
            }
            if stale {
                stale = !self.read(&api, name).await;
            }
        }
    }

    /// Reads the object; returns whether that succeeded.
    async fn read(&self, api: &Api<ConfigMap>, name: &str) -> bool {
        match cluster::within(DEADLINE, api.get_opt(name)).await {
            Ok(map) => {
                let data = map.and_then(|map| map.data).unwrap_or_default();
                self.replace(ClaimedHostnames::read(&data));
                true
            }
            Err(error) => {
                let error = cluster::chain(&error);
                debug!(name, error, "Failed to read hostnames");
                false
            }
        }
    }
}

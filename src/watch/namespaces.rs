//! The namespaces' annotations under our prefix, by a metadata-only watch. I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use kube::Client;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::keys::{INJECT, PREFIX};
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::feed::{Feed, WatchTarget};
use crate::cluster;
use crate::config::Current;
use crate::metadata::ObjectMetadata;
use crate::outage::Outage;

/// Every namespace that was seen; shared with the webhook, which reads it at each review.
#[derive(Debug)]
pub struct Namespaces {
    seen: RwLock<HashMap<Box<str>, SeenNamespace>>,
    // Counts the relevant changes; `None` until all namespaces were seen once.
    changes: watch::Sender<Option<u64>>,
}

/// What is stored about a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SeenNamespace {
    metadata: Arc<NamespaceMetadata>,
    uid: Option<u128>,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            seen: RwLock::default(),
            changes: watch::Sender::new(None),
        }
    }
}

impl Namespaces {
    /// Returns what is known about a namespace; `None` if it was not seen yet.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<NamespaceMetadata>> {
        self.seen
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .map(|seen| Arc::clone(&seen.metadata))
    }

    /// Returns the uid of a namespace, if known.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u128> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(name)?.uid
    }

    /// Notifies of relevant changes; holds `None` until all namespaces were seen once.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<u64>> {
        self.changes.subscribe()
    }

    /// Whether all namespaces were seen once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.changes.borrow().is_some()
    }

    /// Stores a namespace, for tests and for commands without a cluster.
    pub fn insert(&self, name: &str, metadata: NamespaceMetadata) {
        self.put(
            name.into(),
            SeenNamespace {
                metadata: Arc::new(metadata),
                uid: None,
            },
        );
    }

    fn put(&self, name: Box<str>, seen: SeenNamespace) {
        let old = self.write().insert(name, seen.clone());
        if old != Some(seen) {
            self.changed();
        }
    }

    /// Stores namespaces that were listed once.
    pub(crate) fn take_listed(&self, listed: impl Iterator<Item = ObjectMeta>) {
        for metadata in listed {
            let (name, metadata) = kept(metadata);
            self.insert(&name, metadata);
        }
    }

    /// Marks the namespaces as complete.
    pub fn set_synced(&self) {
        self.changes
            .send_if_modified(|changes| changes.is_none() && changes.replace(0).is_none());
    }

    /// Watches until it is dropped; logs a problem once and retries. A new policy may use other labels.
    pub async fn run(&self, client: Client, mut policies: Current) {
        loop {
            let policy = Arc::clone(&policies.borrow_and_update());
            let selecting = policy.namespace_labels();
            let others = async {
                let other = |new: &Arc<Policy>| new.namespace_labels() != selecting;
                if policies.wait_for(other).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = self.watch(client.clone(), &selecting) => return,
                () = others => {}
            }
        }
    }

    async fn watch(&self, client: Client, selecting: &BTreeSet<&str>) {
        let subject = WatchTarget {
            what: "namespaces",
            path: "/api/v1/namespaces".into(),
            labels: None,
            fields: None,
        };
        let read = |bytes: &[u8]| ObjectMetadata::of_namespace(bytes, selecting);
        let mut events = pin!(Feed::new(client, subject, read).events().default_backoff());
        let mut fresh = HashMap::new();
        let mut outage = Outage::default();
        while let Some(batch) = events.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    report(&error, "namespaces", &mut outage);
                    continue;
                }
            };
            for event in batch {
                // The beginning of a list proves nothing yet.
                let works = !matches!(event, Event::Init | Event::InitApply(_));
                if works && outage.recovered().is_some() {
                    info!("Watch of namespaces recovered");
                }
                self.take(event, &mut fresh);
            }
        }
    }

    fn take(&self, event: Event<ObjectMetadata>, fresh: &mut HashMap<Box<str>, SeenNamespace>) {
        match event {
            Event::Init => fresh.clear(),
            Event::InitApply(namespace) => {
                let (name, seen) = seen(namespace);
                fresh.insert(name, seen);
            }
            Event::InitDone => {
                *self.write() = std::mem::take(fresh);
                self.set_synced();
                self.changed();
            }
            Event::Apply(namespace) => {
                let (name, seen) = seen(namespace);
                self.put(name, seen);
            }
            Event::Delete(namespace) => {
                self.write().remove(&namespace.name);
                self.changed();
            }
        }
    }

    fn changed(&self) {
        self.changes.send_if_modified(|changes| {
            if let Some(changes) = changes {
                *changes += 1;
            }
            changes.is_some()
        });
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Box<str>, SeenNamespace>> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Converts a namespace of the watch into its stored form.
fn seen(namespace: ObjectMetadata) -> (Box<str>, SeenNamespace) {
    let owned = |(key, value): (Box<str>, Box<str>)| (String::from(key), String::from(value));
    let labels: BTreeMap<_, _> = namespace.labels.into_iter().map(owned).collect();
    let metadata = NamespaceMetadata {
        inject: labels.get(INJECT).cloned(),
        labels,
        annotations: namespace.annotations.into_iter().map(owned).collect(),
    };
    let seen = SeenNamespace {
        metadata: Arc::new(metadata),
        uid: namespace.uid,
    };
    (namespace.name, seen)
}

/// Keeps all labels, and the annotations under our prefix.
fn kept(metadata: ObjectMeta) -> (Box<str>, NamespaceMetadata) {
    let labels = metadata.labels.unwrap_or_default();
    let inject = labels.get(INJECT).cloned();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key.starts_with(PREFIX));
    (
        metadata.name.unwrap_or_default().into(),
        NamespaceMetadata {
            inject,
            labels,
            annotations,
        },
    )
}

/// Logs the first of a series of failures as a warning, the others quietly.
pub(super) fn report(error: &watcher::Error, what: &'static str, outage: &mut Outage) {
    // A server that forgot our position is an everyday event: the list starts again.
    let forgotten = matches!(error, watcher::Error::WatchError(status) if status.code == 410);
    let error_text = cluster::chain(error);
    if !forgotten && !cluster::is_away(error) && outage.failed() {
        warn!(
            what,
            error = error_text,
            "Watch failed: keeping the last known state, retrying"
        );
    } else {
        debug!(what, error = error_text, "Watch failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_was_created_again_has_another_uid_and_is_news() {
        let object = |uid: &str| {
            let object = serde_json::json!({"metadata": {"name": "shop", "uid": uid}});
            ObjectMetadata::of_namespace(object.to_string().as_bytes(), &BTreeSet::new()).unwrap()
        };
        let namespaces = Namespaces::default();
        let mut fresh = HashMap::new();
        assert_eq!(namespaces.uid("shop"), None);
        let uids = [1, 1, 2].map(|uid| uuid::Uuid::from_u128(uid).to_string());
        namespaces.take(Event::InitApply(object(&uids[0])), &mut fresh);
        namespaces.take(Event::InitDone, &mut fresh);
        assert_eq!(namespaces.uid("shop"), Some(1));
        let mut changes = namespaces.changes();
        for (uid, news) in [(&uids[1], false), (&uids[2], true)] {
            changes.mark_unchanged();
            namespaces.take(Event::Apply(object(uid)), &mut fresh);
            assert_eq!(changes.has_changed().unwrap(), news, "{uid}");
        }
        assert_eq!(namespaces.uid("shop"), Some(2));
        // An API server with invalid uids is accepted; they report no replacement.
        namespaces.take(Event::Apply(object("ns-1")), &mut fresh);
        assert_eq!(namespaces.uid("shop"), None);
    }
}

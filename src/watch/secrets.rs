//! The Secrets that hold keys, by a metadata-only watch of their name: reports changes by other writers. I/O.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;

use futures::StreamExt;
use futures::stream::{SelectAll, select_all};
use kube::Client;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::Event;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::Demands;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tracing::info;

use super::feed::{Feed, WatchTarget};
use super::namespaces::report;
use crate::metadata::ObjectMetadata;
use crate::outage::Outage;

/// The resourceVersion of every Secret that was seen.
#[derive(Debug, Default)]
struct SecretIndex {
    seen: HashMap<SecretRef, Box<str>>,
    listed: bool,
    /// A list in progress.
    fresh: HashMap<SecretRef, Box<str>>,
    touched: BTreeSet<SecretRef>,
}

/// Watches until it is dropped; counts the changes of key Secrets by other writers in the demands.
pub(crate) async fn run(client: Client, policy: &Policy, demands: &watch::Sender<Demands>) {
    let names = policy.auth_key_secrets();
    // One watch per name: the right to watch is limited to the name, so the selector has to contain it.
    let watches: SelectAll<_> = select_all(names.into_iter().map(|name| {
        let subject = WatchTarget {
            what: "key Secrets",
            path: "/api/v1/secrets".into(),
            labels: None,
            fields: Some(format!("metadata.name={name}")),
        };
        let mut index = SecretIndex::default();
        let events = Feed::new(client.clone(), subject, ObjectMetadata::of_secret).events();
        Box::pin(events.default_backoff().map(move |batch| {
            let batch = batch?.into_iter();
            Ok(batch
                .flat_map(|event| index.take(event))
                .collect::<BTreeSet<_>>())
        }))
    }));
    let mut watches = pin!(watches);
    let mut outage = Outage::default();
    while let Some(touched) = watches.next().await {
        match touched {
            Ok(touched) => {
                if outage.recovered().is_some() {
                    info!("Watch of key Secrets recovered");
                }
                if !touched.is_empty() {
                    demands.send_modify(|demands| {
                        for secret in touched {
                            *demands.changes.entry(secret).or_default() += 1;
                        }
                    });
                }
            }
            Err(error) => report(&error, "key Secrets", &mut outage),
        }
    }
}

impl SecretIndex {
    /// Handles an event, and returns the Secrets that another writer has changed.
    fn take(&mut self, event: Event<ObjectMetadata>) -> BTreeSet<SecretRef> {
        match event {
            Event::Init => {
                self.fresh.clear();
                self.touched.clear();
            }
            Event::InitApply(secret) => {
                let ours = secret.last_write.is_ours();
                let (name, version) = kept(secret);
                // The first list is no change: all Secrets are read at the start anyway.
                if self.listed && !ours && self.seen.get(&name) != Some(&version) {
                    self.touched.insert(name.clone());
                }
                self.fresh.insert(name, version);
            }
            Event::InitDone => {
                let gone = std::mem::replace(&mut self.seen, std::mem::take(&mut self.fresh));
                let gone = gone
                    .into_keys()
                    .filter(|name| !self.seen.contains_key(name));
                let mut touched = std::mem::take(&mut self.touched);
                touched.extend(gone);
                self.listed = true;
                return touched;
            }
            Event::Apply(secret) => {
                let ours = secret.last_write.is_ours();
                let (name, version) = kept(secret);
                self.seen.insert(name.clone(), version);
                return (!ours).then_some(name).into_iter().collect();
            }
            Event::Delete(secret) => {
                let (name, _) = kept(secret);
                self.seen.remove(&name);
                return BTreeSet::from([name]);
            }
        }
        BTreeSet::new()
    }
}

fn kept(secret: ObjectMetadata) -> (SecretRef, Box<str>) {
    let name = SecretRef {
        namespace: secret.namespace.into(),
        name: secret.name.into(),
    };
    (name, secret.version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(namespace: &str, version: &str, managers: &[(&str, u8)]) -> ObjectMetadata {
        let managers: Vec<_> = managers
            .iter()
            .map(|(manager, second)| {
                json!({"manager": manager, "operation": "Update", "time": format!("2026-01-01T00:00:{second:02}Z")})
            })
            .collect();
        let secret = json!({
            "metadata": {
                "namespace": namespace, "name": "keys", "resourceVersion": version, "managedFields": managers,
            },
        });
        ObjectMetadata::of_secret(secret.to_string().as_bytes()).unwrap()
    }

    fn names(touched: BTreeSet<SecretRef>) -> Vec<String> {
        touched.into_iter().map(|secret| secret.namespace).collect()
    }

    #[test]
    fn tells_of_what_others_do() {
        let mut index = SecretIndex::default();
        let mut apply = |version: &str, managers: &[(&str, u8)]| {
            names(index.take(Event::Apply(secret("a", version, managers))))
        };
        assert!(apply("1", &[("sidescale", 1)]).is_empty(), "ours");
        assert_eq!(apply("2", &[("sidescale", 1), ("kubectl", 2)]), ["a"]);
        assert!(
            apply("3", &[("sidescale", 3), ("kubectl", 2)]).is_empty(),
            "ours again"
        );
        assert_eq!(
            apply("4", &[("sidescale", 3), ("kubectl", 3)]),
            ["a"],
            "in doubt"
        );
        assert_eq!(apply("5", &[]), ["a"], "unknown");
        let gone = index.take(Event::Delete(secret("a", "6", &[("sidescale", 3)])));
        assert_eq!(names(gone), ["a"]);
    }

    #[test]
    fn a_second_list_tells_of_what_was_missed() {
        let mut index = SecretIndex::default();
        let mut list = |secrets: Vec<ObjectMetadata>| {
            index.take(Event::Init);
            for secret in secrets {
                assert!(index.take(Event::InitApply(secret)).is_empty());
            }
            names(index.take(Event::InitDone))
        };
        let other = [("kubectl", 1)];
        let same = || secret("same", "1", &other);
        let first = vec![
            same(),
            secret("gone", "1", &other),
            secret("other", "1", &other),
        ];
        assert!(list(first).is_empty(), "the first list is no news");
        let ours = secret("ours", "2", &[("sidescale", 1)]);
        let second = vec![same(), secret("other", "2", &other), ours];
        assert_eq!(list(second), ["gone", "other"]);
    }
}

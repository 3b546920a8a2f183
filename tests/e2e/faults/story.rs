//! History of one Secret from a ledger: keys created, named and expired, and whether one was expired that a pod could still read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sidescale_core::id::KeyId;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::record::{DATA_KEY, Record};

use crate::support::proxy::{Exchange, Server};

/// The product waits a second longer for an answer, including the round trip.
const PATIENCE: Duration = Duration::from_secs(9);

/// Events, read only from requests and answers.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Values by id, of every key that the control plane has created.
    pub(super) made: BTreeMap<KeyId, String>,
    /// Number of keys created for each user.
    pub(super) of_user: BTreeMap<String, usize>,
    /// Keys that the control plane has expired when asked to.
    pub(super) ended: BTreeSet<KeyId>,
    /// Keys whose answer came after the product had given up waiting: orphans of a slow server, not of a crash.
    pub(super) late: BTreeSet<KeyId>,
    /// Keys that the Secret has ever named.
    named: BTreeSet<KeyId>,
    /// The Secret as last written.
    pub(super) secret: Option<Written>,
    /// Most keys at a time that no Secret named and no process was about to write.
    pub(super) most_orphans: usize,
}

/// A Secret that was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    record: Record,
    values: BTreeMap<String, String>,
}

impl Story {
    /// Reads the ledger from its beginning.
    pub(super) fn read(exchanges: &[Exchange], secret: &str) -> Result<Self> {
        let mut story = Self::default();
        for exchange in exchanges {
            let Exchange {
                server,
                method,
                path,
                request,
                status,
                answer,
                took,
            } = exchange;
            if !(200..300).contains(status) {
                continue;
            }
            match (server, method.as_str(), path.as_str()) {
                (Server::Headscale, "POST", "/api/v1/preauthkey") => {
                    story.was_made(answer, *took)?;
                }
                (Server::Headscale, "POST", "/api/v1/preauthkey/expire") => {
                    story.was_ended(request)?;
                }
                (Server::Kubernetes, "POST" | "PUT", path) if path.contains("/secrets") => {
                    let answer: Value = serde_json::from_slice(answer)?;
                    if answer["metadata"]["name"] == secret {
                        story.was_written(&answer)?;
                    }
                }
                _ => {}
            }
        }
        Ok(story)
    }

    /// Returns the keys that the Secret names for these services, if that is all: nothing else alive, nothing in progress.
    pub(super) fn settled(&self, services: &[impl AsRef<str>]) -> Result<BTreeSet<KeyId>> {
        let secret = self.secret.as_ref().context("no Secret")?;
        let mut current = BTreeSet::new();
        for service in services {
            let data_key = format!("{}-authkey", service.as_ref());
            let key = secret.record.keys.get(&data_key).context("no record")?;
            let id = key.current.as_ref().context("no key")?.id;
            ensure!(key.intent.is_none(), "a key is being made");
            ensure!(key.previous.is_empty(), "an old key goes on");
            let value = secret.values.get(&data_key);
            ensure!(
                value.is_some() && value == self.made.get(&id),
                "the value is not that of key {}",
                id.0
            );
            current.insert(id);
        }
        let alive = self.alive();
        ensure!(alive == current, "alive: {alive:?}, want {current:?}");
        Ok(current)
    }

    /// Returns the keys that were created and not expired.
    pub(super) fn alive(&self) -> BTreeSet<KeyId> {
        let made: BTreeSet<KeyId> = self.made.keys().copied().collect();
        &made - &self.ended
    }

    fn was_made(&mut self, answer: &[u8], took: Duration) -> Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let key = &answer["preAuthKey"];
        let value = key["key"].as_str().context("a key without value")?;
        let id = id(&key["id"])?;
        self.made.insert(id, value.to_owned());
        if took > PATIENCE {
            self.late.insert(id);
        }
        let user = key["user"]["name"].as_str().context("nobody's key")?;
        *self.of_user.entry(user.to_owned()).or_default() += 1;
        Ok(())
    }

    fn was_ended(&mut self, request: &[u8]) -> Result<()> {
        let request: Value = serde_json::from_slice(request)?;
        let id = id(&request["id"])?;
        let current = self
            .secret
            .as_ref()
            .map(|secret| secret.record.in_force().contains(&("default", id)));
        ensure!(
            current != Some(true),
            "key {} was ended while the Secret named it",
            id.0
        );
        self.ended.insert(id);
        Ok(())
    }

    fn was_written(&mut self, secret: &Value) -> Result<()> {
        let mut values = BTreeMap::new();
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let value = STANDARD.decode(value.as_str().context("no text")?)?;
            values.insert(key.clone(), String::from_utf8(value)?);
        }
        let name = SecretRef {
            namespace: text(&secret["metadata"]["namespace"])?,
            name: text(&secret["metadata"]["name"])?,
        };
        let record = Record::parse(values.get(DATA_KEY).map(|text| text.as_bytes()), &name)?;
        let current = record.keys.values().filter_map(|key| key.current.as_ref());
        self.named.extend(current.map(|current| current.id));
        let orphans = &(&self.alive() - &self.named) - &self.late;
        self.most_orphans = self.most_orphans.max(orphans.len());
        self.secret = Some(Written { record, values });
        Ok(())
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("no text")?.to_owned())
}

fn id(value: &Value) -> Result<KeyId> {
    let text = value.as_str().context("an id that is no text")?;
    Ok(KeyId(text.parse()?))
}

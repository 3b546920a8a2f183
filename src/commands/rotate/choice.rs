//! Selects the keys that a person names, those of them that can be replaced, and decides when they are. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Result, bail};
use sidescale_core::id::{Id, KeyId};
use sidescale_core::secret::SecretRef;
use sidescale_rotation::ownership::ownership;
use sidescale_rotation::plan::Ownership;
use sidescale_rotation::record::{KeyRecord, Record};
use sidescale_webhook::identity::POD_SECRET;

use crate::commands::view::inventory::Inventory;

/// A service, or all services of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateTarget {
    pub namespace: String,
    /// The service; `None` for all.
    pub service: Option<String>,
}

/// A key to replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) data_key: String,
    pub(super) service: String,
    pub(super) id: KeyId,
}

/// The keys to replace, by Secret.
pub(super) type ChosenBySecret = BTreeMap<SecretRef, Vec<Chosen>>;

/// A key that is not replaced, and why.
pub(super) type LeftOut = (String, String);

impl FromStr for RotateTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, service) = match text.split_once('/') {
            Some((namespace, service)) => (namespace, Some(service)),
            None => (text, None),
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !is_name(namespace) || !service.is_none_or(is_name) {
            return Err(
                "want NAMESPACE/SERVICE such as shop/api, or NAMESPACE for all its services"
                    .to_owned(),
            );
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            service: service.map(str::to_owned),
        })
    }
}

impl RotateTarget {
    fn fits(&self, namespace: &str, service: &str) -> bool {
        self.namespace == namespace && self.service.as_deref().is_none_or(|name| name == service)
    }
}

/// Selects the keys of the targets; all keys if there is no target.
///
/// # Errors
/// A target matches nothing, or a service that cannot get a new key now.
pub(super) fn choose(
    inventory: &Inventory,
    targets: &[RotateTarget],
) -> Result<(ChosenBySecret, Vec<LeftOut>)> {
    let mut chosen = ChosenBySecret::new();
    let mut left_out = Vec::new();
    let mut met = vec![false; targets.len()];
    let mut known = Vec::new();
    for (name, secret) in &inventory.secrets {
        let (owned, record, problem) = ownership(secret);
        let demand = inventory.demand(name);
        for (data_key, key) in &record.keys {
            let service = format!("{}/{}", name.namespace, key.service);
            known.push(service.clone());
            let fitting: Vec<_> = (0..targets.len())
                .filter(|at| targets[*at].fits(&name.namespace, &key.service))
                .collect();
            if fitting.is_empty() && !targets.is_empty() {
                continue;
            }
            for at in &fitting {
                met[*at] = true;
            }
            let why = match (owned, &key.current) {
                (Ownership::NotOurs, _) => problem.as_ref().map(|problem| problem.message.clone()),
                (Ownership::Paused, _) => Some(format!(
                    "Secret {name} is paused: kubectl annotate secret {} --namespace {} sidescale.io/paused-",
                    name.name, name.namespace
                )),
                (Ownership::Ours, _) if name.name == POD_SECRET => Some(format!(
                    "key {data_key} belongs to one pod and works only once, so there is nothing to rotate; a new pod gets a \
                     new key: kubectl delete pod --namespace {} with the name of the pod",
                    name.namespace
                )),
                (Ownership::Ours, None) => {
                    Some("it has no key yet; Sidescale creates one by itself".to_owned())
                }
                (Ownership::Ours, Some(current)) if !demand.contains_key(data_key) => {
                    Some(format!(
                        "no pod uses it, so Sidescale expires it after rotation.unusedKeysAfter; to expire it now: headscale preauthkeys expire --id {}",
                        current.id.0
                    ))
                }
                (Ownership::Ours, Some(_)) => None,
            };
            match (why, &key.current) {
                (None, Some(current)) => chosen.entry(name.clone()).or_default().push(Chosen {
                    data_key: data_key.clone(),
                    service: key.service.clone(),
                    id: current.id,
                }),
                (why, _) => {
                    let why = why.unwrap_or_default();
                    if fitting.iter().any(|at| targets[*at].service.is_some()) {
                        bail!("{service}: {why}");
                    }
                    left_out.push((service, why));
                }
            }
        }
    }
    if let Some(at) = met.iter().position(|met| !met) {
        let RotateTarget { namespace, service } = &targets[at];
        let name = service.iter().fold(namespace.clone(), |name, service| {
            format!("{name}/{service}")
        });
        known.sort();
        known.dedup();
        bail!(
            "{name} has no key: want one of {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        );
    }
    Ok((chosen, left_out))
}

impl Chosen {
    fn of<'a>(&self, record: &'a Record) -> Option<&'a KeyRecord> {
        record.keys.get(&self.data_key)
    }

    /// Whether a new key is in use, and with `revoke` the old one has expired.
    pub(super) fn is_replaced(&self, record: &Record, revoke: bool) -> bool {
        let Some(key) = self.of(record) else {
            return false;
        };
        let other = key
            .current
            .as_ref()
            .is_some_and(|current| current.id != self.id);
        let ended = key.previous.iter().all(|previous| previous.id != self.id);
        other && (ended || !revoke)
    }

    /// Returns the outcome in one line.
    pub(super) fn outcome(&self, namespace: &str, record: &Record, revoke: bool) -> String {
        let key = self.of(record);
        let new = key
            .and_then(|key| key.current.as_ref())
            .map_or(Id::from(0), |current| current.id.0);
        let mut previous = key.into_iter().flat_map(|key| &key.previous);
        let end = previous.find(|previous| previous.id == self.id);
        let (service, old) = (&self.service, self.id.0);
        if key.is_some_and(|key| key.lent.contains(&self.id)) {
            return format!(
                "{namespace}/{service}: key {old} was replaced by {new}; it was added manually, and stays valid until its \
                 owner expires it"
            );
        }
        match end {
            Some(end) if !revoke => format!(
                "{namespace}/{service}: key {old} was replaced by {new}, and expires at {}",
                jiff::Timestamp::from_second(end.expire_at.as_second()).unwrap_or(end.expire_at)
            ),
            Some(_) | None => {
                format!("{namespace}/{service}: key {old} was replaced by {new}, and has expired")
            }
        }
    }
}

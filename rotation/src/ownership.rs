//! Ownership of a Secret of keys, from its label and annotations, and its record. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::secret::{MANAGED_BY, SecretRef, StoredSecret};
use sidescale_webhook::keys::{ADOPT, PAUSED};

use super::plan::Ownership;
use super::record::Record;

/// Returns who owns the Secret, and its record; if Sidescale may not write it, the problem says what to do.
pub fn ownership(secret: &StoredSecret) -> (Ownership, Record, Option<Problem>) {
    let is = |key: &str| {
        secret
            .annotations
            .get(key)
            .is_some_and(|value| value == "true")
    };
    let ours = secret
        .labels
        .get(MANAGED_BY.0)
        .is_some_and(|value| value == MANAGED_BY.1);
    let name = SecretRef::new(&secret.namespace, &secret.name);
    let not_ours = |message| {
        let problem = Problem {
            state: KeyState::SecretNotOurs,
            message,
            of_plane: false,
        };
        (Ownership::NotOurs, Record::default(), Some(problem))
    };
    if !ours && !is(ADOPT) {
        let (label, value) = MANAGED_BY;
        return not_ours(format!(
            "Secret {name} was not created by Sidescale: it lacks the label {label}={value}, so Sidescale does not write to \
             it; hand it over with: kubectl annotate secret {} -n {} {ADOPT}=true; or ask the operator to set \
             authKeySecretName in the profile to another name",
            name.name, name.namespace
        ));
    }
    match Record::named(secret) {
        Ok(record) if is(PAUSED) => (Ownership::Paused, record, None),
        Ok(record) => (Ownership::Ours, record, None),
        Err(message) => not_ours(message),
    }
}

/// Returns the keys that pods join with, by Secret and data key.
pub fn joining<'a>(
    secrets: impl IntoIterator<Item = (&'a SecretRef, &'a StoredSecret)>,
) -> BTreeMap<(&'a SecretRef, String), KeyId> {
    let keys = secrets.into_iter().flat_map(|(name, secret)| {
        let keys = record(secret).keys.into_iter();
        keys.filter_map(move |(data_key, key)| Some(((name, data_key), key.joins_with()?)))
    });
    keys.collect()
}

/// Returns the foreign keys that people put into Secrets, with their control planes and the Secrets' namespaces.
pub fn foreign_keys<'a>(
    secrets: impl IntoIterator<Item = &'a StoredSecret>,
) -> BTreeSet<(String, KeyId, String)> {
    let mut lent = BTreeSet::new();
    for secret in secrets {
        for key in record(secret).keys.values() {
            let (plane, namespace) = (&key.control_plane, &secret.namespace);
            let ids = key.lent.iter();
            lent.extend(ids.map(|id| (plane.clone(), *id, namespace.clone())));
        }
    }
    lent
}

/// Returns the record. An unreadable one is reported where the Secret is reconciled.
pub fn record(secret: &StoredSecret) -> Record {
    Record::of(secret).unwrap_or_default()
}

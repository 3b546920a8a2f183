//! The balance at the end: where every created key is. Tests.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use sidescale_core::id::KeyId;

use super::World;

/// Where every created key is at the end.
#[derive(Clone, Debug, Default)]
pub(in crate::controller::model) struct Ledger {
    pub(in crate::controller::model) created: u64,
    pub(in crate::controller::model) in_secrets: u64,
    pub(in crate::controller::model) expired: u64,
    /// Valid, of users with our tag, and in no record: what a sweep for orphans finds.
    pub(in crate::controller::model) reported: u64,
    /// The ids of these keys.
    pub(in crate::controller::model) unknown: BTreeSet<KeyId>,
    /// Lost when Headscale was restored from a backup.
    pub(in crate::controller::model) restored_away: u64,
}

impl World {
    /// Compares the created keys with those that are there. Everything is at rest.
    pub(in crate::controller::model) fn ledger(&self, wanted: &BTreeSet<String>) -> Ledger {
        let (named, live) = (self.named(), self.live());
        for data_key in wanted {
            if !named.get(data_key).is_some_and(|key| live.contains(key)) {
                self.wrong(&format!("{data_key} has no living key in the end"));
            }
        }
        for record in self.records().read.values().flatten() {
            for (data_key, key) in &record.keys {
                let tidy = key.intent.is_none() && key.abandoned.is_empty();
                if !tidy || !key.previous.is_empty() {
                    self.wrong(&format!("{data_key} is not tidy in the end: {key:?}"));
                }
            }
        }
        let there = self.issued();
        let in_secrets = self.in_secrets();
        let mut ledger = Ledger::default();
        for (serial, made) in self.made.iter().filter(|(_, made)| !made.hers) {
            ledger.created += 1;
            if made.swept {
                ledger.expired += 1;
            } else if !there.contains_key(serial) {
                ledger.restored_away += 1;
            } else if in_secrets.contains(serial) {
                ledger.in_secrets += 1;
            } else if !live.contains(serial) {
                ledger.expired += 1;
            } else {
                // The sweep may only find keys that were forgotten because a Secret or Headscale was restored.
                let hour = SignedDuration::from_hours(1);
                if self.forgetting.iter().all(|at| made.at > *at + hour) {
                    self.wrong(&format!("key {serial} is alive, and no record names it"));
                }
                ledger.reported += 1;
                ledger.unknown.extend(there.get(serial));
            }
        }
        ledger
    }
}

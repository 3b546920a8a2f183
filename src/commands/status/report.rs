//! The report of `status`: a row per key, and its problems. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use sidescale_webhook::profile::Policy;

use super::fold::fold;
use super::missing;
use super::row::{Hints, StatusRow};
use super::secret::SecretRows;
use crate::commands::view::held::PlaneView;
use crate::commands::view::inventory::Inventory;

/// The complete report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StatusReport {
    /// The keys, by namespace, service and control plane.
    pub(crate) keys: Vec<StatusRow>,
}

impl StatusReport {
    /// Judges every Secret as rotation itself would.
    pub(crate) fn new(
        now: Timestamp,
        inventory: &Inventory,
        policy: &Policy,
        planes: &BTreeMap<String, PlaneView>,
        hints: &Hints,
    ) -> Self {
        let secrets = inventory.all_secrets();
        let mut keys: Vec<StatusRow> = secrets
            .iter()
            .flat_map(|name| SecretRows::new(now, name, inventory, policy, planes).rows(hints))
            .collect();
        keys = fold(keys);
        missing::miss(now, &mut keys, inventory, planes);
        keys.sort_by(|one, other| one.order().cmp(&other.order()));
        Self { keys }
    }

    /// Returns the number of keys that failed verification.
    pub(crate) fn unverified(&self) -> usize {
        let wrong = |key: &&StatusRow| key.verified == Some(false);
        self.keys.iter().filter(wrong).count()
    }
}

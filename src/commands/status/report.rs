//! What `status` shows: a row for each key, and what is wrong with it. Pure.

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

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StatusReport {
    /// The keys, by namespace, service and control plane.
    pub(crate) keys: Vec<StatusRow>,
}

impl StatusReport {
    /// Looks at every Secret as rotation itself would.
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

    /// How many keys were verified and are not as they should be.
    pub(crate) fn unverified(&self) -> usize {
        let wrong = |key: &&StatusRow| key.verified == Some(false);
        self.keys.iter().filter(wrong).count()
    }
}

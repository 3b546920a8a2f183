//! Removes what is no longer used: keys that no Secret knows, rows of expired keys, users without a service. I/O.

use std::collections::BTreeSet;

use sidescale_core::problem::Problem;
use sidescale_rotation::retention::removal::{Removal, decide};
use tracing::{debug, info};

use super::shared::NodeMonitor;
use crate::controller::session::Session;
use crate::controller::sweep::{Confirmation, Removed, listed, records, remove};

/// Maximum number of removals in one sweep, so that it does not delay checks for long; the next one follows soon.
const MOST_ENDED: usize = 100;

impl NodeMonitor {
    /// Sweeps one control plane; returns whether there is more to do.
    pub(super) async fn sweep(&self, name: &str, plane: &Session) -> Result<bool, Problem> {
        let context = &self.context;
        let survey = plane.survey().await?;
        // Read after the survey: a key created in between is in the records, not in the survey.
        let listed = listed(context).await;
        if let Err(problem) = &listed {
            debug!(
                control_plane = name,
                error = problem,
                "Sweep limited to orphaned keys: failed to list Secrets"
            );
        }
        let records = listed.ok().map(records);
        let records = records.as_ref();
        let demands = self.demands.borrow().clone();
        let now = context.clock.now();
        let mut left = MOST_ENDED;
        let mut unread = BTreeSet::new();
        for removal in decide(now, name, &survey, records, &demands, &context.policy) {
            if left == 0 {
                break;
            }
            if let Removal::Orphan { owner, key, .. } = &removal
                && (unread.contains(&owner.namespace)
                    || self.view.borrow().keys.is_contended(name, key.id))
            {
                continue;
            }
            if let Removal::User { .. } = &removal {
                let again = Confirmation::read(context, plane).await?;
                let demands = self.demands.borrow().clone();
                if !again.confirms(context, name, &demands, &removal) {
                    continue;
                }
            }
            match remove(context, name, plane, &removal).await? {
                Removed::Yes => {
                    left -= 1;
                    told(name, &removal);
                }
                Removed::StillReferenced => {}
                Removed::Unread(problem) => {
                    if let Removal::Orphan { owner, .. } = removal {
                        let namespace = owner.namespace.clone();
                        info!(
                            control_plane = name,
                            namespace,
                            error = problem,
                            "Orphaned keys skipped: failed to read the Secrets of their namespace"
                        );
                        unread.insert(namespace);
                    }
                }
            }
        }
        Ok(left == 0 || records.is_some() && !demands.synced)
    }
}

fn told(control_plane: &str, removal: &Removal<'_>) {
    match removal {
        Removal::Orphan { key, user, owner } => info!(
            control_plane,
            namespace = owner.namespace,
            user,
            key_id = %key.id.0,
            "Expired a key that no Secret names"
        ),
        Removal::Row { key } => info!(
            control_plane,
            key_id = %key.0,
            why = "over_for_long",
            "Deleted an expired key"
        ),
        Removal::Node { id, name, user, .. } => info!(
            control_plane,
            user,
            node_id = %id.0,
            name,
            "Deleted a node that no pod needs"
        ),
        Removal::User { id, name } => info!(
            control_plane,
            user = name,
            user_id = %id.0,
            "Deleted a user without services"
        ),
    }
}
